"""Convolution and pooling layers of candidates, stems and shortcuts, and functions that make them.

Strided layers come in two paddings: `same` (TensorFlow's) and `symmetric`. The papers' programs pad
both sides alike; TensorFlow's SAME pads the end first, and only that exports to 1 bit. Weights
trained with one padding need it to give equal outputs. At stride 1 both are the same.
"""

from __future__ import annotations

from bnas_larq.backend import keras, lq, register, tf, unbounded_kernels
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers.activations import UNCHANGED, SchemeOptions
from bnas_larq.layers.binary_convolution import BinaryConv2D, MixedPrecisionConv2D
from bnas_larq.layers.convolution_kernels import grouped_convolution
from bnas_larq.layers.fixed_settings import FixedSettings, check_fixed
from bnas_larq.layers.quantizers import get_scheme

PADDINGS = ("same", "symmetric")


def check_padding(padding: str) -> None:
    """Raise BnasLarqError unless `padding` is `same` or `symmetric`."""
    if padding not in PADDINGS:
        raise BnasLarqError(
            f"Padding is 'same' or 'symmetric'. Received: {padding!r}; "
            f"{nearest(str(padding), PADDINGS)}"
        )


def check_own_convolution(scheme: str, name: str, padding: str) -> None:
    """Raise BnasLarqError for a padding that a scheme's own convolutions do not have."""
    if padding != "same":
        raise BnasLarqError(
            f"Convolutions of the scheme {scheme} have SAME padding. "
            f"Received: padding={padding!r} of {name}. Use 'same', or another scheme."
        )


# -- layers ----------------------------------------------------------------------------------------


@register
class SymmetricQuantConv2D(FixedSettings, lq.layers.QuantConv2D):
    """`QuantConv2D` that pads dilation·(kernel − 1)/2 zeros on every side, behind its quantizer.

    Zeros stay zeros (they are padded behind the sign), for which Larq Compute Engine has no 1-bit
    kernel.

    Args:
        filters, kernel_size, strides: as of `QuantConv2D`.
        padding: `"symmetric"`.
        **kwargs: as of `QuantConv2D`, except `pad_values` and `data_format`.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/stride⌉,
    ⌈width/stride⌉, filters] for odd kernels.

    Raises:
        BnasLarqError: another padding, or a setting that is not in `kwargs`.

    Example:
        >>> SymmetricQuantConv2D(4, 3, strides=2)(tf.zeros([1, 8, 8, 2])).shape
        TensorShape([1, 4, 4, 4])
    """

    # Keras' convolution is given images that are padded already.
    fixed = {"padding": "valid", "pad_values": 0.0, "data_format": "channels_last"}

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "symmetric",
        **kwargs,
    ) -> None:
        check_fixed(type(self).__name__, {"padding": padding}, {"padding": "symmetric"})
        super().__init__(filters, kernel_size, strides, **kwargs)

    def _margins(self) -> list[int]:
        sizes = zip(self.kernel_size, self.dilation_rate, strict=True)
        return [dilation * (kernel - 1) // 2 for kernel, dilation in sizes]

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        rows, columns = self._paddings(inputs.shape[1:3])
        return super().convolution_op(tf.pad(inputs, [[0, 0], rows, columns, [0, 0]]), kernel)

    def _paddings(self, sizes) -> list[list[int]]:
        """[before, after] of height and width, less what no window reaches at the end.

        Larq Compute Engine (0.16) takes equal margins before a VALID convolution for SAME padding
        if the output has SAME's size, although SAME pads an even size at stride 2 at the end only:
        the file would compute something else.
        """
        paddings = []
        settings = zip(
            sizes, self._margins(), self.kernel_size, self.dilation_rate, self.strides, strict=True
        )
        for size, margin, kernel, dilation, stride in settings:
            after = margin
            if size is not None:
                unused = (size + 2 * margin - dilation * (kernel - 1) - 1) % stride
                after = max(0, margin - unused)
            paddings.append([margin, after])
        return paddings

    def compute_output_shape(self, input_shape) -> tf.TensorShape:
        batch, *sizes, channels = tf.TensorShape(input_shape).as_list()
        padded = [
            None if s is None else s + 2 * m for s, m in zip(sizes, self._margins(), strict=True)
        ]
        return super().compute_output_shape(tf.TensorShape([batch, *padded, channels]))


@register
class SymmetricPooling2D(keras.layers.Layer):
    """3×3-style pooling that pads (pool − 1)/2 on every side; averages exclude the padding.

    Args:
        kind: `"max"` or `"avg"`.
        pool_size, strides: of height and width.

    Raises:
        BnasLarqError: another kind.

    Example:
        >>> SymmetricPooling2D("avg", strides=2)(tf.ones([1, 4, 4, 1])).numpy().ravel().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, kind: str, pool_size: int = 3, strides: int = 1, **kwargs) -> None:
        if kind not in ("max", "avg"):
            raise BnasLarqError(f"A pool's kind is 'max' or 'avg'. Received: {kind!r}.")
        super().__init__(**kwargs, autocast=False)
        self.kind, self.pool_size, self.strides = kind, pool_size, strides

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        margin = (self.pool_size - 1) // 2
        pads = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
        if self.kind == "max":
            padded = tf.pad(inputs, pads, constant_values=inputs.dtype.min)
            return tf.nn.max_pool2d(padded, self.pool_size, self.strides, "VALID")
        # Both averages divide by the whole window; their ratio divides by the pixels inside it.
        inside = tf.pad(tf.ones_like(inputs[:1, :, :, :1]), pads)
        total = tf.nn.avg_pool2d(tf.pad(inputs, pads), self.pool_size, self.strides, "VALID")
        return total / tf.nn.avg_pool2d(inside, self.pool_size, self.strides, "VALID")

    def get_config(self) -> dict:
        sizes = {"pool_size": self.pool_size, "strides": self.strides}
        return {**super().get_config(), "kind": self.kind, **sizes}


@register
class Zeroise(keras.layers.Layer):
    """Outputs zeros of the strided shape: BNAS' Zeroise (arXiv 2002.06963, §3.1).

    Args:
        strides: 1 or 2.
        filters: output channels; None keeps the input's.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/strides⌉,
    ⌈width/strides⌉, channels].

    Example:
        >>> Zeroise(strides=2)(tf.ones([1, 2, 2, 3])).numpy().ravel().tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, strides: int = 1, filters: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.strides, self.filters = strides, filters

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        zeros = tf.zeros_like(inputs[:, :: self.strides, :: self.strides, :])
        if self.filters in (None, inputs.shape[-1]):
            return zeros
        return tf.tile(zeros[..., :1], [1, 1, 1, self.filters])

    def get_config(self) -> dict:
        return {**super().get_config(), "strides": self.strides, "filters": self.filters}


@register
class RepeatChannels(keras.layers.Layer):
    """The input several times, concatenated along the channels: once for each of a supernet's
    edges, or twice in a shortcut that doubles channels.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height, width,
    times·channels].

    Example:
        >>> RepeatChannels(2)(tf.constant([1.0, 2.0], shape=[1, 1, 1, 2])).numpy().ravel().tolist()
        [1.0, 2.0, 1.0, 2.0]
    """

    def __init__(self, times: int, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.times = times

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.concat([inputs] * self.times, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "times": self.times}


@register
class EdgewiseConv2D(lq.layers.QuantConv2D):
    """`QuantConv2D` whose groups are a supernet's edges: each edge's filters read its own channels.

    Input shape: [batch, height, width, groups·channels]. Output shape: [batch, height', width',
    filters].

    Example:
        >>> layer = EdgewiseConv2D(2, 1, groups=2, kernel_initializer="ones")
        >>> layer(tf.constant([1.0, 2.0, 3.0, 4.0], shape=[1, 1, 1, 4])).numpy().ravel().tolist()
        [3.0, 7.0]
    """

    def _jit_compiled_convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return grouped_convolution(self, inputs, kernel)


# -- functions that make them ----------------------------------------------------------------------


def initializer(fewer: float = 1.0) -> keras.initializers.Initializer:
    """U(−1/√fan_in, 1/√fan_in), PyTorch's default, from which the papers' programs start; `fewer`:
    by how much the fan-in that Keras derives from the kernel's shape is too large."""
    return keras.initializers.VarianceScaling(fewer / 3.0, mode="fan_in", distribution="uniform")


def pooling(kind: str, strides: int, padding: str, name: str) -> keras.layers.Layer:
    """3×3 max or average pooling that excludes the padding."""
    if padding == "symmetric" and strides > 1:
        return SymmetricPooling2D(kind, 3, strides, name=name)
    layer = keras.layers.MaxPooling2D if kind == "max" else keras.layers.AveragePooling2D
    return layer(3, strides, padding="same", name=name, autocast=False)


def quantizers(
    input_scheme: str | None,
    kernel_scheme: str | None,
    edges: int = 1,
    options: SchemeOptions = UNCHANGED,
) -> dict[str, object]:
    """Arguments of a `QuantConv2D` whose input and kernel are quantised by registered schemes with
    these options, or (None) not, and which holds the kernels of so many edges of a supernet."""
    return {
        "input_quantizer": input_scheme and get_scheme(input_scheme, options).input_quantizer(),
        **(get_scheme(kernel_scheme, options).kernel_settings(edges) if kernel_scheme else {}),
    }


@unbounded_kernels()
def convolution(
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation: int = 1,
    padding: str = "same",
    pad_values: float = 0.0,
    input_scheme: str | None,
    kernel_scheme: str | None,
    use_bias: bool = False,
    groups: int = 1,
    edges: int = 1,
    options: SchemeOptions = UNCHANGED,
) -> lq.layers.QuantConv2D:
    """A convolution whose input and kernel are quantised, see `quantizers`; `pad_values`: what
    `same` pads."""
    check_padding(padding)
    symmetric = padding == "symmetric" and strides > 1 and kernel_size % 2 == 1 < kernel_size
    quantisation = quantizers(input_scheme, kernel_scheme, edges, options)
    binary = [quantisation.get(f"{part}_quantizer") for part in ("input", "kernel")]
    if groups == edges > 1:
        plain = EdgewiseConv2D
    elif all(binary):
        plain = BinaryConv2D
    else:
        # The supernet takes the sign in front of its convolutions, and computes them itself unless
        # they have groups.
        plain = lq.layers.QuantConv2D if binary[1] and groups == 1 else MixedPrecisionConv2D
    return (SymmetricQuantConv2D if symmetric else plain)(
        filters,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        groups=groups,
        padding="symmetric" if symmetric else "same",
        # A 1×1 convolution pads nothing.
        pad_values=pad_values if kernel_size > 1 else 0.0,
        use_bias=use_bias,
        kernel_initializer=initializer(),
        name=name,
        **quantisation,
    )


@unbounded_kernels()
def depthwise(
    channels: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation: int = 1,
    input_scheme: str | None,
    kernel_scheme: str | None,
    use_bias: bool = False,
    multiplier: int = 1,
    edges: int = 1,
    options: SchemeOptions = UNCHANGED,
) -> lq.layers.QuantDepthwiseConv2D:
    """A depthwise convolution of so many `channels`, each to `multiplier` ones, with SAME padding,
    quantised as `convolution`."""
    return lq.layers.QuantDepthwiseConv2D(
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        depth_multiplier=multiplier,
        padding="same",
        use_bias=use_bias,
        input_quantizer=input_scheme and get_scheme(input_scheme, options).input_quantizer(),
        # Keras derives the fan-in from all channels, of which each filter reads one.
        depthwise_initializer=initializer(channels),
        name=name,
        **(get_scheme(kernel_scheme, options).depthwise_settings(edges) if kernel_scheme else {}),
    )
