"""Peak activation memory (RAM): the largest sum of tensors alive at one time while a deployed
network works on one image.

The convention, for a network (`peak_of_calls`) and for an exported file (`bnas_larq.export`) alike:

- Operations run one after the other. A tensor is alive from the operation that writes it to the
  last one that reads it; the image and the outputs stay to the end, as TensorFlow Lite keeps them.
- Activations are float32. The signs that a binary convolution reads are packed, one bit per channel
  in words of 32. Weights and other constants (Zeroise) are not activations.
- No operation works in place, and scratch memory inside operations is not counted.

A network's layers run depth-first, in the order in which each reads its inputs. They become the
operations that Larq Compute Engine makes of them: BatchNorm is folded into a convolution in front
of it, elsewhere it is a multiplication and an addition; ReLU is fused into what is in front of it,
but for binary convolutions with zero padding; ABC-Net's convolutions of bases are added one by one.
A file may order independent branches differently, so that its peak differs, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bnas_larq.backend import keras, lq
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.layers.convolutions import Zeroise
from bnas_larq.layers.operations import FactorizedReduction

#: Channels in a packed word.
WORD_BITS = 32
#: Of a packed word, and of a float32 value.
_BYTES = 4
_IDENTICAL = (keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise)
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def peak_bytes(
    steps: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]],
    sizes: Mapping[Hashable, int],
    *,
    inputs: Collection[Hashable],
    outputs: Collection[Hashable],
) -> int:
    """Largest sum of sizes alive at one time.

    Args:
        steps: (tensors read, tensors written) of each operation, in order of execution.
        sizes: of the tensors, in bytes.
        inputs, outputs: of the network; they stay alive from when they are there to the end.

    Example:
        >>> steps = [(["image"], ["a"]), (["a"], ["b"]), (["a", "b"], ["sum"])]
        >>> peak_bytes(steps, {"image": 3, "a": 8, "b": 8, "sum": 8}, inputs=["image"], outputs=[])
        27
    """
    last = {tensor: index for index, sides in enumerate(steps) for side in sides for tensor in side}
    last |= dict.fromkeys((*inputs, *outputs), len(steps))
    alive, peak = set(inputs), sum(sizes[tensor] for tensor in inputs)
    for index, (_, written) in enumerate(steps):
        alive.update(written)
        peak = max(peak, sum(sizes[tensor] for tensor in alive))
        alive = {tensor for tensor in alive if last[tensor] > index}
    return peak


class LayerForm(NamedTuple):
    """What becomes of a layer in the deployed network.

    Attributes:
        kind: `identical`, `zeros`, `sign`, `norm`, `relu`, `conv`, `binary`, `reduction`
            (`FactorizedReduction`), `bases` (`ABCConv2D`), `sum` or `other`.
        quantized: whether it takes the sign of its input.
        fuses: whether a ReLU behind it becomes part of it.
        shape: of its output, without the batch axis.
        bases: M and N of `ABCConv2D`, None for a real kernel or input.
    """

    kind: str
    quantized: bool
    fuses: bool
    shape: tuple[int, ...]
    bases: tuple[int | None, int | None] = (None, None)


def layer_form(layer: keras.layers.Layer, shape: Sequence[int], input_bits: int) -> LayerForm:
    """The form of a built layer with this output, whose input has `input_bits`."""
    kind, fuses, bases = _kind(layer, input_bits), True, getattr(layer, "bases", (None, None))
    if kind == "binary" or None not in bases:
        pad = keras.backend.get_value(getattr(layer, "pad_values", 0.0))
        fuses = layer.padding == "valid" or pad == 1
    quantized = getattr(getattr(layer, "input_quantizer", None), "precision", None) == 1
    return LayerForm(kind, quantized, fuses, tuple(shape), bases)


def _kind(layer: keras.layers.Layer, input_bits: int) -> str:
    if isinstance(layer, (*_IDENTICAL, lq.quantizers.NoOp)) or type(layer).__name__ == "DropPath":
        return "identical"
    if isinstance(layer, lq.quantizers.Quantizer):
        return "sign" if layer.precision == 1 else "other"
    if isinstance(layer, Zeroise):
        return "zeros"
    if isinstance(layer, keras.layers.BatchNormalization):
        return "norm"
    if isinstance(layer, keras.layers.ReLU):
        return "relu"
    if isinstance(layer, keras.layers.Activation):
        if layer.activation is keras.activations.relu:
            return "relu"
        if layer.activation is keras.activations.linear:
            return "identical"
        if getattr(layer.activation, "precision", None) == 1:
            return "sign"
    if isinstance(layer, keras.layers.Add):
        return "sum"
    if isinstance(layer, FactorizedReduction):
        return "reduction"
    if isinstance(layer, ABCConv2D):
        return "bases"
    if not isinstance(layer, _CONVOLUTIONS):
        return "other"
    quantizer = getattr(layer, "input_quantizer", None)
    bits = input_bits if quantizer is None else getattr(quantizer, "precision", None)
    kernel = getattr(getattr(layer, "kernel", None), "precision", None)
    ordinary = isinstance(layer, keras.layers.Conv2D) and layer.groups == 1
    return "binary" if ordinary and bits == kernel == 1 else "conv"


class Call(NamedTuple):
    """A call of a layer: its form, the tensors given to it, and the one it writes.

    Zeros do not depend on what they are given: `inputs` are the tensors that are read.
    """

    form: LayerForm
    given: tuple[Hashable, ...]
    output: Hashable

    @property
    def inputs(self) -> tuple[Hashable, ...]:
        return () if self.form.kind == "zeros" else self.given


def depth_first(calls: Sequence[Call], outputs: Sequence[Hashable]) -> Iterator[Call]:
    """The calls that outputs depend on, each after those whose outputs it reads."""
    writers, done = {call.output: call for call in calls}, set()
    stack = [(tensor, False) for tensor in reversed(outputs)]
    while stack:
        tensor, ready = stack.pop()
        call = writers.get(tensor)
        if call is None or tensor in done:
            continue
        if ready:
            done.add(tensor)
            yield call
        else:
            stack.append((tensor, True))
            stack += [(source, False) for source in reversed(call.inputs)]


def peak_of_calls(
    calls: Sequence[Call], images: Mapping[Hashable, tuple[int, ...]], outputs: Sequence[Hashable]
) -> int | None:
    """Peak activation memory of a network in bytes; None if a size is open.

    Args:
        calls: its layers' calls, in any order.
        images: the network's inputs and their shapes, without the batch axis.
        outputs: its outputs.
    """
    if any(None in shape for shape in (*images.values(), *(call.form.shape for call in calls))):
        return None
    deployed = _Deployed()
    for tensor, shape in images.items():
        deployed.add_input(tensor, shape)
    ordered = list(depth_first(calls, outputs))
    deployed.count_readers(ordered, outputs)
    for call in ordered:
        deployed.add(call)
    tensors = [deployed.tensor(output) for output in outputs]
    return peak_bytes(
        deployed.steps,
        deployed.sizes,
        inputs=[deployed.tensor(image) for image in images],
        outputs=[tensor for tensor in tensors if tensor is not None],
    )


@dataclass
class _Deployed:
    """The operations of a deployed network, by the numbers of the tensors that they read and write.

    Attributes:
        values: a call's output → its tensor's number; None for one that is constant.
        fused: → whether BatchNorm, and whether ReLU behind it become part of its operation.
        signs: → the output whose sign it is; it is computed where it is read.
        computed: number, packed or not → the number of the tensor with its signs.
    """

    steps: list[tuple[list[int], list[int]]] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    values: dict[Hashable, int | None] = field(default_factory=dict)
    fused: dict[Hashable, tuple[bool, bool]] = field(default_factory=dict)
    signs: set[Hashable] = field(default_factory=set)
    computed: dict[tuple[int, bool], int] = field(default_factory=dict)
    readers: Counter = field(default_factory=Counter)

    def add_input(self, tensor: Hashable, shape: tuple[int, ...]) -> None:
        self.values[tensor] = self._new(shape)

    def count_readers(self, calls: Sequence[Call], outputs: Sequence[Hashable]) -> None:
        self.readers.update(tensor for call in calls for tensor in call.inputs)
        self.readers.update(outputs)

    def tensor(self, output: Hashable) -> int | None:
        """The number of a call's output, which is computed now if it is a sign."""
        number = self.values[output]
        if number is None or output not in self.signs:
            return number
        return self._signs_of(number, packed=False)

    def add(self, call: Call) -> None:
        """Add the operations of a call."""
        form, kind, output = call.form, call.form.kind, call.output
        first = call.given[0]
        if all(self.values[tensor] is None for tensor in call.inputs):
            self.values[output] = None
        elif kind in ("identical", "sign"):
            self._alias(call)
            if kind == "sign":
                self.signs.add(output)
        elif kind in ("norm", "relu") and self._absorbed(kind, first):
            self._alias(call)
        elif kind == "norm":
            self._step([self.tensor(first)], output, form.shape)
            self._step([self.values[output]], output, form.shape)
            self.fused[output] = (False, True)
        elif kind == "sum":
            total, *others = self._read(call)
            for other in others:
                self._step([total, other], output, form.shape)
                total = self.values[output]
            self.values[output] = total
            self.fused[output] = (False, True)
        elif kind == "reduction":
            self._reduction(call)
        elif kind == "bases":
            self._bases(call)
        else:
            read = [self._operand(call, tensor) for tensor in call.inputs]
            self._step([number for number in read if number is not None], output, form.shape)
            self.fused[output] = (kind in ("conv", "binary"), kind != "other" and form.fuses)

    def _alias(self, call: Call) -> None:
        first = call.inputs[0]
        self.values[call.output] = self.values[first]
        alone = self.readers[first] == 1
        self.fused[call.output] = self.fused.get(first, (False, False)) if alone else (False, False)
        if first in self.signs:
            self.signs.add(call.output)

    def _absorbed(self, kind: str, source: Hashable) -> bool:
        norm, relu = self.fused.get(source, (False, False))
        return self.readers[source] == 1 and (norm if kind == "norm" else relu)

    def _read(self, call: Call) -> list[int]:
        return [number for number in map(self.tensor, call.inputs) if number is not None]

    def _operand(self, call: Call, tensor: Hashable) -> int | None:
        number, form = self.values[tensor], call.form
        if number is None or not (form.quantized or tensor in self.signs):
            return number
        return self._signs_of(number, packed=form.kind == "binary")

    def _signs_of(self, number: int, *, packed: bool) -> int:
        """The signs of a tensor: packed, or float32 for what is no binary convolution."""
        if (number, packed) not in self.computed:
            source = number if packed else self._signs_of(number, packed=True)
            shape = self.shapes[number]
            result = self._new((*shape[:-1], -(-shape[-1] // WORD_BITS)) if packed else shape)
            self.steps.append(([source], [result]))
            self.computed[number, packed] = result
        return self.computed[number, packed]

    def _reduction(self, call: Call) -> None:
        """The input padded to even sides, without its first row and column; then the signs of this
        and of the input, a convolution of each, and both outputs together."""
        number, (*sides, channels) = self.values[call.inputs[0]], call.form.shape
        even = [side + side % 2 for side in self.shapes[number][:2]]
        padded = self._new((*even, self.shapes[number][2]))
        shifted = self._new((*(side - 1 for side in even), self.shapes[number][2]))
        self.steps += [([number], [padded]), ([padded], [shifted])]
        halves = []
        for source, filters in ((shifted, channels // 2), (number, channels - channels // 2)):
            halves.append(self._new((*sides, filters)))
            self.steps.append(([self._signs_of(source, packed=True)], [halves[-1]]))
        self._step(halves, call.output, call.form.shape)

    def _bases(self, call: Call) -> None:
        """The sum, one by one, of convolutions with each kernel of the input, or of the signs of
        what each activation base makes of it."""
        source, form, terms = self.tensor(call.inputs[0]), call.form, 0
        kernels, activations = form.bases
        for _ in range(activations or 1):
            read = source
            if activations:
                shifted = self._new(self.shapes[source])
                self.steps.append(([source], [shifted]))
                read = self._signs_of(shifted, packed=kernels is not None)
            for _ in range(kernels or 1):
                total, terms = self.values.get(call.output), terms + 1
                self._step([read], call.output, form.shape)
                if terms > 1:
                    self._step([total, self.values[call.output]], call.output, form.shape)
        self.fused[call.output] = (terms == 1, terms > 1 or form.fuses)

    def _step(self, read: list[int], output: Hashable, shape: tuple[int, ...]) -> None:
        self.values[output] = self._new(shape)
        self.steps.append((read, [self.values[output]]))

    def _new(self, shape: tuple[int, ...]) -> int:
        number = len(self.sizes)
        self.sizes[number] = _BYTES * math.prod(shape)
        self.shapes[number] = shape
        return number
