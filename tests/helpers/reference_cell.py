"""The search cell by its definition: edge by edge, candidate by candidate. Slow and simple.

It reads the weights of a `SearchCell`, and is what that cell is compared with.
"""

from __future__ import annotations

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.convolutions import RepeatChannels
from bnas_larq.layers.operations import FactorizedReduction, PlusInput, chain
from bnas_larq.supernet.search_cell import SearchCell


def edge_by_edge(
    cell: SearchCell,
    states,
    weights: tf.Tensor,
    training: bool = True,
    scale_inside: bool = True,
    edge_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """The cell's output.

    Args:
        weights: of the mixture, [edges, operations].
        scale_inside: convolve ±scale, as the papers write it; False convolves ±1 and multiplies by
            the scale, which is the same but for rounding.
        edge_weights: of whole edges, [edges], their bypassing channels included.
    """
    values = [chain(layers, x, training) for layers, x in zip(cell.preprocess, states, strict=True)]
    for node in range(cell.space.nodes):
        total = 0.0
        for row, (owner, state) in enumerate(cell.space.edges):
            if owner == node:
                outgoing = cell.outgoing[state]
                value, bypass = parts_of(cell, values[state], outgoing.strides)
                edge = 0.0
                for candidate in outgoing.candidates:
                    position = outgoing.rows.index(row), len(outgoing.rows)
                    output = on_one_edge(candidate, position, value, training, scale_inside)
                    edge += output * weights[row, candidate.column]
                if bypass is not None:
                    edge = tf.concat([edge, bypass], axis=-1)
                total += edge if edge_weights is None else edge * edge_weights[row]
        values.append(total if cell.sampling is None else shuffled(cell, total))
    output = tf.concat(values[2:], axis=-1)
    return output + chain(cell.shortcut, states[1], training) if cell.has_shortcut else output


def parts_of(cell: SearchCell, value, strides):
    """The channels that the candidates see, and those that bypass them."""
    if cell.sampling is None:
        return value, None
    selected, bypass = value[..., : cell.selected_filters], value[..., cell.selected_filters :]
    return selected, bypass if strides == 1 else tf.nn.max_pool2d(bypass, 2, 2, "SAME")


def shuffled(cell: SearchCell, node):
    """The node's channels, one of each group in turn."""
    groups = tf.split(node, cell.plan.filters // cell.selected_filters, axis=-1)
    channels = [tf.unstack(group, axis=-1) for group in groups]
    return tf.stack([one for turn in zip(*channels, strict=True) for one in turn], axis=-1)


def on_one_edge(candidate, position, value, training=True, scale_inside=True) -> tf.Tensor:
    """One candidate's output on one edge, which is number position[0] of position[1]."""
    edge, edges = position
    layers = candidate.chains[edge if candidate.sharing == "edge" else 0]
    first = value
    for layer in layers:
        if isinstance(layer, PlusInput):
            for pool in layer.layers:
                first = first if isinstance(pool, RepeatChannels) else pool(first)
            value += first
        elif isinstance(layer, keras.layers.PReLU):
            slopes = of_edge(layer.alpha, position, value)
            value = tf.maximum(value, 0.0) + slopes * tf.minimum(value, 0.0)
        elif isinstance(layer, keras.layers.BatchNormalization):
            value = batch_norm(layer, value, training, position)
        elif isinstance(layer, lq.layers.QuantConv2D) and candidate.sharing == "channels":
            kernel = tf.convert_to_tensor(layer.kernel)
            value = convolve(layer, value, tf.split(kernel, edges, axis=-1)[edge], scale_inside)
        elif isinstance(layer, lq.layers.QuantDepthwiseConv2D) and candidate.sharing == "channels":
            latent = tf.split(tf.convert_to_tensor(layer.depthwise_kernel), edges, axis=2)[edge]
            strides = [1, *layer.strides, 1]
            kernel = layer.depthwise_quantizer(latent)
            value = tf.nn.depthwise_conv2d(
                value, kernel, strides, "SAME", dilations=layer.dilation_rate
            )
        elif isinstance(layer, FactorizedReduction):
            # oneDNN's gradient of a 1×1 kernel with strides damages memory, see `pixels_read`.
            value = layer(value, training=training)
        elif isinstance(layer, RepeatChannels):
            continue
        else:
            value = layer(value)
    return value


def of_edge(weight, position, value):
    """The edge's part of a vector, which may hold the channels of all edges."""
    edge, edges = position
    parts = edges if weight.shape[-1] == edges * value.shape[-1] else 1
    return tf.split(weight, parts, axis=-1)[edge if parts > 1 else 0]


def batch_norm(layer, value, training, position):
    """BatchNorm without scale and offset, which moves no statistics."""
    mean, variance = (
        of_edge(statistic, position, value)
        for statistic in (layer.moving_mean, layer.moving_variance)
    )
    if training:
        mean, variance = tf.nn.moments(value, [0, 1, 2])
    return (value - mean) * tf.math.rsqrt(variance + layer.epsilon)


def convolve(layer, value, latent, scale_inside):
    kernel = layer.kernel_quantizer(latent)
    if scale_inside:
        return layer.convolution_op(value, kernel)
    scale = tf.reduce_max(abs(kernel), axis=[0, 1, 2])
    # In one convolution with the true gradient of both parts: ±1 forward, kernel / scale backward.
    return layer.convolution_op(value, kernel / scale) * scale
