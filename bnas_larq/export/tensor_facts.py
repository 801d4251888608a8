"""Facts about the tensors of a Keras model, without running it: which are signs, and which Zeroise
makes constant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.multiplications import calls
from bnas_larq.layers.convolutions import Zeroise

#: Inputs on which a quantizer is tried out.
_PROBE = np.concatenate([np.linspace(-3.0, 3.0, 32), np.linspace(-0.01, 0.01, 8)])
#: Layers that the converter drops: a sign in front of them is directly in front of what follows.
DROPPED = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    lq.quantizers.NoOp,
)
#: Layers that map zeros to zeros.
_KEEP_ZEROS = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


@dataclasses.dataclass(frozen=True)
class TensorFacts:
    """What is known about a tensor.

    Attributes:
        sign: directly from a sign, so −1 and +1 only.
        constant: the same for every image, because it comes from Zeroise alone.
        zeros: constant, and zeros only.
    """

    sign: bool = False
    constant: bool = False
    zeros: bool = False


def trace(model: keras.Model) -> dict[int, TensorFacts]:
    """Tensor's id → facts, for every tensor of a model without nested models."""
    facts = {id(tensor): TensorFacts() for tensor in model.inputs}
    for node in calls(model):
        output = _output_facts(node.layer, [facts[id(tensor)] for tensor in node.keras_inputs])
        facts.update((id(tensor), output) for tensor in tf.nest.flatten(node.outputs))
    return facts


def common_facts(tensors: Sequence[TensorFacts]) -> TensorFacts:
    """What holds for all the tensors that a layer reads."""
    return TensorFacts(
        sign=all(facts.sign for facts in tensors),
        constant=bool(tensors) and all(facts.constant for facts in tensors),
        zeros=bool(tensors) and all(facts.zeros for facts in tensors),
    )


def _output_facts(layer: keras.layers.Layer, read: list[TensorFacts]) -> TensorFacts:
    if isinstance(layer, Zeroise):
        return TensorFacts(constant=True, zeros=True)
    if isinstance(layer, DROPPED):
        return read[0]
    common = common_facts(read)
    zeros = common.zeros and isinstance(layer, _KEEP_ZEROS)
    return TensorFacts(gives_signs(layer), common.constant, zeros)


def gives_signs(layer: keras.layers.Layer) -> bool:
    """Whether a layer ends in a sign."""
    is_quantizer = isinstance(layer, lq.quantizers.Quantizer)
    return is_sign(layer if is_quantizer else getattr(layer, "activation", None))


def is_sign(function: Any) -> bool:
    """Whether it returns −1 and +1 only; tried out, because users write their own quantizers."""
    if function is None:
        return False
    try:
        signs = np.asarray(function(tf.constant(_PROBE[:, None], tf.float32)))
    except (ValueError, TypeError, tf.errors.OpError):
        return False
    return set(np.unique(signs)) == {-1.0, 1.0}
