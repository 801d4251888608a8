"""What stands around binary convolutions in some schemes: scales of their output, learned
(XNOR-Net++, Real-to-Binary) or determined by the input (XNOR-Net), and thresholds of their input
(ReActNet)."""

from __future__ import annotations

import functools
import math

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError

#: Of the factors of each case of `LearnedScale`, the axes of [height, width, channels] that they
#: vary along.
_CASES = {1: ("c",), 2: ("hwc",), 3: ("c", "hw"), 4: ("c", "h", "w")}


@register
class LearnedScale(keras.layers.Layer):
    """The input times learned scales, at first 1: XNOR-Net++ (arXiv 1909.13863, §4), where the
    scales are the product of one, two or three weights.

    Args:
        case: 1: one scale per channel, which folds into a convolution's own in Larq Compute Engine.
            2: one per channel and pixel. 3: channels × pixels. 4: channels × rows × columns, the
            published network's. With 2 to 4 the weights fit one image size only, and the scales
            stay a multiplication in the exported file, with a factor for each channel and pixel:
            the bytes that costs count.

    Input and output shape: [batch, height, width, channels].

    Raises:
        BnasLarqError: another case, or (when it is built) images of unknown size with 2 to 4.

    Example:
        >>> layer = LearnedScale(4)
        >>> layer(tf.ones([1, 2, 3, 5])).shape
        TensorShape([1, 2, 3, 5])
        >>> [tuple(weight.shape) for weight in layer.weights]
        [(5,), (2, 1, 1), (1, 3, 1)]
    """

    def __init__(self, case: int = 1, **kwargs) -> None:
        if case not in _CASES:
            raise BnasLarqError(
                f"The cases of a learned scale are 1 to 4. Received: case={case!r}."
            )
        super().__init__(**kwargs, autocast=False)
        self.case = case

    def build(self, input_shape) -> None:
        sizes = dict(zip("hwc", input_shape[1:], strict=True))
        self.factors = []
        for axes in _CASES[self.case]:
            shape = [sizes["c"]] if axes == "c" else [sizes[a] if a in axes else 1 for a in "hwc"]
            if None in shape:
                raise BnasLarqError(
                    "Scales of pixels need images of a known size. "
                    f"Received: {tuple(input_shape)}. Give the input a size, or use case 1."
                )
            name = "scale" if self.case == 1 else f"scale_{axes}"
            self.factors.append(self.add_weight(name, shape, initializer="ones"))
        super().build(input_shape)

    @property
    def deployed_scales(self) -> int:
        """How many factors a file holds: of the weights' product; read by the cost count."""
        shapes = (factor.shape for factor in self.factors)
        return math.prod(functools.reduce(tf.broadcast_static_shape, shapes))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        values = tf.cast(inputs, tf.float32)
        scales = functools.reduce(tf.multiply, map(tf.convert_to_tensor, self.factors))
        if self.case == 1:
            return tf.cast(values * scales, inputs.dtype)
        # Flat, because Larq Compute Engine (0.16) takes any constant that ends in the channels for
        # scales of the convolution's channels.
        scales = tf.reshape(scales, [-1])
        scaled = tf.reshape(values, [-1, scales.shape[0]]) * scales
        return tf.cast(tf.reshape(scaled, [-1, *inputs.shape[1:]]), inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "case": self.case}


@register
class InputScale(keras.layers.Layer):
    """XNOR-Net's K (arXiv 1603.05279, §3.2, eq. 11): the mean of |I| over the channels and over
    each window that a convolution reads, in which padded pixels count as 0.

    Args:
        kernel_size, strides, dilation_rate: the convolution's, in both directions; it pads SAME.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/strides⌉,
    ⌈width/strides⌉, 1].

    Example:
        >>> InputScale(3)(tf.constant([[[[1.0, -2.0]]]])).numpy().ravel().tolist()
        [0.1666...]
    """

    def __init__(
        self, kernel_size: int, strides: int = 1, dilation_rate: int = 1, **kwargs
    ) -> None:
        super().__init__(**kwargs, autocast=False)
        self.kernel_size, self.strides, self.dilation_rate = kernel_size, strides, dilation_rate

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        magnitudes = tf.reduce_mean(tf.abs(tf.cast(inputs, tf.float32)), axis=-1, keepdims=True)
        size = self.kernel_size
        window = tf.fill([size, size, 1, 1], 1.0 / size**2)
        means = tf.nn.conv2d(magnitudes, window, self.strides, "SAME", dilations=self.dilation_rate)
        return tf.cast(means, inputs.dtype)

    def get_config(self) -> dict:
        window = {"kernel_size": self.kernel_size, "strides": self.strides}
        return {**super().get_config(), **window, "dilation_rate": self.dilation_rate}


@register
class ChannelShift(keras.layers.Layer):
    """The input less a learned threshold per channel, at first 0: with a sign behind it, ReActNet's
    RSign (arXiv 2003.03488, eq. 3).

    Input and output shape: [batch, height, width, channels].

    Example:
        >>> layer = ChannelShift()
        >>> layer(tf.constant([1.0, 2.0], shape=[1, 1, 1, 2])).numpy().ravel().tolist()
        [1.0, 2.0]
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)

    def build(self, input_shape) -> None:
        self.threshold = self.add_weight("threshold", [input_shape[-1]], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(inputs, tf.float32) - self.threshold, inputs.dtype)


def gate(name: str, channels: int, reduction: int = 8) -> list[keras.layers.Layer]:
    """Real-to-Binary's data-driven scale G (arXiv 2003.11535, §4.3): a factor from 0 to 1 for each
    channel of a convolution's output, from the means of its real input.

    Args:
        name: prefix of the layers' names.
        channels: of the convolution's output.
        reduction: the layer between has `channels`/`reduction` units (ours where a convolution has
            fewer input channels, by which larq_zoo counts).

    Returns:
        Layers from [batch, height, width, any] to [batch, 1, 1, channels].

    Example:
        >>> scale = tf.ones([2, 4, 4, 16])
        >>> for layer in gate("gate", 32):
        ...     scale = layer(scale)
        >>> scale.shape
        TensorShape([2, 1, 1, 32])
    """
    pool = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool", autocast=False)
    sizes = (("squeeze", max(1, channels // reduction), "relu"), ("excite", channels, "sigmoid"))
    dense = [
        keras.layers.Conv2D(units, 1, activation=kind, use_bias=False, name=f"{name}_{part}")
        for part, units, kind in sizes
    ]
    return [pool, *dense]
