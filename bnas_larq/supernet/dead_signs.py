"""Dead sign activations of a supernet: what stands behind them reads constants, or what stands
before them receives no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.operations import chain
from bnas_larq.supernet.edge_channels import picked
from bnas_larq.supernet.mixed_cell import MixedCell
from bnas_larq.supernet.super_net import SuperNet


def dead_sign_share(supernet: SuperNet, images: tf.Tensor) -> float | None:
    """Share of dead channels among all channels that candidates take the sign of.

    A channel is dead on these images if its sign is the same at every position of every image, or
    if the sign's straight-through gradient is 0 at all of them (larq's `SteSign`: |x| > 1). Both
    are measured with the moving statistics of BatchNorm, as a network is evaluated: in training,
    BatchNorm would centre every channel that is not constant. Candidates that have the same sign in
    common count once; pruned ones do not count. No weight is changed.

    Args:
        images: [batch, height, width, channels], as the supernet takes them.

    Returns:
        The share, or None if no candidate takes a sign.
    """
    dead: list[np.ndarray] = []
    older = chain(supernet.stem, images, False)
    newer = chain(supernet.second_stem, older, False)
    normal, reduce = supernet.mixtures(training=False)
    mixtures = {False: normal, True: reduce}
    for cell in supernet.cells:
        values = cell.values((older, newer), mixtures[cell.plan.reduction], False)
        for quantizer, signed in _sign_inputs(cell, values):
            dead.append(dead_channels(quantizer, signed).numpy())
        older, newer = newer, cell.joined(values, (older, newer), False)
    return float(np.mean(np.concatenate(dead))) if dead else None


def _sign_inputs(
    cell: MixedCell, values: Sequence[tf.Tensor]
) -> Iterator[tuple[Callable, tf.Tensor]]:
    """(quantizer, what it takes the sign of) for all live candidates of a cell."""
    for mixed, value in zip(cell.mixed_states, values, strict=False):
        if cell.sampling is not None:
            value, _ = cell.sampling.split(value, mixed.strides)
        memory: dict = {}
        seen = set()
        for candidate in mixed.candidates:
            alive = mixed.alive[:, candidate.column]
            chains = candidate.chains
            if candidate.sharing == "edge":
                chains = [layers for layers, live in zip(chains, alive, strict=True) if live]
            for layers in chains if alive.any() else []:
                signs = [place for place, layer in enumerate(layers) if _quantizer(layer)]
                for place in signs:
                    read = chain(layers[:place], value, False, memory)
                    if (key := (id(layers[place]), id(read))) not in seen:
                        seen.add(key)
                        if read.shape[-1] == len(alive) * value.shape[-1]:
                            # Behind a first convolution: the channels of all edges.
                            read = picked(read, np.flatnonzero(alive).tolist(), len(alive))
                        yield _quantizer(layers[place]), read


def _quantizer(layer: keras.layers.Layer) -> Callable | None:
    """What takes the sign of a layer's input, or None."""
    if isinstance(layer, lq.quantizers.Quantizer):
        quantizer = layer
    elif isinstance(layer, keras.layers.Activation):
        quantizer = layer.activation
    else:
        quantizer = getattr(layer, "input_quantizer", None)
    return quantizer if getattr(quantizer, "precision", None) == 1 else None


def dead_channels(quantizer: Callable, inputs: tf.Tensor) -> tf.Tensor:
    """Booleans [channels]: the quantised value never changes, or no gradient passes.

    Args:
        quantizer: of activations.
        inputs: what it quantises, [batch, height, width, channels].
    """
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        signs = quantizer(inputs)
    gradient = tape.gradient(signs, inputs)
    axes = list(range(len(inputs.shape) - 1))
    constant = tf.reduce_max(signs, axes) == tf.reduce_min(signs, axes)
    return constant | tf.reduce_all(gradient == 0.0, axes)
