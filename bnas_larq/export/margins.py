"""Explicit zero margins without the rows and columns that no window reaches.

Observed with LCE 0.16: `ZeroPadding2D(1)` before a VALID convolution with stride 2 on an even size,
as PyTorch's networks and many of Keras' own have it, is taken for SAME padding, because the output
has SAME's size; but SAME pads such a size at the end only, and the file computes something else.
Without the unused last row and column the function is the same, and the file right.
"""

from __future__ import annotations

from typing import Any

from bnas_larq.backend import keras
from bnas_larq.export.flat import calls

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def with_trimmed_margins(model: keras.Model) -> keras.Model:
    """The same function with margins as small as the convolutions behind them need.

    The model itself is returned when nothing needs to change, and always stays as it was.

    Args:
        model: one graph, see `bnas_larq.export.flat`.
    """
    paddings = {
        layer.name: kept
        for layer in model.layers
        if type(layer) is keras.layers.ZeroPadding2D and (kept := _kept(layer, model))
    }
    if not paddings:
        return model

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in paddings:
            config["padding"] = paddings[layer.name]
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=replacement)
    clone.set_weights(model.get_weights())
    return clone


def _kept(layer: keras.layers.ZeroPadding2D, model: keras.Model) -> list[list[int]] | None:
    """[[top, bottom], [left, right]] without what is not needed; None if all of it is."""
    nodes = list(calls(model))
    made = [id(node.outputs) for node in nodes if node.layer is layer]
    readers = [node for node in nodes if any(id(x) in made for x in node.keras_inputs)]
    if len(made) != 1 or not readers or made[0] in map(id, model.outputs):
        return None  # called at several sizes, or read by the user
    unused = [min(axis) for axis in zip(*map(_unused, readers), strict=True)]
    padding = [list(pair) for pair in layer.padding]
    kept = [
        [before, after - min(after, surplus)]
        for (before, after), surplus in zip(padding, unused, strict=True)
    ]
    return kept if kept != padding else None


def _unused(node: Any) -> tuple[int, int]:
    """Rows and columns at the end of its input that a call of a convolution does not read."""
    layer = node.layer
    sizes = node.input_shapes[1:3] if isinstance(node.input_shapes, tuple) else (None, None)
    if not isinstance(layer, _CONVOLUTIONS) or layer.padding != "valid" or None in sizes:
        return 0, 0
    return tuple(
        (size - dilation * (kernel - 1) - 1) % stride
        for size, kernel, dilation, stride in zip(
            sizes, layer.kernel_size, layer.dilation_rate, layer.strides, strict=True
        )
    )
