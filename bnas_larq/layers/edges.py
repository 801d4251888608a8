"""Layers that serve several edges of the supernet at once: each edge's channels stay apart, one
edge's after the other's."""

from __future__ import annotations

import functools

from bnas_larq.backend import keras, lq, register, tf


@register
class RepeatChannels(keras.layers.Layer):
    """The input once for each edge, side by side along the channels.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height, width,
    times·channels].
    """

    def __init__(self, times: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.times = times

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.concat([inputs] * self.times, axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "times": self.times}


@register
class EdgewiseConv2D(lq.layers.QuantConv2D):
    """`QuantConv2D` whose groups are the edges: each edge's filters read its own channels.

    Input shape: [batch, height, width, groups·channels]. Output shape: [batch, height', width',
    filters].
    """

    # Keras hands grouped convolutions to XLA, for CPUs without oneDNN; each shape costs a
    # compilation of seconds.
    def _jit_compiled_convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if has_grouped_gradients():
            return self.convolution_op(inputs, kernel)
        pairs = zip(*(tf.split(x, self.groups, axis=-1) for x in (inputs, kernel)), strict=True)
        return tf.concat([self.convolution_op(*pair) for pair in pairs], axis=-1)


@functools.cache
def has_grouped_gradients() -> bool:
    """Whether this TensorFlow has kernels for the gradients of grouped convolutions; on CPUs only
    oneDNN brings them."""
    with tf.init_scope():
        kernel = tf.ones([1, 1, 1, 2])
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            outputs = tf.nn.conv2d(tf.ones([1, 2, 2, 2]), kernel, 1, "SAME")
        try:
            tape.gradient(outputs, kernel)
        except tf.errors.OpError:
            return False
    return True
