"""The skip connection of DARTS (arXiv 1806.09055): `identity`.

On edges with strides DARTS reduces by two 1×1 convolutions of half the filters, of which one reads
the even pixels and the other the odd ones ("factorised reduction"). Here (ours) these are binary,
with BatchNorm and sign in front as every binary candidate, and without ReLU.
"""

from __future__ import annotations

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.layers.context import Context
from bnas_larq.layers.convolutions import initializer
from bnas_larq.layers.operations import register_operation
from bnas_larq.spaces import describe


@register
class FactorizedReduction(lq.layers.QuantConv2D):
    """Two 1×1 convolutions with strides 2, of the pixels (2i, 2j) and (2i + 1, 2j + 1), side by
    side: the first half of the filters and the others.

    A size that is odd has no last odd pixel; the last pixel stands for it.

    Args:
        filters: at least 2.
        **kwargs: as of `QuantConv2D`, but kernel size, strides and padding.

    Input shape: [batch, height, width, channels]. Output shape: [batch, ⌈height/2⌉, ⌈width/2⌉,
    filters].
    """

    def __init__(self, filters: int, **kwargs) -> None:
        fixed = {"kernel_size": 1, "strides": 2, "padding": "same"}
        super().__init__(filters, **{**kwargs, **fixed})

    @property
    def halves(self) -> tuple[int, int]:
        """Numbers of filters that read the even and the odd pixels."""
        return self.filters - self.filters // 2, self.filters // 2

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # Both are shifted before the sign: LCE wants the sign straight in front of a convolution.
        margins = [[0, 1 if size is None or size % 2 else 0] for size in inputs.shape[1:3]]
        shifted = tf.pad(inputs, [[0, 0], *margins, [0, 0]], "SYMMETRIC")[:, 1:, 1:]
        with lq.context.quantized_scope(True):
            kernels = tf.split(tf.convert_to_tensor(self.kernel), self.halves, axis=-1)
        sign = self.input_quantizer or tf.identity
        outputs = [
            self.convolution_op(sign(pixels), kernel)
            for pixels, kernel in zip((inputs, shifted), kernels, strict=True)
        ]
        return tf.concat(outputs, axis=-1)


# As in `bnas_larq.layers.convolutions`: .h5 files of nested models leave the namespace out.
keras.utils.get_custom_objects().update(FactorizedReduction=FactorizedReduction)


@register_operation("identity", describe("identity"), sharing=("state", "edge"))
def _identity(context: Context) -> list[keras.layers.Layer]:
    if context.strides == 1:
        return [keras.layers.Activation("linear", name=f"{context.name}_identity")]
    # A BatchNorm of its own: that of the state has its statistics moved by the convolutions, which
    # the supernet evaluates in another way, and each pass must move them once.
    place = context.at(context.name, context.filters, context.strides)
    reduction = FactorizedReduction(
        place.filters,
        use_bias=False,
        kernel_initializer=initializer(),
        name=place.conv_name,
        **place.quantizers(),
    )
    return [*place.binary_input(), reduction]
