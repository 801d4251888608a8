"""How many MACs a step needs at least, and the floor that follows: the seconds in which matrix
products of that many operations would be done.

Only convolutions and the classifier count. BatchNorm, sums, copies and optimizers come on top, and
so does whatever a supernet repeats: its floor is counted from the search space.

A convolution costs the same three times: forward, for the gradient of its input, and for the
gradient of its kernel. The input gradient is not needed where nothing before it learns: in the
ImageNet stem, whose first layer is a convolution. (The CIFAR stem begins with a BatchNorm, which
has a scale and an offset.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from bnas_larq.costs.accounting import LayerCost
from bnas_larq.costs.cost_walk import candidate_cells, planned_costs, walk_network
from bnas_larq.genotype import Genotype
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.spaces import SearchSpace

#: One multiplication and one addition.
FLOPS_PER_MAC = 2


@dataclasses.dataclass(frozen=True)
class StepArithmetic:
    """The MACs of one step: name of a pass → MACs for one image."""

    passes: Mapping[str, int]

    @property
    def macs(self) -> int:
        """MACs of all passes for one image."""
        return sum(self.passes.values())

    def flops(self, batch_size: int) -> int:
        """Floating-point operations of a step on a batch of this size."""
        return FLOPS_PER_MAC * batch_size * self.macs

    def floor(self, batch_size: int, rate: float) -> float:
        """Seconds of a step that does nothing else, at `rate` FLOP/s."""
        return self.flops(batch_size) / rate

    def to_dict(self, batch_size: int) -> dict[str, Any]:
        """For JSON."""
        return {"macs_per_image": dict(self.passes), "flops": self.flops(batch_size)}


def training_arithmetic(genotype: Genotype | None, config: BaseConfig) -> StepArithmetic:
    """A training step of a final network; raises as `build_network` does."""
    layers = planned_costs(genotype, config).layers
    forward = _macs(layers)
    passes = {"forward": forward, "input gradients": forward - _macs(layers[:1])}
    return StepArithmetic({**passes, "kernel gradients": forward})


def bilevel_arithmetic(
    space: SearchSpace,
    num_classes: int,
    *,
    cells: int,
    channels: int,
    input_shape: tuple[int, int, int],
    stem: str = "auto",
) -> StepArithmetic:
    """A first-order bilevel step of a supernet (DARTS, arXiv 1806.09055).

    The step of the weights is a training step. The step of α needs no kernel gradients, and input
    gradients only where α lie before: not in the stem, nor on edges whose input comes from the stem
    alone. Arguments are as of `bnas_larq.supernet.super_net.SuperNet`; BnasLarqError for impossible
    sizes or an unknown stem.
    """
    config = NetworkConfig(
        input_shape, num_classes, channels=channels, cells=cells, stem=stem, shortcut=space.shortcut
    )
    network = walk_network(candidate_cells(space), config, supernet=True, dead_branches=True)
    forward = sum(_macs(chain.layers) for chain in network.chains)
    before_alpha = list(network.stems)
    for index, cell in enumerate(network.cells[:2]):
        from_stem = range(2 - index)  # the second cell's newer input is the first cell's output
        before_alpha += [cell.inputs[state] for state in from_stem]
        edges = cell.edges.items()
        before_alpha += [chain for (_, edge), chain in edges if edge.state in from_stem]
    return StepArithmetic(
        {
            "alpha forward": forward,
            "alpha input gradients": forward - sum(_macs(chain.layers) for chain in before_alpha),
            "weights forward": forward,
            "weights input gradients": forward - _macs(network.stems[0].layers[:1]),
            "weights kernel gradients": forward,
        }
    )


def _macs(layers: Iterable[LayerCost]) -> int:
    return sum(sum(layer.macs.values()) for layer in layers)
