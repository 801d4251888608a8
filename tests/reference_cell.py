"""The mixed cell as its definition says: edge by edge, candidate by candidate. Slow and simple.

It reads the weights of a `MixedCell`, and is what that cell is compared with.
"""

from __future__ import annotations

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.mixed import MixedCell
from bnas_larq.layers.operations import chain


def edge_by_edge(
    cell: MixedCell, states, weights: tf.Tensor, training: bool = True, scale_inside: bool = True
) -> tf.Tensor:
    """The cell's output.

    Args:
        weights: of the mixture, [edges, operations].
        scale_inside: convolve ±scale, as the papers write it; False convolves ±1 and multiplies by
            the scale, which is the same but for rounding.
    """
    values = [chain(layers, x, training) for layers, x in zip(cell.preprocess, states, strict=True)]
    for node in range(cell.space.nodes):
        total = 0.0
        for row, (owner, state) in enumerate(cell.space.edges):
            if owner == node:
                mixed = cell.mixed_states[state]
                for candidate in mixed.candidates:
                    place = mixed.rows.index(row), len(mixed.rows)
                    output = on_one_edge(candidate, place, values[state], training, scale_inside)
                    total += output * weights[row, candidate.column]
        values.append(total)
    output = tf.concat(values[2:], axis=-1)
    return output + chain(cell.shortcut, states[1], training) if cell.has_shortcut else output


def on_one_edge(candidate, place, value, training=True, scale_inside=True) -> tf.Tensor:
    """One candidate's output on one edge, which is number place[0] of place[1]."""
    edge, edges = place
    layers = candidate.chains[edge if candidate.sharing == "edge" else 0]
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            value = batch_norm(layer, value, training)
        elif isinstance(layer, lq.layers.QuantConv2D) and candidate.sharing == "channels":
            kernel = tf.convert_to_tensor(layer.kernel)
            value = convolve(layer, value, tf.split(kernel, edges, axis=-1)[edge], scale_inside)
        else:
            value = layer(value)
    return value


def batch_norm(layer, value, training):
    """BatchNorm without scale and offset, which moves no statistics."""
    mean, variance = layer.moving_mean, layer.moving_variance
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
