"""What TensorFlow's convolution kernels lack on some machines, and what serves in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from bnas_larq.backend import keras, tf


def has_dilated_gradients() -> bool:
    """Whether this TensorFlow has kernels for the gradients of dilated convolutions; on CPUs only
    with oneDNN."""
    return _has_gradients(groups=1, dilation=2)


def has_grouped_gradients() -> bool:
    """The same of grouped convolutions."""
    return _has_gradients(groups=2, dilation=1)


@functools.cache
def _has_gradients(groups: int, dilation: int) -> bool:
    with tf.init_scope():
        settings = {"strides": [1] * 4, "padding": "SAME", "dilations": [1, dilation, dilation, 1]}
        images, kernel = tf.ones([1, 5, 5, groups]), tf.ones([3, 3, 1, groups])
        try:
            outputs = tf.raw_ops.Conv2D(input=images, filter=kernel, **settings)
            settings["out_backprop"] = outputs
            sizes = tf.shape(images), tf.shape(kernel)
            tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes[0], filter=kernel, **settings)
            tf.raw_ops.Conv2DBackpropFilter(input=images, filter_sizes=sizes[1], **settings)
        except tf.errors.OpError:
            return False
    return True


def with_float32_sums(
    operation: Callable[..., tf.Tensor], *operands: tf.Tensor, depthwise: bool = False
) -> tf.Tensor:
    """A convolution, or a gradient of one, of operands of one type, which the result has too.

    In bfloat16, TensorFlow's own kernels for CPUs round partial sums to 8 bits. Where oneDNN has
    none in their place (without AVX-512), the operands, which float32 holds exactly, are convolved
    in float32, and the result is rounded once.
    """
    dtype = operands[0].dtype
    if dtype == tf.float32 or _sums_in_float32(dtype, depthwise):
        return operation(*operands)
    return tf.cast(operation(*(tf.cast(operand, tf.float32) for operand in operands)), dtype)


@functools.cache
def _sums_in_float32(dtype: tf.DType, depthwise: bool) -> bool:
    operations = tf.raw_ops.Conv2DBackpropFilter, tf.raw_ops.DepthwiseConv2dNativeBackpropFilter
    with tf.init_scope():
        ones = tf.ones([8, 32, 32, 1], dtype)
        settings = {"strides": [1] * 4, "padding": "SAME", "filter_sizes": [3, 3, 1, 1]}
        try:
            of_kernel = operations[depthwise](input=ones, out_backprop=ones, **settings)
        except tf.errors.OpError:
            return False
        # The middle of the kernel meets all pixels. A sum of 8 bits does not get beyond 256.
        return int(of_kernel[1, 1, 0, 0]) == ones.shape.num_elements()


def grouped_convolution(
    layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: tf.Tensor
) -> tf.Tensor:
    """The convolution of a layer with groups, without XLA, to which Keras leaves them for CPUs
    without oneDNN: each shape costs a compilation of seconds."""
    if has_grouped_gradients():
        return layer.convolution_op(inputs, kernel)
    pairs = zip(*(tf.split(x, layer.groups, axis=-1) for x in (inputs, kernel)), strict=True)
    return tf.concat([layer.convolution_op(*pair) for pair in pairs], axis=-1)


def pixels_read(
    images: tf.Tensor, kernel_shape: Sequence[int], strides: int
) -> tuple[tf.Tensor, int]:
    """Of [batch, height, width, channels] what a convolution reads, and with which strides: one of
    1×1 only every `strides`-th pixel, and those at stride 1.

    With strides, oneDNN's gradient of a 1×1 kernel with few channels writes behind its own memory
    (TensorFlow 2.19, most numbers below 16), which ends the process sooner or later.
    """
    if strides == 1 or tuple(kernel_shape[:2]) != (1, 1):
        return images, strides
    return images[:, ::strides, ::strides], 1


def same_margins(size: int, kernel: int, strides: int, dilation: int) -> tuple[int, int]:
    """How many pixels SAME padding adds before and after an axis of `size`.

    Example:
        >>> same_margins(8, kernel=3, strides=2, dilation=1)
        (0, 1)
    """
    missing = (-(-size // strides) - 1) * strides + (kernel - 1) * dilation + 1 - size
    before = max(missing, 0) // 2
    return before, max(missing, 0) - before
