"""Tensor names and shapes of the authors' program, and the layers of ours that they belong to.

Their `cells.2._ops.5.op.0.weight` is the convolution of the sixth edge of the third cell; kernels
are [out, in, height, width]. All follows from genotype and size, without reading a file or building
a model, so that a checkpoint is checked before memory is spent on it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np

from bnas_larq.errors import WeightsError
from bnas_larq.genotype import Cell, Genotype
from bnas_larq.layers.cells import used_states
from bnas_larq.layers.template import CIFAR_STEM_MULTIPLIER, CellPlan
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.spaces import ZEROISE

#: Convolutions with full-precision kernels besides stem and shortcuts: none, or the last two of the
#: last cell, as in the authors' listing.
FULL_PRECISION = ("all-binary", "head")

_BINARY = re.compile(r"bin_(?:dil_)?conv_(\d)x\1")
_WITHOUT_WEIGHTS = (ZEROISE, "max_pool_3x3", "avg_pool_3x3")

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of theirs, and the layer of ours that takes its tensors."""

    key: str  # such as `cells.0.preprocess1.bn`
    layer: str  # such as `cell0_preprocess1_bn`
    #: Tensor (`weight`, `bias`, …) → their shape, in the order of the layer's weights.
    shapes: Mapping[str, Shape]
    live: bool = True  # whether we have the layer: an input that only Zeroise reads has none

    @property
    def tensors(self) -> dict[str, Shape]:
        """Full names of its tensors → shapes."""
        return {f"{self.key}.{name}": shape for name, shape in self.shapes.items()}


def layout(genotype: Genotype, config: NetworkConfig) -> list[Module]:
    """All modules with weights of a genotype's network, in the order of their listing; WeightsError
    for an operation that their program lacks."""
    modules = list(_stem(config))
    inputs = (modules[-1].shapes["weight"][0],) * 2  # channels of the older and the newer state
    for plan in config.plan_cells():
        cell = genotype.reduce if plan.reduction else genotype.normal
        modules += _cell(cell, plan, inputs, config.stem)
        inputs = (inputs[1], len(cell) * plan.filters)
    weight = (config.num_classes, inputs[1])
    return [*modules, Module("classifier", "classifier", {"weight": weight, "bias": weight[:1]})]


def head_convolutions(genotype: Genotype, config: NetworkConfig) -> tuple[str, ...]:
    """Layers that the authors' listing leaves in full precision, the last two candidates of the
    last cell; their inputs are binary."""
    last = f"cell{config.cells - 1}_node"
    names = [module.layer for module in layout(genotype, config)]
    own = [name for name in names if name.startswith(last) and name.endswith("_conv")]
    return tuple(own[-2:])


def sizes(tensors: Mapping[str, np.ndarray]) -> dict[str, int | str]:
    """Cells, channels, num_classes, stem and stem_groups (as of `NetworkConfig`), as the tensors'
    shapes tell; WeightsError unless they are a final network of the authors."""
    shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
    if any("._ops." in name.replace("._ops.", "", 1) for name in shapes):
        raise _not_theirs("a supernet's tensors (its candidates are all there)")
    cells = {int(m[1]) for m in (re.match(r"cells\.(\d{1,4})\.", name) for name in shapes) if m}
    if cells != set(range(len(cells))) or not cells:
        raise _not_theirs(f"{len(cells)} cells, not numbered from 0 without a gap")
    classes, _ = _shape(shapes, "classifier.weight", 2)
    settings: dict[str, int | str] = {"cells": len(cells), "num_classes": classes}
    if "stem.op.0.weight" in shapes:
        width, *_ = _shape(shapes, "stem.op.0.weight", 4)
        if width % CIFAR_STEM_MULTIPLIER:
            raise _not_theirs(f"a stem of {width} channels, no multiple of {CIFAR_STEM_MULTIPLIER}")
        return {**settings, "channels": width // CIFAR_STEM_MULTIPLIER, "stem": "cifar"}
    channels, inputs, *_ = _shape(shapes, "stem0.3.weight", 4)
    # A grouped convolution's kernel holds the input channels of one group only.
    groups = max(channels // 2 // inputs, 1)
    return {**settings, "channels": channels, "stem": "imagenet", "stem_groups": groups}


def to_keras(tensor: np.ndarray) -> np.ndarray:
    """A tensor in the layout of Keras: kernels [height, width, in, out], dense ones [in, out]."""
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _stem(config: NetworkConfig) -> Iterator[Module]:
    colours, width = config.input_shape[2], config.channels
    if config.stem == "cifar":
        yield _norm("stem.bn", "stem_bn", colours)
        yield _conv("stem.op.0", "stem_conv", colours, CIFAR_STEM_MULTIPLIER * width, 3)
        return
    groups = config.stem_groups
    yield _conv("stem0.0", "stem0_conv", colours, width // 2, 3)
    yield _norm("stem0.1", "stem0_bn", width // 2)
    yield _conv("stem0.3", "stem1_conv", width // 2 // groups, width, 3)
    yield _norm("stem0.4", "stem1_bn", width)
    yield _conv("stem1.1", "stem2_conv", width // groups, width, 3)
    yield _norm("stem1.2", "stem2_bn", width)


def _cell(cell: Cell, plan: CellPlan, inputs: tuple[int, int], stem: str) -> Iterator[Module]:
    key, filters = f"cells.{plan.index}", plan.filters
    used = used_states(cell)
    # Their ImageNet network has a class of its own for reduction cells.
    suffix = "_red" if plan.reduction and stem == "imagenet" else ""
    for state in (0, 1):
        strided = state == 0 and plan.after_reduction
        theirs, ours = f"{key}.preprocess{state}{suffix}", f"{plan.name}_preprocess{state}"
        affine, live = not (strided and stem == "cifar"), state in used
        yield _norm(f"{theirs}.bn", f"{ours}_bn", inputs[state], affine, live)
        size = 3 if strided else 1
        yield _conv(f"{theirs}.op.0", f"{ours}_conv", inputs[state], filters, size, live=live)
    if plan.reduction:
        theirs, ours = f"{key}.preprocess_res", f"{plan.name}_shortcut"
        yield _norm(f"{theirs}.0", f"{ours}_bn", inputs[1])
        yield _conv(f"{theirs}.1", f"{ours}_conv", inputs[1], len(cell) * filters, 2, bias=True)
    edges = [(node, edge) for node, edges in enumerate(cell) for edge in edges]
    for index, (node, edge) in enumerate(edges):
        if edge.op in _WITHOUT_WEIGHTS:
            continue
        match = _BINARY.fullmatch(edge.op)
        if match is None:
            raise WeightsError(
                "The authors' program knows Zeroise, 3x3 pools and binary convolutions. "
                f"Received: a genotype with {edge.op!r}. Give the one they were trained with."
            )
        theirs = f"{key}._ops.{index}"
        ours = f"{plan.name}_node{node}_from{edge.state}_{edge.op}"
        yield _norm(f"{theirs}.bn", f"{ours}_bn", filters)
        yield _conv(f"{theirs}.op.0", f"{ours}_conv", filters, filters, int(match[1]))


def _norm(key: str, layer: str, width: int, affine: bool = True, live: bool = True) -> Module:
    names = (("weight", "bias") if affine else ()) + ("running_mean", "running_var")
    return Module(key, layer, dict.fromkeys(names, (width,)), live)


def _conv(
    key: str, layer: str, inputs: int, filters: int, size: int, *, bias=False, live=True
) -> Module:
    shapes: dict[str, Shape] = {"weight": (filters, inputs, size, size)}
    return Module(key, layer, {**shapes, "bias": (filters,)} if bias else shapes, live)


def _shape(shapes: Mapping[str, Shape], name: str, rank: int) -> Shape:
    shape = shapes.get(name)
    if shape is None:
        raise _not_theirs(f"no tensor {name}")
    if len(shape) != rank or not all(shape):
        raise _not_theirs(f"{name} of shape {shape}")
    return shape


def _not_theirs(received: str) -> WeightsError:
    return WeightsError(
        "A checkpoint must hold a whole final network of the authors' program, under its names of "
        f"tensors. Received: {received}. Give the file that their training wrote."
    )
