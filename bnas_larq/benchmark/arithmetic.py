"""What a step multiplies at least, counted from kernel shapes and output sizes, and the floor that
follows: the seconds in which matrix products of that many operations would be done.

Only convolutions and the classifier count: BatchNorm, sums, copies and optimizers are what a step
may cost on top. An edge-by-edge supernet and one that joins or shares work have the same floor, as
it is counted from the search space, not from the layers a supernet is made of.

A convolution is computed once forward; a gradient with respect to its input, or to its kernel,
costs as much again. Where nothing that learns lies before a convolution its input needs no
gradient, and such a pass does not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.costs.multiplications import FULL_PRECISION, Multiplications
from bnas_larq.genotype import Genotype
from bnas_larq.layers import template
from bnas_larq.layers.operations import Context, build_layer, build_operation
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.spaces import ZEROISE, SearchSpace

#: One multiplication and one addition.
FLOPS_PER_MAC = 2


@dataclasses.dataclass(frozen=True)
class StepArithmetic:
    """What one step multiplies.

    Attributes:
        passes: name of a pass → MACs for one image.
    """

    passes: Mapping[str, int]

    @property
    def macs(self) -> int:
        """MACs of all passes for one image."""
        return sum(self.passes.values())

    def flops(self, batch_size: int) -> int:
        """Floating-point operations of a step on batches of this size."""
        return FLOPS_PER_MAC * batch_size * self.macs

    def floor(self, batch_size: int, rate: float) -> float:
        """Seconds of a step that does nothing else, at `rate` FLOP/s."""
        return self.flops(batch_size) / rate

    def to_dict(self, batch_size: int) -> dict[str, Any]:
        """For JSON."""
        return {"macs_per_image": dict(self.passes), "flops": self.flops(batch_size)}


def training_arithmetic(genotype: Genotype, config: NetworkConfig) -> StepArithmetic:
    """A training step of a final network: forward, and the gradients of inputs and kernels.

    Raises:
        BnasLarqError, GenotypeError: as of `bnas_larq.networks.network.build_network`.
    """
    layers = planned_costs(genotype, config).layers
    macs = sum(sum(layer.macs.values()) for layer in layers)
    # A stem that begins with its convolution (ImageNet's) has no use for a gradient of the images;
    # one that begins with a BatchNorm with scale and offset (CIFAR's) has.
    on_the_image = sum(layers[0].macs.values())
    return StepArithmetic(
        {
            "forward": macs,
            "input gradients": macs - on_the_image,
            "kernel gradients": macs,
        }
    )


def bilevel_arithmetic(
    space: SearchSpace,
    num_classes: int,
    *,
    cells: int,
    channels: int,
    input_shape: tuple[int, int, int],
    stem: str = "cifar",
) -> StepArithmetic:
    """A first-order bilevel step of a supernet (DARTS, arXiv 1806.09055).

    Its half for the weights is a training step. Its half for α needs no kernel gradients, and
    gradients of inputs only where α lies before them: not in the stem, nor on edges from states
    that come from the stem alone.

    Args:
        space, num_classes, cells, channels, input_shape, stem: as of
            `bnas_larq.supernet.super_net.SuperNet`.

    Raises:
        BnasLarqError: impossible sizes or an unknown stem.
    """
    plans = template.plan_cells(cells, channels, stem)
    count = _Count()
    context = Context("", channels, supernet=True)
    image = _State(tuple(input_shape))
    if stem == "imagenet":
        first, second = template.imagenet_stem(channels, context)
        older = count.chain(first, image)
        newer = count.chain(second, older)
    else:
        older = newer = count.chain(template.cifar_stem(channels, context), image)
    for plan in plans:
        older, newer = newer, _cell(space, plan, (older, newer), stem, context, count)
    count.chain(template.classifier(num_classes), newer)
    return StepArithmetic(
        {
            "alpha forward": count.macs,
            "alpha input gradients": count.behind_alpha,
            "weights forward": count.macs,
            "weights input gradients": count.behind_weights,
            "weights kernel gradients": count.macs,
        }
    )


@dataclasses.dataclass(frozen=True)
class _State:
    """A tensor that is not there.

    Attributes:
        shape: without batch.
        weights, alpha: whether something trained, or α, lies before it.
    """

    shape: tuple[int, ...]
    weights: bool = False
    alpha: bool = False


class _Count:
    """Sums of MACs for one image: of all layers, and of those that have what learns before them."""

    def __init__(self) -> None:
        self.macs = self.behind_weights = self.behind_alpha = 0
        self._edges: dict[tuple, int] = {}

    def add(self, macs: int, state: _State) -> None:
        """Add a layer that reads `state`."""
        self.macs += macs
        self.behind_weights += macs * state.weights
        self.behind_alpha += macs * state.alpha

    def chain(self, layers: Sequence[keras.layers.Layer], state: _State) -> _State:
        """Add the layers, one after the other; the state behind them."""
        for layer in layers:
            macs, shape = _multiplied(layer, state.shape)
            self.add(macs, state)
            state = _State(shape, state.weights or bool(layer.trainable_weights), state.alpha)
        return state

    def edge(self, operation: str, context: Context, state: _State) -> None:
        """Add a candidate; equal ones are built once, as a supernet has hundreds of them."""
        key = (operation, context.filters, context.strides, state.shape)
        if key not in self._edges:
            macs, shape = 0, state.shape
            for layer in build_operation(operation, context):
                more, shape = _multiplied(layer, shape)
                macs += more
            self._edges[key] = macs
        self.add(self._edges[key], state)


def _multiplied(layer: keras.layers.Layer, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """(MACs for one image, output shape) of a layer on an input shape, both without batch."""
    if not layer.built:
        build_layer(layer, (None, *shape))
    result = tuple(layer.compute_output_shape((None, *shape)))[1:]
    calls = Multiplications()
    calls.add(layer.name, layer, shape, result, FULL_PRECISION)
    return sum(sum(macs.values()) for macs in calls.macs.values()), result


def _cell(
    space: SearchSpace,
    plan: template.CellPlan,
    states: tuple[_State, _State],
    stem: str,
    context: Context,
    count: _Count,
) -> _State:
    """Add a mixed cell; its output."""
    inputs = [
        count.chain(template.preprocess(plan, which, stem, context), state)
        for which, state in enumerate(states)
    ]
    rows, columns, _ = states[1].shape
    strides = 2 if plan.reduction else 1
    size = (-(-rows // strides), -(-columns // strides))
    node = _State((*size, plan.filters), weights=True, alpha=True)
    for row, (_, source) in enumerate(space.edges):
        for operation in space.reduce if plan.reduction else space.normal:
            if operation == ZEROISE:
                continue
            place = context.at(
                f"{plan.name}_edge{row}_{operation}", plan.filters, strides if source < 2 else 1
            )
            count.edge(operation, place, inputs[source] if source < 2 else node)
    if space.shortcut and plan.index > 0:
        count.chain(template.shortcut(plan, space.nodes, context), states[1])
    return _State((*size, space.nodes * plan.filters), weights=True, alpha=True)
