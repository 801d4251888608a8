"""Tensors whose last axis holds the channels of several edges, one edge after the other."""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import tf
from bnas_larq.layers.convolution_kernels import with_float32_sums


def placed(values: tf.Tensor, live: Sequence[int], edges: int) -> tf.Tensor:
    """Outputs of the live edges, with zeros for the others."""
    if len(live) == edges:
        return values
    parts = dict(zip(live, tf.split(values, len(live), axis=-1), strict=True))
    zeros = tf.zeros_like(parts[live[0]])
    return tf.concat([parts.get(edge, zeros) for edge in range(edges)], axis=-1)


def picked(values: tf.Tensor, live: Sequence[int], edges: int) -> tf.Tensor:
    """The channels of the live edges: the transpose of `placed`."""
    if len(live) == edges:
        return values
    parts = tf.split(values, edges, axis=-1)
    return tf.concat([parts[edge] for edge in live], axis=-1)


def spread(values: tf.Tensor, times: int) -> tf.Tensor:
    """Each row [edges, …] repeated for all channels of its edge, [edges·times, …]: `tf.repeat`
    without its graph of 30 nodes."""
    shape = values.shape[1:]
    tiled = tf.tile(tf.expand_dims(values, 1), [1, times, *[1] * len(shape)])
    return tf.reshape(tiled, [-1, *shape])


def weighted(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """values [batch, height, width, channels] · weights [channels]."""

    @tf.custom_gradient
    def multiply(values, weights):
        def grad(upstream):
            dvalues = upstream * tf.cast(weights, upstream.dtype)
            return dvalues, sum_of_products(upstream, values)

        return values * tf.cast(weights, values.dtype), grad

    return multiply(values, weights)


def sum_of_products(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Σ a·b over batch and positions, [channels]: the filter gradient of a 1×1 depthwise
    convolution, which reads both once."""
    channels = a.shape[-1]
    total = with_float32_sums(
        lambda a, b: tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=b,
            filter_sizes=[1, 1, channels, 1],
            out_backprop=a,
            strides=[1, 1, 1, 1],
            padding="VALID",
        ),
        a,
        b,
        depthwise=True,
    )
    return tf.cast(tf.reshape(total, [channels]), tf.float32)
