"""Costs of a network for one image: MACs by precision, operations in two conventions, bytes.

Papers count differently, so every figure names its convention:

- MACs: multiply-accumulates of convolutions and dense layers. Pooling, BatchNorm, sums and
  activations are not counted. A MAC has the precision of its wider operand: it is 1-bit only if
  both the kernel and the input are. Positions in the padding count, as is usual.
- `ops_paper`: full-precision MACs + 1-bit MACs / 64, the FLOPs column of Bi-Real Net (arXiv
  1808.00278) and BNAS (arXiv 2002.06963). BNAS' own figures are only reached if its inter-cell
  shortcut convolutions are divided by 64 too, although they are full precision.
- `ops_honest`: the same, with those shortcut convolutions counted as full precision.
- Bytes: as deployed. 1 bit per binary weight, 4 bytes per scale of a scaled binary kernel (one per
  output channel), 4 bytes per other weight, including all vectors of BatchNorm, although converters
  fold them away. Learned scales of channels and pixels count as their product, of one factor for
  each channel and pixel. Latent kernels and weights of kernel quantizers exist in training only.
- Bytes by kind: the same, for full-precision kernels stored as float32, float16 or int8 (one scale
  per output channel; see `bnas_larq.costs.float_kernels`).
- Peak activation memory: see `bnas_larq.costs.peak_memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.costs.multiplications import Multiplications, check_graph, multiplies, resized, size
from bnas_larq.costs.peak_memory import peak_of_calls
from bnas_larq.costs.weight_memory import Memory, bytes_by_kind, kinds_table, total, weight_memory
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.tables import align, scientific

#: 1-bit MACs in one operation of a 64-bit machine.
BINARY_MACS_PER_OP = 64
CONVENTIONS = ("paper", "honest")
#: Part of the name of every inter-cell shortcut convolution of a BNAS network.
SHORTCUT_MARK = "_shortcut_conv"


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer.

    Attributes:
        name: the layer's name; `model/layer` inside a nested model.
        kind: its class.
        output_shape: of its last call, without the batch axis.
        macs: bits of the wider operand → MACs for one image, over all calls of the layer.
        binary_macs, full_precision_macs: MACs of two 1-bit operands, and all others.
        parameters, trainable_parameters: number of weights.
        memory: bits as deployed, by kind of weight, for each storage of full-precision kernels.
        bits, bytes: their sum with float32 kernels; bytes are rounded up.
        shortcut: whether it is a full-precision inter-cell shortcut convolution of a BNAS network.
        countable: False if it may multiply in a way that is unknown here (see `Costs.uncounted`).
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    macs: dict[int, int]
    parameters: int
    trainable_parameters: int
    memory: Memory
    shortcut: bool = False
    countable: bool = True

    @property
    def binary_macs(self) -> int:
        return self.macs.get(1, 0)

    @property
    def full_precision_macs(self) -> int:
        return sum(self.macs.values()) - self.binary_macs

    @property
    def shortcut_macs(self) -> int:
        return self.full_precision_macs if self.shortcut else 0

    @property
    def bits(self) -> int:
        return self.memory[FLOAT32].total()

    @property
    def bytes(self) -> int:
        return -(-self.bits // 8)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("name", "kind", "output_shape", "binary_macs", "full_precision_macs", "parameters")
        keys += ("trainable_parameters", "bytes", "shortcut")
        values = {key: getattr(self, key) for key in keys}
        return {**values, "output_shape": list(self.output_shape)}


class Operations:
    """Operations in each convention, from numbers of MACs: of two 1-bit operands; all others; and
    those of the others that are in BNAS' inter-cell shortcuts."""

    binary_macs: int
    full_precision_macs: int
    shortcut_macs: int

    @property
    def ops_paper(self) -> float:
        """Operations as papers count them: BNAS' full-precision shortcuts are divided by 64 too."""
        divided = self.binary_macs + self.shortcut_macs
        return self.full_precision_macs - self.shortcut_macs + divided / BINARY_MACS_PER_OP

    @property
    def ops_honest(self) -> float:
        """All full-precision MACs + 1-bit MACs / 64."""
        return self.full_precision_macs + self.binary_macs / BINARY_MACS_PER_OP

    def ops(self, convention: str) -> float:
        """Operations in a convention, `"paper"` or `"honest"`; BnasLarqError for others."""
        check_convention(convention)
        return self.ops_paper if convention == "paper" else self.ops_honest


def check_convention(convention: str) -> None:
    """Raise BnasLarqError unless `convention` is known."""
    if convention not in CONVENTIONS:
        raise BnasLarqError(
            "Operations are counted as 'paper' or 'honest'. "
            f"Received: {convention!r}; {nearest(str(convention), CONVENTIONS)}"
        )


def _total(attribute: str) -> Any:
    """A property: the sum over all layers."""
    return property(lambda costs: sum(getattr(layer, attribute) for layer in costs.layers))


@dataclass(frozen=True)
class Costs(Operations):
    """Costs of a network for one image: layers that multiply or hold weights, and their totals.

    Attributes:
        parameters, trainable_parameters: number of weights.
        bits, bytes: memory as deployed; bytes are rounded up once, for the whole network.
        peak_activation_bytes: see `bnas_larq.costs.peak_memory`; None for a network that is not
            built.
        uncounted: layers with matrices whose MACs are not counted, as their use is unknown here.
    """

    name: str
    layers: tuple[LayerCost, ...]
    peak_activation_bytes: int | None = field(default=None, kw_only=True)

    binary_macs = _total("binary_macs")
    full_precision_macs = _total("full_precision_macs")
    shortcut_macs = _total("shortcut_macs")
    parameters = _total("parameters")
    trainable_parameters = _total("trainable_parameters")
    bits = _total("bits")

    @property
    def bytes(self) -> int:
        return -(-self.bits // 8)

    @property
    def bytes_by_kind(self) -> dict[str, dict[str, int]]:
        """Storage of full-precision kernels → kind of weight → bytes."""
        return bytes_by_kind(total([layer.memory for layer in self.layers]))

    @property
    def uncounted(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers if not layer.countable)

    def to_dict(self) -> dict[str, Any]:
        """Totals and layers, for JSON."""
        keys = ("name", "binary_macs", "full_precision_macs", "shortcut_macs", "ops_paper")
        keys += ("ops_honest", "bytes", "parameters", "trainable_parameters")
        keys += ("bytes_by_kind", "peak_activation_bytes")
        values = {key: getattr(self, key) for key in keys}
        layers = [layer.to_dict() for layer in self.layers]
        return {**values, "uncounted": list(self.uncounted), "layers": layers}

    def table(self) -> str:
        """Text: one line per layer, and the totals in both conventions."""
        header = ("layer", "kind", "output", "1-bit MACs", "other MACs", "parameters", "bytes")
        rows = [
            (
                layer.name + " *" * layer.shortcut,
                layer.kind,
                "×".join("?" if side is None else str(side) for side in layer.output_shape),
                f"{layer.binary_macs:,}",
                f"{layer.full_precision_macs:,}",
                f"{layer.parameters:,}",
                f"{layer.bytes:,}",
            )
            for layer in self.layers
        ]
        macs = "1-bit MACs, and BNAS' shortcuts marked *," if self.shortcut_macs else "1-bit MACs"
        lines = align([header, *rows], left=3)
        lines += [
            "",
            f"MACs: {self.binary_macs:,} 1-bit + {self.full_precision_macs:,} full precision",
            f"OPs, papers' convention: {scientific(self.ops_paper)} ({macs} divided by 64)",
            f"OPs, honest: {scientific(self.ops_honest)} (only 1-bit MACs divided by 64)",
            f"Memory: {self.bytes:,} bytes (1 bit per binary weight, 4 bytes per scale or other)",
            *(f"  {line}" for line in kinds_table(self.bytes_by_kind)),
            f"Parameters: {self.parameters:,}, {self.trainable_parameters:,} of them trainable",
        ]
        if self.peak_activation_bytes is not None:
            lines.append(f"Activations: {self.peak_activation_bytes:,} bytes at most at one time")
        if self.uncounted:
            lines.append(f"MACs not counted in: {', '.join(self.uncounted)}")
        return "\n".join(lines)


def count_costs(model: keras.Model, input_shape: Sequence[int] | None = None) -> Costs:
    """Count what `model` costs for one image.

    Args:
        model: a functional or sequential Keras model, with or without larq layers, also nested.
        input_shape: [height, width, channels] to count at; required if the model takes images of
            any size. The model itself is not changed.

    Returns:
        Costs per layer and in total. Layers that no output depends on are not part of a Keras
        graph, so dead branches cost nothing.

    Raises:
        BnasLarqError: the model is subclassed or not built, so it has no graph; or its input size
            is open and no `input_shape` is given.

    Example:
        >>> from bnas_larq import Genotype, build_network, count_costs
        >>> model = build_network(Genotype.published("bnas_cifar"), cells=1, channels=2)
        >>> costs = count_costs(model)
        >>> costs.binary_macs, costs.full_precision_macs, costs.bytes
        (98304, 165968, 1356)
    """
    check_graph(model)
    graph = model if input_shape is None else resized(model, [(None, *input_shape)])
    calls = Multiplications()
    outputs = calls.follow_all(graph)
    images = {number: tuple(tensor.shape[1:]) for number, tensor in enumerate(graph.inputs)}
    peak = peak_of_calls(calls.calls, images, outputs)
    layers = tuple(_layer_costs(model, "", calls, set()))
    return Costs(model.name, layers, peak_activation_bytes=peak)


def _layer_costs(
    model: keras.Model, prefix: str, calls: Multiplications, seen: set[int]
) -> Iterator[LayerCost]:
    """Costs of all layers that multiply or hold weights; a shared weight counts once."""
    for layer in model.layers:
        path = prefix + layer.name
        if isinstance(layer, keras.Model):
            yield from _layer_costs(layer, f"{path}/", calls, seen)
            continue
        weights = [weight for weight in layer.weights if id(weight) not in seen]
        seen.update(map(id, weights))
        if weights or path in calls.macs:
            yield layer_cost(layer, path, calls, weights)


def layer_cost(
    layer: keras.layers.Layer, path: str, calls: Multiplications, weights: Sequence[tf.Variable]
) -> LayerCost:
    """Cost of one built layer, given its key in the MACs of calls, and those of its weights to
    count."""
    trainable = {id(weight) for weight in layer.trainable_weights}
    macs = dict(calls.macs.get(path, {}))
    return LayerCost(
        name=path,
        kind=type(layer).__name__,
        output_shape=calls.shapes.get(path, ()),
        macs=macs,
        parameters=sum(map(size, weights)),
        trainable_parameters=sum(size(w) for w in weights if id(w) in trainable),
        memory=weight_memory(layer, weights),
        shortcut=SHORTCUT_MARK in layer.name and multiplies(layer) and 1 not in macs,
        countable=multiplies(layer) or not any(map(_is_matrix, weights)),
    )


def _is_matrix(weight: tf.Variable) -> bool:
    """Whether it could be a factor of a product; PReLU's [1, 1, C], say, is only a vector."""
    return sum(number > 1 for number in weight.shape) > 1
