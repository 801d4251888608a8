"""Dead sign activations of a supernet: their output is constant, or they pass no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.operations import chain
from bnas_larq.supernet.edge_channels import picked
from bnas_larq.supernet.search_cell import SearchCell
from bnas_larq.supernet.super_net import SuperNet


def dead_sign_share(supernet: SuperNet, images: tf.Tensor) -> float | None:
    """Share of dead channels among all channels whose sign the candidates take.

    A channel is dead on these images if its sign is the same at every position of every image, or
    if the sign's straight-through gradient is 0 at all of them (larq's `SteSign`: |x| > 1). Both
    are measured with BatchNorm's moving statistics, as in evaluation: in training it centres every
    channel that is not constant. A sign that candidates share counts once; pruned candidates do not
    count. No weight changes. Without any sign the share is None.

    Args:
        images: [batch, height, width, channels], as the supernet takes them.
    """
    dead: list[np.ndarray] = []
    older = chain(supernet.stem, images, False)
    newer = chain(supernet.second_stem, older, False)
    normal, reduce = supernet.choices(training=False)
    for cell in supernet.cells:
        choice = reduce if cell.plan.reduction else normal
        values = cell.values((older, newer), choice, False)
        for quantizer, signed in _sign_inputs(cell, values):
            dead.append(dead_channels(quantizer, signed).numpy())
        older, newer = newer, cell.output_of(values, (older, newer), False)
    return float(np.mean(np.concatenate(dead))) if dead else None


def _sign_inputs(
    cell: SearchCell, values: Sequence[tf.Tensor]
) -> Iterator[tuple[Callable, tf.Tensor]]:
    """(quantizer, what it takes the sign of) for all live candidates of a cell."""
    for edges, value in zip(cell.outgoing, values, strict=False):
        if cell.sampling is not None:
            value, _ = cell.sampling.split(value, edges.strides)
        memory: dict = {}
        seen = set()
        for candidate in edges.candidates:
            alive = edges.alive[:, candidate.column]
            chains = candidate.chains
            if candidate.sharing == "edge":
                chains = [layers for layers, live in zip(chains, alive, strict=True) if live]
            for layers in chains if alive.any() else []:
                for index, layer in enumerate(layers):
                    quantizer = _quantizer(layer)
                    if quantizer is None:
                        continue
                    read = chain(layers[:index], value, False, memory)
                    if (key := (id(layer), id(read))) not in seen:
                        seen.add(key)
                        if read.shape[-1] == len(alive) * value.shape[-1]:
                            # Behind a first convolution: the channels of all edges.
                            read = picked(read, np.flatnonzero(alive).tolist(), len(alive))
                        yield quantizer, read


def _quantizer(layer: keras.layers.Layer) -> Callable | None:
    """The 1-bit quantizer of a layer's input, or None."""
    if isinstance(layer, lq.quantizers.Quantizer):
        quantizer = layer
    elif isinstance(layer, keras.layers.Activation):
        quantizer = layer.activation
    else:
        quantizer = getattr(layer, "input_quantizer", None)
    return quantizer if getattr(quantizer, "precision", None) == 1 else None


def dead_channels(quantizer: Callable, inputs: tf.Tensor) -> tf.Tensor:
    """Booleans [channels]: the quantised value of `inputs`, [batch, height, width, channels], never
    changes, or no gradient passes."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        signs = quantizer(inputs)
    gradient = tape.gradient(signs, inputs)
    axes = list(range(len(inputs.shape) - 1))
    constant = tf.reduce_max(signs, axes) == tf.reduce_min(signs, axes)
    return constant | tf.reduce_all(gradient == 0.0, axes)
