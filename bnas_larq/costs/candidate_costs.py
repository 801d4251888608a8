"""What each candidate would cost on each edge of a final network, and the parts that all have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from bnas_larq.costs.accounting import Costs
from bnas_larq.costs.cost_walk import Part, PlannedCell, planned_parts
from bnas_larq.costs.latency_tables import LatencyTable, Place
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.spaces import ZEROISE, SearchSpace

#: (operation or part of the template, the part) → its cost.
Price = Callable[[str, Part], float]


def ops(name: str, part: Part) -> float:
    """OPs: full-precision MACs, shortcuts included, + 1-bit MACs / 64."""
    return Costs(name, part.layers).ops_honest


def stored_bytes(name: str, part: Part) -> float:
    """Bytes as deployed, see `bnas_larq.costs.accounting`; not rounded."""
    return Costs(name, part.layers).bits / 8


def latency(table: LatencyTable) -> Price:
    """Milliseconds of a table."""

    def milliseconds(name: str, part: Part) -> float:
        rows, columns, _ = part.source
        # The classifier's pool leaves no positions.
        stride = max(1, round(rows / part.result[0])) if len(part.result) == 3 else 1
        return table.milliseconds(name, Place(stride, part.result[-1], (rows, columns)))

    return milliseconds


@dataclasses.dataclass(frozen=True)
class CellCosts:
    """Costs of one cell.

    Attributes:
        reduction: its kind.
        edges: [edges, operations] of the search space: each candidate on each edge.
        inputs: [2]: preprocessing of the older and the newer input.
        shortcut: the way from the previous cell's output.
        has_shortcut: whether there is one, with or without layers.
    """

    reduction: bool
    edges: np.ndarray
    inputs: np.ndarray
    shortcut: float
    has_shortcut: bool


@dataclasses.dataclass(frozen=True)
class NetworkCosts:
    """Costs of all parts that networks of one size can have.

    Attributes:
        stems: the CIFAR stem, or both parts of the ImageNet stem.
        cells: in their order.
        classifier: pool and dense layer.
    """

    stems: tuple[float, ...]
    cells: tuple[CellCosts, ...]
    classifier: float

    @property
    def least(self) -> float:
        """What all networks cost at least: those parts that none is without."""
        return self.stems[0] + self.classifier + sum(cell.shortcut for cell in self.cells)


def candidate_costs(space: SearchSpace, config: NetworkConfig, price: Price) -> NetworkCosts:
    """Costs of everything that a network of this space and size can be made of.

    They are read off networks (`planned_parts`, which final networks are counted by) in which every
    edge carries the same operation.

    Raises:
        BnasLarqError: the price knows no answer.
    """
    memory: dict = {}
    columns: dict[str, list[np.ndarray]] = {}
    for name in dict.fromkeys(space.normal + space.reduce):
        cell = [[(name, state) for state in range(2 + node)] for node in range(space.nodes)]
        parts = planned_parts(Genotype(cell, cell), config, dead_branches=True, memory=memory)
        offered = {False: name in space.normal, True: name in space.reduce}
        columns[name] = [
            _column(name, planned, space, price) if offered[planned.plan.reduction] else None
            for planned in parts.cells
        ]
    # What is no edge is the same in all of them.
    cells = []
    for index, planned in enumerate(parts.cells):
        reduction = planned.plan.reduction
        names = space.reduce if reduction else space.normal
        shortcut = planned.shortcut
        cells.append(
            CellCosts(
                reduction,
                np.stack([columns[name][index] for name in names], axis=1),
                np.array([price("preprocess", part) for part in planned.inputs]),
                price("shortcut", shortcut) if shortcut and shortcut.layers else 0.0,
                shortcut is not None,
            )
        )
    stems = tuple(price("stem", part) for part in parts.stems)
    return NetworkCosts(stems, tuple(cells), price("classifier", parts.classifier))


def _column(name: str, planned: PlannedCell, space: SearchSpace, price: Price) -> np.ndarray:
    """One candidate on all edges of a cell."""
    if name == ZEROISE:
        return np.zeros(len(space.edges))
    return np.array([price(name, planned.edges[edge]) for edge in space.edges])
