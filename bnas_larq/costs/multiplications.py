"""The calls in a Keras model's graph: their MACs by precision, and what they read and write.

More precise than a loop over layers: a layer called twice counts twice, a nested model counts at
the size it is called with, and an input is also 1-bit where an earlier layer took the sign.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bnas_larq.backend import keras, lq, tf, unbounded_kernels
from bnas_larq.costs.peak_memory import Call, layer_form
from bnas_larq.errors import BnasLarqError, one_line
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.layers.scaling import InputScale

#: Bits of values that are not quantised.
FULL_PRECISION = 32
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_LOCAL = (keras.layers.LocallyConnected1D, keras.layers.LocallyConnected2D)
#: Layers that only move, drop or select values at inference: signs stay signs.
_KEEPS_VALUES = (
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Concatenate,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    lq.quantizers.NoOp,
)


class Signal(NamedTuple):
    """Bits and number of a tensor."""

    bits: int
    number: int


@dataclass
class Multiplications:
    """MACs by precision and output shape of each layer, keyed by its path, and all calls.

    Tensors are told apart by numbers; the model's inputs are 0, 1, ….
    """

    macs: dict[str, Counter[int]] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    tensors: int = 0

    def follow_all(self, model: keras.Model) -> list[int]:
        """Add all calls in a model with full-precision inputs; returns its outputs' numbers."""
        images = [Signal(FULL_PRECISION, self._number()) for _ in model.inputs]
        return [signal.number for signal in self._follow(model, "", images)]

    def _number(self) -> int:
        self.tensors += 1
        return self.tensors - 1

    def _follow(self, model: keras.Model, prefix: str, inputs: Sequence[Signal]) -> list[Signal]:
        """Add all calls in a model, given its inputs; returns its outputs."""
        signals = dict(zip(map(id, model.inputs), inputs, strict=True))
        for node in calls(model):
            layer, path = node.layer, prefix + node.layer.name
            read = [signals[id(tensor)] for tensor in node.keras_inputs]
            outputs = tf.nest.flatten(node.outputs)
            if isinstance(layer, keras.Model):
                check_graph(layer)
                inner = resized(layer, [tensor.shape for tensor in node.keras_inputs])
                written = self._follow(inner, f"{path}/", read)
            else:
                bits, number = [signal.bits for signal in read], self._number()
                if outputs:
                    source, result = node.keras_inputs[0].shape[1:], tuple(outputs[0].shape[1:])
                    widest = max(bits, default=FULL_PRECISION)
                    self.add(path, layer, tuple(source), result, widest)
                    form = layer_form(layer, result, widest)
                    numbers = tuple(signal.number for signal in read)
                    self.calls.append(Call(form, numbers, number))
                written = [Signal(bits_behind(layer, bits), number)] * len(outputs)
            signals.update(zip(map(id, outputs), written, strict=True))
        return [signals[id(tensor)] for tensor in model.outputs]

    def add(
        self,
        path: str,
        layer: keras.layers.Layer,
        source: tuple[int | None, ...],
        result: tuple[int | None, ...],
        input_bits: int,
    ) -> None:
        """Add one call of a built layer, given the shapes of input and output without batch."""
        self.shapes[path] = result
        if not multiplies(layer):
            return
        quantizer = getattr(layer, "input_quantizer", None)
        if quantizer is not None:
            input_bits = getattr(quantizer, "precision", None) or FULL_PRECISION
        counter = self.macs.setdefault(path, Counter())
        if isinstance(layer, ABCConv2D):
            binary = None not in layer.bases
            products = math.prod(layer.bases) if binary else 1
            macs = products * size(layer.kernel) * _product(layer, result[:-1])
            counter[1 if binary else FULL_PRECISION] += macs
            return
        if isinstance(layer, InputScale):  # a convolution of one channel with a fixed kernel
            counter[FULL_PRECISION] += layer.kernel_size**2 * _product(layer, result)
            return
        for kernel, macs, reads_input in _products(layer, source, result):
            # The second half of a separable convolution reads sums, which are no longer 1-bit.
            operand_bits = input_bits if reads_input else FULL_PRECISION
            counter[max(operand_bits, weight_bits(kernel))] += macs


def calls(model: keras.Model) -> Iterator[Any]:
    """Every call of a layer in the model's graph, as Keras nodes in topological order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def multiplies(layer: keras.layers.Layer) -> bool:
    """Whether its MACs can be counted here."""
    kinds = (*CONVOLUTIONS, *_DEPTHWISE, *_SEPARABLE, *_LOCAL, keras.layers.Dense)
    return isinstance(layer, (*kinds, ABCConv2D, InputScale))


def _products(layer, source: tuple, result: tuple) -> Iterator[tuple[tf.Variable, int, bool]]:
    """(kernel, MACs, whether it reads the layer's input) of one call; shapes are without batch."""
    if isinstance(layer, keras.layers.Dense):
        yield layer.kernel, size(layer.kernel) * _product(layer, result[:-1]), True
        return
    # A transposed convolution multiplies each position of its input by the whole kernel.
    positions = _positions(layer, source if isinstance(layer, _TRANSPOSED) else result)
    if isinstance(layer, _LOCAL):
        channels = source[0 if layer.data_format == "channels_first" else -1]
        window = math.prod(layer.kernel_size) * channels
        yield layer.kernel, window * layer.filters * positions, True
    elif isinstance(layer, (*_DEPTHWISE, *_SEPARABLE)):
        yield layer.depthwise_kernel, size(layer.depthwise_kernel) * positions, True
        if isinstance(layer, _SEPARABLE):
            yield layer.pointwise_kernel, size(layer.pointwise_kernel) * positions, False
    else:
        # [*window, channels in / groups, channels out]
        uses = getattr(layer, "kernel_uses", 1)
        yield layer.kernel, size(layer.kernel) * uses * positions, True


def _positions(layer: keras.layers.Layer, shape: tuple[int | None, ...]) -> int:
    return _product(layer, shape[1:] if layer.data_format == "channels_first" else shape[:-1])


def _product(layer: keras.layers.Layer, sizes: Sequence[int | None]) -> int:
    if None in sizes:
        raise BnasLarqError(
            "Costs are counted for a fixed input size. "
            f"Received: layer {layer.name!r} with positions {tuple(sizes)}. "
            "Give count_costs an input_shape such as (224, 224, 3)."
        )
    return math.prod(sizes)


def bits_behind(layer: keras.layers.Layer, input_bits: Sequence[int]) -> int:
    """Bits of a layer's output at inference: 1 behind a sign, even if values are moved."""
    if isinstance(layer, _KEEPS_VALUES):
        return max(input_bits, default=FULL_PRECISION)
    if isinstance(layer, lq.quantizers.Quantizer):
        return layer.precision or FULL_PRECISION
    return getattr(getattr(layer, "activation", None), "precision", None) or FULL_PRECISION


def size(weight: tf.Variable) -> int:
    """Number of values of a weight."""
    return math.prod(weight.shape)


def weight_bits(weight: tf.Variable) -> int:
    """Precision of a weight in use: larq's quantised variables know theirs, all others have 32."""
    return getattr(weight, "precision", None) or FULL_PRECISION


def check_graph(model: keras.Model) -> None:
    """Raise BnasLarqError unless the model is a graph of layers."""
    if not getattr(model, "_is_graph_network", False):
        raise BnasLarqError(
            "Costs are counted along the graph of a functional or built sequential Keras model. "
            f"Received: {model.name!r}, a {type(model).__name__} without one. "
            "Build it with keras.Model(inputs, outputs), or give a Sequential its input shape."
        )


@unbounded_kernels()
def resized(model: keras.Model, shapes: Sequence[Any]) -> keras.Model:
    """The model itself if it was built for these input shapes, else a copy of its graph for them.

    Calling the model's own layers again would add to its graph.
    """
    inputs = [tuple(shape[1:]) for shape in shapes]
    if inputs == [tuple(tensor.shape[1:]) for tensor in model.inputs]:
        return model
    if len(inputs) != len(model.inputs):
        raise BnasLarqError(
            "Only a model with one input is counted at another input size. "
            f"Received: {model.name!r} with {len(model.inputs)} inputs. Omit the size."
        )
    try:
        copy = keras.models.clone_model(model, [keras.Input(shape) for shape in inputs])
        fits = [w.shape for w in copy.weights] == [w.shape for w in model.weights]
        reason = "its weights would need other shapes"
    except (ValueError, NotImplementedError) as error:
        fits, reason = False, one_line(error)
    if not fits:
        raise BnasLarqError(
            "Costs are counted at an input shape that the model accepts. "
            f"Received: {inputs} for {model.name!r} ({reason}). Give the shape of its images."
        )
    return copy
