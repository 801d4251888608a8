"""The binary convolution of final networks, in a form that trains fast.

Outside training it is larq's layer, with the graph that Larq Compute Engine recognises. In training
it is the same function in another form: the work around the convolution costs little, and dilated
convolutions are not split into convolutions of sub-images. Where a network's kernels or activations
are real, it is larq's layer in training too, but may multiply in bfloat16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from bnas_larq.backend import keras, lq, only_infers_shape, register, tf, with_gradient
from bnas_larq.layers.activations import AnnealedSign, BoundedApproxSign, RealActivation
from bnas_larq.layers.batch_norm import BatchNorm2D
from bnas_larq.layers.convolution_kernels import (
    grouped_convolution,
    has_dilated_gradients,
    pixels_read,
    same_margins,
    with_float32_sums,
)
from bnas_larq.layers.kernel_groups import StepKernels
from bnas_larq.layers.normalisation import gradients, passed, signs_of, standardised_signs
from bnas_larq.layers.projection import PCNNProjection
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.layers.traced import traced_by_shape

#: Quantizers that a first call gives no weights.
_WITHOUT_WEIGHTS = (
    *(type(None), lq.quantizers.SteSign, BoundedApproxSign, AnnealedSign, RealActivation),
    SignScale,
)

#: A power of two: one minus it, plus it, is exactly 1 in float32.
_EPSILON = 2.0**-10


def binary_convolution(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str = "SAME",
    pad_values: float = 0.0,
    clip_value: float = 1.0,
    norm: BatchNorm2D | None = None,
) -> tf.Tensor:
    """sign(inputs) convolved with a binary kernel, with the straight-through gradient.

    The signs are convolved, and the result is multiplied by the scale: sums of ±1 are exact in
    float32, so that a sum that is zero in mathematics is zero here, whatever the order of addition,
    and a ReLU behind it passes no gradient there.

    The input's gradient is that of larq's `SteSign`: passed where |inputs| <= clip_value.

    Args:
        inputs: [batch, height, width, in], float32 or bfloat16. Signs are exact in both, and their
            products are added up in float32; in bfloat16, outputs and gradients are then rounded to
            8 bits.
        kernel: [h, w, in, out], ±scale with one scale per output channel, float32.
        strides, dilation: of height and width; one of them is 1.
        padding: `"SAME"` or `"VALID"`.
        pad_values: behind the sign with `"SAME"`, 0 or 1; with 1 height and width are known.
        clip_value: bound b of the straight-through gradient.
        norm: a layer that normalises the inputs in front of the sign, as in training, and moves its
            statistics. Its outputs are not kept, but computed again for the gradient.

    Returns:
        [batch, height', width', out], of the inputs' type.
    """
    forward, backward = _traced(strides, dilation, padding, pad_values)
    weights = norm.parameters(inputs.shape[-1]) if norm else ()

    def evaluate():
        own = norm.standardisation(inputs, *weights, *norm.own_statistics) if norm else None
        outputs, signs = forward(inputs, kernel, own)

        def gradient(upstream):
            results = backward(upstream, inputs, signs, kernel, own, clip_value)
            of_inputs, of_kernel, *others = results
            return [of_inputs, of_kernel, *(norm.trained(*others) if norm else ())]

        return outputs, gradient

    trained = norm.trained(*weights) if norm else []
    return with_gradient("BinaryConvolution", evaluate, [inputs, kernel, *trained])


@functools.cache
def _traced(
    strides: int, dilation: int, padding: str, pad_values: float
) -> tuple[Callable, Callable]:
    """Forward and backward pass, traced once for each shape: tracing is slow Python, and a network
    of a hundred convolutions has only a few shapes."""
    steps, dilations = [1, strides, strides, 1], [1, dilation, dilation, 1]
    explicit = padding == "SAME" and pad_values != 0
    padding = "VALID" if explicit else padding
    settings = {"strides": steps, "padding": padding, "dilations": dilations}

    def margins(inputs, kernel):
        """Before and after, of height and width."""
        sizes = zip(inputs.shape[1:3], kernel.shape[:2], strict=True)
        return [same_margins(*size, strides, dilation) for size in sizes]

    def convolve(signs, kernel):
        return tf.raw_ops.Conv2D(input=signs, filter=kernel, **settings)

    def forward(inputs, kernel, norm):
        signs = standardised_signs(inputs, *norm[:3]) if norm else signs_of(inputs)
        if explicit:
            pads = [[0, 0], *margins(inputs, kernel), [0, 0]]
            signs = tf.pad(signs, pads, constant_values=pad_values)
        if signs.dtype != tf.float32:
            # A scale of 8 bits times a sum of ±1 is exact, too.
            kernel = tf.cast(kernel, signs.dtype)
            return with_float32_sums(convolve, signs, kernel), signs
        sums = convolve(signs, lq.math.sign(kernel))
        return scaled(sums, tf.abs(kernel[0, 0, 0])), signs

    def backward(upstream, inputs, signs, kernel, norm, clip_value):
        of_signs = with_float32_sums(
            lambda kernel, upstream: tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(signs), filter=kernel, out_backprop=upstream, **settings
            ),
            tf.cast(kernel, signs.dtype),
            upstream,
        )
        read, step = pixels_read(signs, kernel.shape, strides)
        of_kernel = with_float32_sums(
            lambda read, upstream: tf.raw_ops.Conv2DBackpropFilter(
                input=read,
                filter_sizes=tf.shape(kernel),
                out_backprop=upstream,
                **{**settings, "strides": [1, step, step, 1]},
            ),
            read,
            upstream,
        )
        of_kernel = tf.cast(of_kernel, tf.float32)
        if explicit:
            (top, _), (left, _) = margins(inputs, kernel)
            height, width = inputs.shape[1:3]
            of_signs = of_signs[:, top : top + height, left : left + width]
        if norm is None:
            return passed(inputs, of_signs, clip_value), of_kernel
        of_inputs, *others = gradients(inputs, of_signs, norm, clip_value)
        return of_inputs, of_kernel, *others

    return traced_by_shape(forward), traced_by_shape(backward)


def scaled(sums: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """sums·scale per channel, as an inference BatchNorm, which TensorFlow's remapper fuses into the
    convolution, together with a ReLU that follows (oneDNN; elsewhere it is what it says)."""
    zeros = tf.zeros(scale.shape)
    variance = np.full(scale.shape, 1.0 - _EPSILON, np.float32)
    return tf.raw_ops.FusedBatchNormV3(
        x=sums,
        scale=scale,
        offset=zeros,
        mean=zeros,
        variance=variance,
        epsilon=_EPSILON,
        is_training=False,
    ).y


def only_convolves(layer: lq.layers.QuantConv2D, pad_values: Sequence[float] = (0.0,)) -> bool:
    """Whether a layer has no groups or activation, pads one of these values, and has channels
    last."""
    return (
        layer.groups == 1
        and layer.activation is keras.activations.linear
        and not tf.is_tensor(layer.pad_values)
        and layer.pad_values in pad_values
        and layer.data_format == "channels_last"
    )


@register
class MixedPrecisionConv2D(lq.layers.QuantConv2D):
    """`QuantConv2D` that may multiply in bfloat16 while training; same weights and configuration.

    Input and kernel are rounded to bfloat16's 8 bits, products are added up in float32, and the
    output is rounded and stays bfloat16; so do the gradients. The kernel itself, and evaluation,
    stay float32. With groups, activation, padding with ones or channels first this is larq's layer.

    Attributes:
        compute: `"float32"` or `"bfloat16"`; set for a while by
            `bnas_larq.networks.fast_training`, never saved.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width', filters].

    Example:
        >>> layer = MixedPrecisionConv2D(1, 1, kernel_initializer="ones", use_bias=False)
        >>> layer.compute = "bfloat16"
        >>> x = tf.constant(1.001, shape=[1, 1, 1, 1])
        >>> float(layer(x, training=True)), round(float(layer(x)), 4)
        (1.0, 1.001)
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs, autocast=False)
        self.compute = "float32"

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        quantizers = self.input_quantizer, self.kernel_quantizer
        if only_infers_shape(self) and all(type(one) in _WITHOUT_WEIGHTS for one in quantizers):
            shape = self.compute_output_shape(inputs.shape)
            return tf.compat.v1.placeholder(self.compute_dtype, shape)
        own = self.strides
        if training is True and len(set(own)) == 1 and self.data_format == "channels_last":
            inputs, stride = pixels_read(inputs, self.kernel_size, own[0])
            self.strides = (stride, stride)
        try:
            return self._convolved(inputs, training)
        finally:
            self.strides = own

    def _convolved(self, inputs: tf.Tensor, training: bool | None) -> tf.Tensor:
        if training is not True or self.compute == "float32" or not self.only_multiplies:
            return super().call(tf.cast(inputs, self.compute_dtype))
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs)
        with lq.context.quantized_scope(True):
            kernel = tf.convert_to_tensor(self.kernel)
        operands = tf.cast(inputs, self.compute), tf.cast(kernel, self.compute)
        settings = {"padding": self.padding.upper(), "dilations": self.dilation_rate[0]}
        outputs = with_float32_sums(
            lambda *pair: tf.nn.conv2d(*pair, self.strides[0], **settings), *operands
        )
        if not self.use_bias:
            return outputs
        # The bias' gradient is a sum over all pixels, for which 8 bits are too few.
        return tf.cast(tf.cast(outputs, tf.float32) + self.bias, self.compute)

    def _jit_compiled_convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return grouped_convolution(self, inputs, kernel)

    @property
    def only_multiplies(self) -> bool:
        """Whether one operation computes this layer and another its gradients, on this machine."""
        return only_convolves(self) and self._has_gradients

    @property
    def _has_gradients(self) -> bool:
        return (
            len(set(self.strides)) == len(set(self.dilation_rate)) == 1
            and self.compute_dtype == "float32"
            and (self.dilation_rate[0] == 1 or has_dilated_gradients())
        )


@register
class BinaryConv2D(MixedPrecisionConv2D):
    """`QuantConv2D` with a faster training step; same weights, outputs and configuration.

    The fast step covers the input quantizers `SteSign` (with a clip value), `BoundedApproxSign` and
    `AnnealedSign` with the kernel quantizers `SignScale` and `PCNNProjection`, padding with zeros
    or (of images of a known size) ones, and no bias, groups, activation or channels first. In all
    other cases this is its base class.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width', filters].

    Example:
        >>> kernel = {"kernel_quantizer": SignScale(), "kernel_constraint": "weight_clip"}
        >>> layer = BinaryConv2D(4, 3, input_quantizer="ste_sign", use_bias=False, **kernel)
        >>> layer(tf.zeros([1, 8, 8, 2]), training=True).shape, layer.is_plain
        (TensorShape([1, 6, 6, 4]), True)
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # Both are set for a while by `bnas_larq.networks.fast_training`.
        self.norm: Callable[[], BatchNorm2D | None] | None = None
        self.step_kernels: StepKernels | None = None

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training is not True or not self.is_plain:
            return super().call(inputs, training)
        if self.pad_values and None in inputs.shape[1:3]:
            return super().call(inputs, training)
        inputs, norm = tf.cast(inputs, self.compute), self.norm and self.norm()
        clip_value = self.input_quantizer.clip_value
        if type(self.input_quantizer) is not lq.quantizers.SteSign:
            # Signs with a gradient of their own; the one that is added passes all of ±1.
            inputs, clip_value = self.input_quantizer(inputs), 1.0
        kernel = self.step_kernels and self.step_kernels.of(self)
        if kernel is None:
            with lq.context.quantized_scope(True):
                kernel = tf.convert_to_tensor(self.kernel)
        return binary_convolution(
            inputs,
            kernel,
            strides=self.strides[0],
            dilation=self.dilation_rate[0],
            padding=self.padding.upper(),
            pad_values=self.pad_values,
            clip_value=clip_value,
            norm=norm if norm and norm.takes_batches else None,
        )

    @property
    def is_plain(self) -> bool:
        """Whether `binary_convolution` computes this layer, on this machine."""
        sign = self.input_quantizer
        return (
            type(sign) in (lq.quantizers.SteSign, BoundedApproxSign, AnnealedSign)
            and sign.clip_value is not None
            and type(self.kernel_quantizer) in (SignScale, PCNNProjection)
            and not self.use_bias
            and only_convolves(self, pad_values=(0.0, 1.0))
            and self._has_gradients
        )
