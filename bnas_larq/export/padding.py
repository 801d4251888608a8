"""Two kinds of padding that Larq Compute Engine (0.16) gets wrong, rewritten as the same function.

Zero padding on small feature maps (`with_exact_padding`): with default kernels on x86, and indirect
ones, a binary convolution with zero padding is wrong near the borders once its dilated kernel is
larger than the feature map: 5×5 with dilation 2 (9 pixels) on 8×8, 5×5 on 4×4, everything but 1×1
on 2×2. `use_reference_bconv=True` and `pad_values=1` are right everywhere. So pad with +1, which
costs a binary kernel nothing, and subtract what the ones add: this surplus does not depend on the
image, so it is one constant of the output's shape.

Explicit zero padding (`with_trimmed_margins`): `ZeroPadding2D(1)` before a VALID convolution with
stride 2 on an even size, common in PyTorch's and Keras' networks, is taken for SAME padding, since
the output has SAME's size. But SAME pads such a size at the end only, so the file computes a
different function. Without the last row and column, which no window reaches, the file is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.multiplications import calls
from bnas_larq.export.layer_precision import reads_whole_words
from bnas_larq.export.tensor_facts import gives_signs
from bnas_larq.layers.activations import RealActivation
from bnas_larq.layers.binary_convolution import BinaryConv2D
from bnas_larq.layers.convolution_kernels import grouped_convolution


def overhangs(layer: keras.layers.Layer) -> bool:
    """Whether it is a zero-padded binary convolution whose dilated kernel exceeds its input."""
    if (
        type(layer) not in (lq.layers.QuantConv2D, BinaryConv2D)
        or layer.padding != "same"
        or not reads_whole_words(layer)
        or layer.kernel_quantizer is None
        or keras.backend.get_value(layer.pad_values) != 0
        or not _reads_signs(layer)
    ):
        return False
    height, width = (
        (size - 1) * dilation + 1
        for size, dilation in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    )
    return any(height > shape[0] or width > shape[1] for shape in _input_shapes(layer))


def _reads_signs(layer: lq.layers.QuantConv2D) -> bool:
    if layer.input_quantizer is not None:
        return not isinstance(layer.input_quantizer, RealActivation)
    return any(gives_signs(node.keras_inputs[0].node.layer) for node in layer.inbound_nodes)


def _input_shapes(layer: keras.layers.Layer) -> list[tuple[int, int, int]]:
    """(height, width, channels) of each call; a layer may be called at several sizes."""
    return sorted({tuple(node.input_shapes[1:]) for node in layer.inbound_nodes})


class _OnePaddedConv2D(lq.layers.QuantConv2D):
    """A zero-padded binary convolution, computed as a one-padded one minus a constant.

    Exists during export only.

    Input shape: [1, height, width, channels]. Output shape: as of the layer that it replaces.
    """

    def __init__(self, *args, activation=None, pad_values=0.0, **kwargs) -> None:
        super().__init__(*args, pad_values=1.0, **kwargs)
        self.after = keras.activations.get(activation)
        self.surplus: dict[str, tf.Tensor] = {}

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        outputs = super().call(inputs)
        # LCE folds a constant behind a convolution into its bias, whatever its shape, and its
        # kernels then refuse the file. The reshape, which costs nothing, keeps the two apart; one
        # that only drops axes of size 1 would not, as on a map that is one pixel high.
        flat = tf.reshape(outputs, [-1, math.prod(outputs.shape[1:]), 1])
        surplus = self.surplus.get(str(inputs.shape[1:]), 0.0)
        return self.after(tf.reshape(flat - surplus, [-1, *outputs.shape[1:]]))

    def _jit_compiled_convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return grouped_convolution(self, inputs, kernel)

    def match(self, original: lq.layers.QuantConv2D) -> None:
        """Measure the surplus on an image of ones; any image gives the same."""
        linear = type(original).from_config({**original.get_config(), "activation": None})
        linear.build([1, *_input_shapes(original)[0]])
        linear.set_weights(original.get_weights())
        for shape in _input_shapes(original):
            probe = tf.ones([1, *shape])
            surplus = super().call(probe) - linear(probe)
            self.surplus[str(probe.shape[1:])] = tf.reshape(surplus, [1, -1, 1])


def with_exact_padding(model: keras.Model) -> tuple[keras.Model, list[str]]:
    """A copy that all of LCE's kernels compute correctly, and the names of the layers that changed;
    the model itself if none needs to."""
    names = [layer.name for layer in model.layers if overhangs(layer)]
    if not names:
        return model, []

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        kind = _OnePaddedConv2D if layer.name in names else type(layer)
        return kind.from_config(layer.get_config())

    clone = _clone(model, replacement)
    for name in names:
        clone.get_layer(name).match(model.get_layer(name))
    return clone, names


_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def with_trimmed_margins(model: keras.Model) -> keras.Model:
    """A copy of a model without nested ones, with margins as small as the convolutions behind them
    need; the model itself if none changes."""
    paddings = {
        layer.name: trimmed
        for layer in model.layers
        if type(layer) is keras.layers.ZeroPadding2D and (trimmed := _trimmed(layer, model))
    }
    if not paddings:
        return model

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in paddings:
            config["padding"] = paddings[layer.name]
        return type(layer).from_config(config)

    return _clone(model, replacement)


def _clone(
    model: keras.Model, replacement: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """A copy with each layer replaced, and the same weights."""
    clone = keras.models.clone_model(model, clone_function=replacement)
    clone.set_weights(model.get_weights())
    return clone


def _trimmed(layer: keras.layers.ZeroPadding2D, model: keras.Model) -> list[list[int]] | None:
    """[[top, bottom], [left, right]] without unread rows and columns; None if all are read."""
    nodes = list(calls(model))
    outputs = [id(node.outputs) for node in nodes if node.layer is layer]
    readers = [node for node in nodes if any(id(x) in outputs for x in node.keras_inputs)]
    if len(outputs) != 1 or not readers or outputs[0] in map(id, model.outputs):
        return None  # called several times, or an output of the model
    unused = [min(axis) for axis in zip(*map(_unused, readers), strict=True)]
    padding = [list(pair) for pair in layer.padding]
    trimmed = [
        [before, after - min(after, surplus)]
        for (before, after), surplus in zip(padding, unused, strict=True)
    ]
    return trimmed if trimmed != padding else None


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
