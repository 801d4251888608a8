"""CBCN: convolutions whose kernel is used in all of its rotations.

Source: Liu et al., "Circulant Binary Convolutional Networks: Enhancing the Performance of 1-bit
DCNNs with Circulant Back Propagation", arXiv 1910.10853. The layout of channels, the cyclic shift
and the gradients are those of the authors' program.

A feature map has `orientations` channels for each plane, the orientation changing fastest. From one
latent kernel a layer makes as many as there are orientations, each turned by one step more. When a
kernel turns, so must the orientations that it reads, so that turning an image turns the output.
"""

from __future__ import annotations

import functools

import numpy as np

from bnas_larq.backend import keras, lq, register, tf, unbounded_kernels
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.convolutions import check_own_convolution
from bnas_larq.layers.fixed_settings import FixedSettings
from bnas_larq.layers.layer_scale import LayerScaledSign
from bnas_larq.layers.quantizers import Scheme, nothing, register_scheme

#: Steps of 90° and of 45°.
ORIENTATIONS = (4, 8)
#: The outer taps of a 3×3 kernel, clockwise.
_RING = np.array([0, 1, 2, 5, 8, 7, 6, 3])


def rotated(kernel: tf.Tensor, orientations: int = 4) -> tf.Tensor:
    """A latent kernel in all of its rotations, side by side along the output channels.

    Rotation r turns the taps clockwise by r steps (of 90°, or of 45°: the ring of the eight outer
    taps moves on by one) and shifts the orientations that are read cyclically:
    Ŵ[turn_r(p), i·R + (n + r) mod R, o·R + r] = W[p, i·R + n, o]. Its gradient is the adjoint: each
    latent weight receives the sum over its R places.

    Args:
        kernel: W, [size, size, in·R, out]; 3×3 if R = 8.
        orientations: R, 4 or 8.

    Returns:
        Ŵ, [size, size, in·R, out·R].

    Raises:
        BnasLarqError: another R, a kernel that is not square (or, for R = 8, 3×3), or input
            channels that are no multiple of R.
    """
    *window, channels, planes = kernel.shape
    sources = _sources(tuple(window), channels, orientations)
    # Gathered from the last axis: along the first, the gradient would be sparse and made dense.
    taps = tf.transpose(tf.reshape(kernel, [-1, planes]))
    turned = tf.transpose(tf.gather(taps, sources, axis=1), [1, 0, 2])
    return tf.reshape(turned, [*window, channels, planes * orientations])


@functools.cache
def _sources(window: tuple[int, int], channels: int, orientations: int) -> np.ndarray:
    """[taps·channels, rotation] → number of the latent weight (of one output channel) there."""
    check_rotations(window, channels, orientations)
    taps = np.arange(window[0] * window[1])
    numbers = np.arange(taps.size * channels).reshape(taps.size, -1, orientations)
    turns = []
    for step in range(orientations):
        if orientations == 4:
            source = np.rot90(taps.reshape(window), -step).ravel()
        else:
            source = taps.copy()
            source[_RING] = np.roll(_RING, step)
        turns.append(np.roll(numbers[source], step, axis=-1).ravel())
    return np.stack(turns, axis=-1)


def check_rotations(window: tuple[int, int], channels: int | None, orientations: int) -> None:
    """Raise BnasLarqError unless kernels of this size, of so many input channels, can turn."""
    if orientations not in ORIENTATIONS:
        raise BnasLarqError(
            "A circulant kernel has 4 orientations (steps of 90°) or 8 (45°). "
            f"Received: orientations={orientations!r}."
        )
    if window[0] != window[1] or (orientations == 8 and window[0] != 3):
        raise BnasLarqError(
            "A circulant kernel is square, and 3×3 with 8 orientations. "
            f"Received: kernel_size={window}, orientations={orientations}."
        )
    if channels is None or channels % orientations:
        raise BnasLarqError(
            "The input of a circulant convolution has `orientations` channels for each plane. "
            f"Received: {channels} channels, orientations={orientations}. "
            "Repeat the channels in front of the first one, or change their number."
        )


@register
class CirculantQuantConv2D(FixedSettings, lq.layers.QuantConv2D):
    """A binary convolution with a latent kernel in all of its rotations, see `rotated`.

    It computes conv(sign(X), a·sign(Ŵ)) with one scale a = mean(|W|) for the layer. Both signs have
    Bi-Real Net's gradient (arXiv 1808.00278, eq. 3). Kernels start from N(0, 2/n), n their fan-in,
    and are not clipped. There is no bias: one that differs between rotations would undo them.

    Costs count the convolution that runs, and memory for the latent signs, from which a device
    could make the others. A `.tflite` file holds the rotated kernel, R times as many signs.

    Args:
        planes: output channels are planes·orientations.
        orientations: R, 4 (steps of 90°) or 8 (45°).
        kernel_size: of a square kernel; 3 with 8 orientations.
        **kwargs: as of `QuantConv2D`, except `use_bias`, `groups` and `data_format`. The kernel
            quantizer is given the latent kernel; None leaves it real.

    Input shape: [batch, height, width, in·R]. Output shape: [batch, height', width', planes·R].

    Raises:
        BnasLarqError: other orientations, a kernel that cannot turn, or input channels that are no
            multiple of R (when the layer is built); or a setting that is not in `kwargs`.

    Example:
        >>> layer = CirculantQuantConv2D(2, padding="same")
        >>> layer(tf.zeros([1, 8, 8, 12])).shape, layer.kernel.shape
        (TensorShape([1, 8, 8, 8]), TensorShape([3, 3, 12, 2]))
    """

    fixed = {"use_bias": False, "groups": 1, "data_format": "channels_last"}

    def __init__(
        self,
        planes: int,
        orientations: int = 4,
        kernel_size: int | tuple[int, int] = 3,
        **kwargs,
    ) -> None:
        defaults = {
            "input_quantizer": "approx_sign",
            "kernel_quantizer": LayerScaledSign(),
            "kernel_initializer": keras.initializers.VarianceScaling(
                2.0, mode="fan_in", distribution="untruncated_normal"
            ),
        }
        with unbounded_kernels():
            super().__init__(planes * orientations, kernel_size, **{**defaults, **kwargs})
        self.planes, self.orientations = planes, orientations

    @property
    def kernel_uses(self) -> int:
        """How many products each weight takes part in at one position; read by the cost count."""
        return self.orientations

    def build(self, input_shape) -> None:
        check_rotations(self.kernel_size, input_shape[-1], self.orientations)
        with lq.utils.patch_object(self, "filters", self.planes):
            super().build(input_shape)

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        kernel = rotated(tf.convert_to_tensor(kernel), self.orientations)
        return super().convolution_op(inputs, kernel)

    def get_config(self) -> dict:
        config = super().get_config()
        del config["filters"]
        return {**config, "planes": self.planes, "orientations": self.orientations}


def _convolution(
    filters: int, kernel_size: int, *, dilation: int, padding: str, **settings: object
) -> CirculantQuantConv2D:
    """A convolution of the scheme `circulant`, with 4 orientations."""
    check_own_convolution("circulant", settings["name"], padding)
    if filters % 4:
        raise BnasLarqError(
            "A circulant convolution has 4 orientations of each plane. "
            f"Received: {filters} filters of {settings['name']}. Give a multiple of 4."
        )
    settings |= {"padding": "same", "dilation_rate": dilation}
    return CirculantQuantConv2D(filters // 4, 4, kernel_size, **settings)


register_scheme(
    "circulant",
    Scheme(
        input_quantizer=lq.quantizers.ApproxSign,
        kernel_quantizer=LayerScaledSign,
        kernel_constraint=nothing,
        own_sign=True,
        convolution=_convolution,
        channel_multiple=4,
    ),
)
