"""The binary convolution of final networks, in a form that trains fast.

Outside training it is larq's layer, with the graph that Larq Compute Engine recognises. In training
it is the same function in another form: the work around the convolution costs little, and dilated
convolutions are not split into convolutions of sub-images. Where a network's kernels or activations
are real, it is larq's layer in training too, but may multiply in bfloat16.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import numpy as np

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers.activations import AnnealedSign, BoundedApproxSign
from bnas_larq.layers.projection import PCNNProjection
from bnas_larq.layers.quantizers import SignScale

#: What convolutions may multiply in while training; both hold the operands ±1 of binary ones
#: exactly.
COMPUTE_TYPES = ("float32", "bfloat16")

#: A power of two: one minus it, plus it, is exactly 1 in float32.
_EPSILON = 2.0**-10


def binary_convolution(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    *,
    strides: int = 1,
    dilation: int = 1,
    padding: str = "SAME",
    compute: str = "float32",
    clip_value: float = 1.0,
) -> tf.Tensor:
    """sign(inputs) convolved with a binary kernel, with the straight-through gradient.

    The signs are convolved, and the result is multiplied by the scale: sums of ±1 are exact in
    float32, so that a sum that is zero in mathematics is zero here, whatever the order of addition,
    and a ReLU behind it passes no gradient there.

    The input's gradient is that of larq's `SteSign`: passed where |inputs| <= clip_value.

    Args:
        inputs: [batch, height, width, in], float32.
        kernel: [h, w, in, out], ±scale with one scale per output channel, float32.
        strides, dilation: of height and width; one of them is 1.
        padding: `"SAME"` (zeros behind the sign) or `"VALID"`.
        compute: `"bfloat16"` multiplies signs in bfloat16 and adds them up in float32; outputs and
            gradients are rounded to bfloat16's 8 bits.
        clip_value: bound b of the straight-through gradient.

    Returns:
        float32, [batch, height', width', out].
    """
    forward, backward = _traced(strides, dilation, padding, compute, clip_value)

    @tf.custom_gradient
    def convolve(inputs, kernel):
        outputs, signs, inside = forward(inputs, kernel)

        def grad(upstream):
            return backward(upstream, signs, inside, kernel)

        return outputs, grad

    return convolve(inputs, kernel)


@functools.cache
def _traced(
    strides: int, dilation: int, padding: str, compute: str, clip_value: float
) -> tuple[Callable, Callable]:
    """Forward and backward pass, traced once for each shape: tracing is slow Python, and a network
    of a hundred convolutions has only a few shapes."""
    low = tf.as_dtype(compute)
    steps, dilations = [1, strides, strides, 1], [1, dilation, dilation, 1]
    settings = {"strides": steps, "padding": padding, "dilations": dilations}

    def forward(inputs, kernel):
        signs = tf.cast(lq.math.sign(inputs), low)
        inside = tf.abs(inputs) <= clip_value
        scale = tf.abs(kernel[0, 0, 0])
        sums = tf.raw_ops.Conv2D(input=signs, filter=tf.cast(lq.math.sign(kernel), low), **settings)
        return tf.cast(scaled(sums, scale), tf.float32), signs, inside

    def backward(upstream, signs, inside, kernel):
        upstream = tf.cast(upstream, low)
        dinputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(signs),
            filter=tf.cast(kernel, low),
            out_backprop=upstream,
            **settings,
        )
        dkernel = tf.raw_ops.Conv2DBackpropFilter(
            input=signs, filter_sizes=tf.shape(kernel), out_backprop=upstream, **settings
        )
        # Several times as fast as tf.where, whose kernel is not vectorised.
        passed = tf.cast(dinputs, tf.float32) * tf.cast(inside, tf.float32)
        return passed, tf.cast(dkernel, tf.float32)

    return traced_by_shape(forward), traced_by_shape(backward)


def traced_by_shape(function: Callable, inline: bool = True) -> Callable:
    """`function` as a graph that is traced once for each set of shapes; if `inline`, TensorFlow may
    inline it into its callers, and optimise it there."""
    attributes = None if inline else {"_noinline": True}
    traced = tf.function(function, autograph=False, experimental_attributes=attributes)
    # Many shapes are intended; TensorFlow would warn of frequent retracing.
    traced._omit_frequent_tracing_warning = True
    return traced


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


@functools.cache
def has_dilated_gradients() -> bool:
    """Whether this TensorFlow has kernels for the gradients of dilated convolutions; on CPUs only
    with oneDNN."""
    with tf.init_scope():
        signs, kernel = tf.ones([1, 5, 5, 1]), tf.ones([3, 3, 1, 1])
        forward, backward = _traced(1, 2, "SAME", "float32", 1.0)
        try:
            outputs, *kept = forward(signs, kernel)
            backward(outputs, *kept, kernel)
        except tf.errors.OpError:
            return False
    return True


def only_convolves(layer: lq.layers.QuantConv2D) -> bool:
    """Whether a layer has no bias, groups or activation, pads zeros, and has channels last."""
    return (
        not layer.use_bias
        and layer.groups == 1
        and layer.activation is keras.activations.linear
        and not tf.is_tensor(layer.pad_values)
        and layer.pad_values == 0.0
        and layer.data_format == "channels_last"
    )


@register
class MixedPrecisionConv2D(lq.layers.QuantConv2D):
    """`QuantConv2D` that may multiply in bfloat16 while training; same weights, outputs and
    configuration.

    Input and kernel are rounded to bfloat16's 8 bits, products are added up in float32, and the
    output is rounded; so are the gradients. The kernel itself, and evaluation, stay float32. With
    bias, groups, activation, padding with ones or channels first this is larq's layer.

    Attributes:
        compute: `"float32"` or `"bfloat16"`; set for a while by `compute_in`, never saved.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width', filters].

    Example:
        >>> layer = MixedPrecisionConv2D(1, 1, kernel_initializer="ones", use_bias=False)
        >>> layer.compute = "bfloat16"
        >>> x = tf.constant(1.001, shape=[1, 1, 1, 1])
        >>> float(layer(x, training=True)), round(float(layer(x)), 4)
        (1.0, 1.001)
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.compute = "float32"

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training is not True or self.compute == "float32" or not self.only_multiplies:
            return super().call(inputs)
        if self.input_quantizer is not None:
            inputs = self.input_quantizer(inputs)
        with lq.context.quantized_scope(True):
            kernel = tf.convert_to_tensor(self.kernel)
        outputs = tf.nn.conv2d(
            tf.cast(inputs, self.compute),
            tf.cast(kernel, self.compute),
            self.strides[0],
            self.padding.upper(),
            dilations=self.dilation_rate[0],
        )
        return tf.cast(outputs, inputs.dtype)

    @property
    def only_multiplies(self) -> bool:
        """Whether one operation computes this layer and another its gradients, on this machine."""
        return (
            only_convolves(self)
            and len(set(self.strides)) == len(set(self.dilation_rate)) == 1
            and self.compute_dtype == "float32"
            and (self.dilation_rate[0] == 1 or has_dilated_gradients())
        )


@register
class BinaryConv2D(MixedPrecisionConv2D):
    """`QuantConv2D` with a faster training step; same weights, outputs and configuration.

    The fast step covers the input quantizers `SteSign` (with a clip value), `BoundedApproxSign` and
    `AnnealedSign` with the kernel quantizers `SignScale` and `PCNNProjection`, and no bias, groups,
    activation, padding with ones or channels first. In all other cases this is its base class.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height', width', filters].

    Example:
        >>> kernel = {"kernel_quantizer": SignScale(), "kernel_constraint": "weight_clip"}
        >>> layer = BinaryConv2D(4, 3, input_quantizer="ste_sign", use_bias=False, **kernel)
        >>> layer(tf.zeros([1, 8, 8, 2]), training=True).shape, layer.is_plain
        (TensorShape([1, 6, 6, 4]), True)
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training is not True or not self.is_plain:
            return super().call(inputs, training)
        clip_value = self.input_quantizer.clip_value
        if type(self.input_quantizer) is not lq.quantizers.SteSign:
            # Signs with a gradient of their own; the one that is added passes all of ±1.
            inputs, clip_value = self.input_quantizer(inputs), 1.0
        with lq.context.quantized_scope(True):
            kernel = tf.convert_to_tensor(self.kernel)
        return binary_convolution(
            inputs,
            kernel,
            strides=self.strides[0],
            dilation=self.dilation_rate[0],
            padding=self.padding.upper(),
            compute=self.compute,
            clip_value=clip_value,
        )

    @property
    def is_plain(self) -> bool:
        """Whether `binary_convolution` computes this layer, on this machine."""
        sign = self.input_quantizer
        return (
            type(sign) in (lq.quantizers.SteSign, BoundedApproxSign, AnnealedSign)
            and sign.clip_value is not None
            and type(self.kernel_quantizer) in (SignScale, PCNNProjection)
            and self.only_multiplies
        )


@contextlib.contextmanager
def compute_in(model: keras.Model, compute: str) -> Iterator[None]:
    """Inside, `model`'s binary convolutions, and the real ones in their place, train in one of
    `COMPUTE_TYPES` (BnasLarqError for others); evaluation stays float32. The training function is
    traced anew on entry and exit: its graph holds the type."""
    if compute not in COMPUTE_TYPES:
        raise BnasLarqError(
            "Convolutions are computed in 'float32' or 'bfloat16'. "
            f"Received: {compute!r}; {nearest(str(compute), COMPUTE_TYPES)}"
        )
    layers = [layer for layer in model.submodules if isinstance(layer, MixedPrecisionConv2D)]
    earlier = [layer.compute for layer in layers]
    try:
        for layer in layers:
            layer.compute = compute
        model.train_function = None
        yield
    finally:
        for layer, before in zip(layers, earlier, strict=True):
            layer.compute = before
        model.train_function = None
