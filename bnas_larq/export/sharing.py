"""Dilated convolutions that stand in each other's way.

TensorFlow writes a dilated convolution as three operations. Where two of one size read the same
signs, it computes the first operation once for both, and Larq Compute Engine (0.16) then recognises
neither: both stay float. BatchNorms of an untrained network are all alike, so signs behind them
are the same too; training tells them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

from bnas_larq.backend import keras, lq
from bnas_larq.export.flat import calls


def shared_dilations(model: keras.Model, vanish: tuple[type, ...]) -> dict[str, list[str]]:
    """Dilated convolutions that read the same signs as others of their size.

    Args:
        model: without nested models.
        vanish: kinds of layers that the converter drops.

    Returns:
        Name → names of the others.
    """
    keys: dict[int, Hashable] = {}
    groups: dict[Hashable, list[str]] = {}
    for node in calls(model):
        layer, inputs = node.layer, node.keras_inputs
        read = keys.get(id(inputs[0]), id(inputs[0]))
        if len(inputs) == 1 and not isinstance(node.outputs, (list, tuple, dict)):
            keys[id(node.outputs)] = _key(layer, read, vanish, id(node.outputs))
        if isinstance(layer, keras.layers.Conv2D) and set(layer.dilation_rate) != {1}:
            own = getattr(layer, "input_quantizer", None)
            signs = read if own is None or isinstance(own, lq.quantizers.NoOp) else ("sign", read)
            size = (layer.kernel_size, layer.dilation_rate, layer.padding, _padding(layer))
            group = groups.setdefault((signs, size), [])
            group += [layer.name] if layer.name not in group else []
    return {
        name: [other for other in group if other != name]
        for group in groups.values()
        if len(group) > 1
        for name in group
    }


def _key(
    layer: keras.layers.Layer, read: Hashable, vanish: tuple[type, ...], itself: int
) -> Hashable:
    """Equal for tensors that TensorFlow's optimizer sees to be equal."""
    if isinstance(layer, vanish):
        return read
    if isinstance(layer, lq.quantizers.Quantizer):
        return "sign", read
    if isinstance(layer, keras.layers.BatchNormalization):
        digest = hashlib.sha256(str(layer.epsilon).encode())
        for array in layer.get_weights():
            digest.update(array.tobytes())
        return "batch norm", digest.hexdigest(), read
    return itself


def _padding(layer: keras.layers.Layer) -> Any:
    return float(keras.backend.get_value(getattr(layer, "pad_values", 0.0)))
