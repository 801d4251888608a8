"""Lint: what an exported file will hold, without converting: which layers are not 1-bit, what that
costs, and which branches of the cells carry no signal.

Figures are of the file, not of the network on paper: a convolution that was meant to be binary but
exports in full precision costs float operations and four bytes per weight here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import BINARY_MACS_PER_OP, LayerCost, count_costs
from bnas_larq.costs.float_kernels import FLOAT32, FLOAT_STORAGES, kernel_bytes
from bnas_larq.costs.multiplications import calls
from bnas_larq.costs.peak_memory import WORD_BITS
from bnas_larq.errors import ExportError
from bnas_larq.export.converter import check_float32, image_shape
from bnas_larq.export.dead_branches import DeadBranches, dead_branches
from bnas_larq.export.layer_precision import Verdict, judge
from bnas_larq.export.nested_models import flattened
from bnas_larq.export.padding import overhangs
from bnas_larq.export.tensor_facts import trace
from bnas_larq.genotype import Genotype
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.networks.network import NetworkConfig

_FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class LintedLayer:
    """A layer as it will be in the file.

    Attributes:
        name, kind: as in `Verdict`; `kind` is the class for layers without a kernel.
        binary: whether it is a 1-bit convolution.
        cause, reason: why it is not, see `Verdict`; empty if it is, or has no kernel.
        meant: whether its kernel was meant to be binary.
        macs: MACs per image, 1-bit if `binary`.
        bytes: its weights in the file; of a BatchNorm all vectors, although convolutions absorb
            some of them.
        channels: input channels of a 1-bit convolution (of each group), else 0.
        wasted_bits: unused bits in the packed words of one window position of a 1-bit convolution.
        saved: storage of full-precision kernels → how many of `bytes` it saves.
        groups: of a convolution.
        products: how many convolutions of the file it becomes, one for each pair of ABC-Net's
            bases.
    """

    name: str
    kind: str
    binary: bool
    cause: str
    reason: str
    meant: bool
    macs: int
    bytes: int
    channels: int = 0
    wasted_bits: int = 0
    saved: Mapping[str, int] = dataclasses.field(default_factory=dict)
    groups: int = 1
    products: int = 1

    @property
    def ops(self) -> float:
        """MACs, 1-bit ones divided by 64."""
        return self.macs / BINARY_MACS_PER_OP if self.binary else float(self.macs)


@dataclasses.dataclass(frozen=True)
class Lint:
    """The findings of `lint`.

    Attributes:
        name: the model's name.
        blockers: why it cannot be converted as it is, in sentences.
        layers: all layers that multiply or hold weights.
        constants: arrays that are the same for every image: name → bytes. The zeros of Zeroise (one
            array for each shape), and what exact padding subtracts.
        planned_ops: OPs of the network as meant: MACs that were meant to be 1-bit divided by 64.
        dead: dead branches of the genotype's cells; empty without a genotype.
        peak_activation_bytes: see `bnas_larq.costs.peak_memory`.
    """

    name: str
    blockers: tuple[str, ...]
    layers: tuple[LintedLayer, ...]
    constants: dict[str, int]
    planned_ops: float
    dead: tuple[DeadBranches, ...]
    peak_activation_bytes: int | None = None

    @property
    def convolutions(self) -> list[LintedLayer]:
        """Layers with a kernel, 1-bit or not."""
        return [layer for layer in self.layers if layer.binary or layer.cause]

    @property
    def binary(self) -> list[LintedLayer]:
        """Convolutions that will be 1-bit."""
        return [layer for layer in self.layers if layer.binary]

    @property
    def not_binary(self) -> list[LintedLayer]:
        """Convolutions and dense layers that will not be 1-bit."""
        return [layer for layer in self.layers if layer.cause]

    @property
    def ops(self) -> float:
        """OPs of the file per image, 1-bit MACs divided by 64."""
        return sum(layer.ops for layer in self.layers)

    @property
    def outside_ops(self) -> float:
        """The part of `ops` outside 1-bit convolutions."""
        return sum(layer.ops for layer in self.layers if not layer.binary)

    @property
    def bytes(self) -> int:
        """Weights and constants of the file, without its structure."""
        return sum(layer.bytes for layer in self.layers) + sum(self.constants.values())

    @property
    def bytes_by_storage(self) -> dict[str, int]:
        """`bytes` for each storage of full-precision kernels."""
        return {
            storage: self.bytes - sum(layer.saved.get(storage, 0) for layer in self.layers)
            for storage in FLOAT_STORAGES
        }

    @property
    def outside_bytes(self) -> int:
        """The part of `bytes` outside 1-bit convolutions."""
        return self.bytes - sum(layer.bytes for layer in self.binary)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "blockers": list(self.blockers),
            "binary": sum(layer.products for layer in self.binary),
            "not_binary": {layer.name: layer.reason for layer in self.not_binary},
            "ops": self.ops,
            "planned_ops": self.planned_ops,
            "outside_ops": self.outside_ops,
            "bytes": self.bytes,
            "outside_bytes": self.outside_bytes,
            "bytes_by_storage": self.bytes_by_storage,
            "peak_activation_bytes": self.peak_activation_bytes,
            "constants": dict(self.constants),
            "dead_branches": [dataclasses.asdict(dead) for dead in self.dead],
            "layers": [{**dataclasses.asdict(layer), "ops": layer.ops} for layer in self.layers],
        }


def lint(
    model: keras.Model, genotype: Genotype | None = None, config: NetworkConfig | None = None
) -> Lint:
    """Predict what `bnas_larq.export.converter.convert` makes of a model, without converting it.

    Larq Compute Engine need not be installed.

    Args:
        model: functional or sequential, for images of a fixed size; nested models are followed.
        genotype, config: of a BNAS network, to report the dead branches of its cells.

    Raises:
        ExportError: the model, or one nested in it, has no graph.
        BnasLarqError: its input size is open, so nothing can be counted.
    """
    flat = flattened(model)
    verdicts = judge(flat)
    costs = count_costs(flat)
    return Lint(
        name=model.name,
        blockers=tuple(_blockers(model, flat)),
        layers=tuple(
            _linted(cost, verdicts.get(cost.name), flat.get_layer(cost.name))
            for cost in costs.layers
        ),
        constants=_constants(flat),
        planned_ops=costs.ops_honest,
        dead=tuple(dead_branches(genotype, config)) if genotype else (),
        peak_activation_bytes=costs.peak_activation_bytes,
    )


def _blockers(model: keras.Model, flat: keras.Model) -> Iterator[str]:
    for check, checked in ((image_shape, model), (check_float32, flat)):
        try:
            check(checked)
        except ExportError as error:
            yield str(error)


def _linted(cost: LayerCost, verdict: Verdict | None, layer: keras.layers.Layer) -> LintedLayer:
    macs = sum(cost.macs.values())
    if verdict is None:
        plain = LintedLayer(cost.name, cost.kind, False, "", "", False, macs, cost.bytes)
        bases = isinstance(layer, ABCConv2D) and None not in layer.bases
        return _of_bases(plain, layer) if bases else plain
    kernel = math.prod(verdict.kernel)
    # Costs count one bit per weight for a kernel that is meant to be binary, even if it exports as
    # float.
    rest = max(0, cost.bytes - (-(-kernel // 8) if verdict.meant else _FLOAT_BYTES * kernel))
    channels = wasted = 0
    if verdict.cause == "constant":
        macs = stored = 0
    elif verdict.binary:
        channels = verdict.kernel[-2]
        wasted = -channels % WORD_BITS
        stored = _packed_bytes(verdict.kernel) + rest
    else:
        stored = _FLOAT_BYTES * kernel + rest
    fields = ("name", "kind", "binary", "cause", "reason", "meant", "groups")
    judged = {field: getattr(verdict, field) for field in fields}
    return LintedLayer(
        **judged,
        macs=macs,
        bytes=stored,
        channels=channels,
        wasted_bits=wasted,
        saved=_saved(cost, verdict),
    )


def _packed_bytes(kernel: Sequence[int]) -> int:
    """Bytes of a 1-bit kernel, whose input channels fill words."""
    *window, channels, filters = kernel
    return math.prod(window) * filters * -(-channels // WORD_BITS) * WORD_BITS // 8


def _of_bases(plain: LintedLayer, layer: ABCConv2D) -> LintedLayer:
    """An `ABCConv2D`: M kernels, a scale per filter for each pair of bases, and N shifts."""
    weights, activations = layer.bases
    *_, channels, filters = layer.kernel.shape
    scales = weights * activations * filters + activations
    return dataclasses.replace(
        plain,
        binary=True,
        meant=True,
        bytes=weights * _packed_bytes(layer.kernel.shape) + _FLOAT_BYTES * scales,
        channels=channels,
        wasted_bits=-channels % WORD_BITS,
        products=weights * activations,
    )


def _saved(cost: LayerCost, verdict: Verdict) -> dict[str, int]:
    """`LintedLayer.saved` of a layer with a kernel."""
    if verdict.binary or verdict.cause == "constant":
        return {}
    if not verdict.meant:
        bits = {storage: kinds.total() for storage, kinds in cost.memory.items()}
        return {storage: (bits[FLOAT32] - bits[storage]) // 8 for storage in FLOAT_STORAGES}
    size = math.prod(verdict.kernel)
    channels = math.prod(verdict.kernel[-2 if verdict.kind == "depthwise" else -1 :])
    return {s: _FLOAT_BYTES * size - kernel_bytes(size, channels, s) for s in FLOAT_STORAGES}


def _constants(flat: keras.Model) -> dict[str, int]:
    """`Lint.constants`."""
    facts = trace(flat)
    constants: dict[str, int] = {}
    zero_shapes: set[tuple[int | None, ...]] = set()
    read = [tensor for node in calls(flat) for tensor in node.keras_inputs]
    needed = {
        id(tensor)
        for node in calls(flat)
        if not all(facts[id(output)].constant for output in tf.nest.flatten(node.outputs))
        for tensor in node.keras_inputs
    } | {id(tensor) for tensor in flat.outputs}
    for tensor in {id(tensor): tensor for tensor in [*read, *flat.outputs]}.values():
        known, shape = facts[id(tensor)], tuple(tensor.shape[1:])
        if not known.constant or id(tensor) not in needed or (known.zeros and shape in zero_shapes):
            continue
        zero_shapes.update([shape] if known.zeros else [])
        name = f"zeros of {tensor.node.layer.name}" if known.zeros else tensor.node.layer.name
        constants[name] = _FLOAT_BYTES * math.prod(size or 1 for size in shape)
    for layer in flat.layers:
        if overhangs(layer):
            shapes = {tuple(node.output_shapes[1:]) for node in layer.inbound_nodes}
            constants[f"exact padding of {layer.name}"] = _FLOAT_BYTES * sum(map(math.prod, shapes))
    return constants
