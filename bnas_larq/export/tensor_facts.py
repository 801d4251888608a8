"""What is known of the tensors of a Keras model without running it: signs, and what Zeroise makes
constant."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.export.nested_models import calls
from bnas_larq.layers.convolutions import Zeroise

#: Inputs on which a quantizer must show that it is a sign.
_PROBE = np.concatenate([np.linspace(-3.0, 3.0, 32), np.linspace(-0.01, 0.01, 8)])
#: Layers that the converter drops: a sign in front of them is still straight in front.
VANISH = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    lq.quantizers.NoOp,
)
#: What makes zeros of zeros.
_KEEP_ZEROS = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.ReLU,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of a tensor.

    Attributes:
        sign: straight from a sign, so −1 and +1 only.
        constant: the same for every image, because all of it comes from Zeroise.
        zeros: constant, and nothing but zeros.
    """

    sign: bool = False
    constant: bool = False
    zeros: bool = False


def trace(model: keras.Model) -> dict[int, Value]:
    """What is known of every tensor of a model without nested models, by the tensor's identity."""
    values = {id(tensor): Value() for tensor in model.inputs}
    for node in calls(model):
        read = [values[id(tensor)] for tensor in node.keras_inputs]
        value = _output(node.layer, read)
        values.update((id(tensor), value) for tensor in tf.nest.flatten(node.outputs))
    return values


def merged(values: Sequence[Value]) -> Value:
    """What holds of all the tensors that a layer reads."""
    return Value(
        sign=all(value.sign for value in values),
        constant=bool(values) and all(value.constant for value in values),
        zeros=bool(values) and all(value.zeros for value in values),
    )


def _output(layer: keras.layers.Layer, read: list[Value]) -> Value:
    if isinstance(layer, Zeroise):
        return Value(constant=True, zeros=True)
    if isinstance(layer, VANISH):
        return read[0]
    known = merged(read)
    function = (
        layer if isinstance(layer, lq.quantizers.Quantizer) else getattr(layer, "activation", None)
    )
    return Value(is_sign(function), known.constant, known.zeros and isinstance(layer, _KEEP_ZEROS))


def is_sign(function: Any) -> bool:
    """Whether it gives −1 and +1 and nothing else; tried out, because anybody can write one."""
    if function is None:
        return False
    try:
        signs = np.asarray(function(tf.constant(_PROBE[:, None], tf.float32)))
    except (ValueError, TypeError, tf.errors.OpError):
        return False
    return set(np.unique(signs)) == {-1.0, 1.0}
