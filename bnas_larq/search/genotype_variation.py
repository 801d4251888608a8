"""How evolutions vary genotypes: mutations of one edge, and crossover of two genotypes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.spaces import ZEROISE, SearchSpace


@dataclasses.dataclass(frozen=True)
class Mutation:
    """An edge of a genotype, and what it may become.

    Attributes:
        cell: 0 for the normal, 1 for the reduction cell.
        node, edge: where it is.
        alternatives: to the edge.
    """

    cell: int
    node: int
    edge: Edge
    alternatives: Sequence[Edge]

    def __call__(self, genotype: Genotype, generator: random.Random) -> Genotype:
        """The genotype with one of the alternatives."""
        new = generator.choice(self.alternatives)
        nodes = list(genotype.cells[self.cell])
        nodes[self.node] = tuple(new if edge == self.edge else edge for edge in nodes[self.node])
        cells: list[Cell] = list(genotype.cells)
        cells[self.cell] = tuple(nodes)
        return Genotype(*cells)


def mutations(genotype: Genotype, space: SearchSpace) -> tuple[list[Mutation], list[Mutation]]:
    """Both kinds of mutation that Real et al. (arXiv 1802.01548) have: every edge with its other
    operations, and every edge that could read another state with those states.

    Example:
        >>> genotype = Genotype.random(SearchSpace.bnas(), seed=0)
        >>> operations, inputs = mutations(genotype, SearchSpace.bnas())
        >>> len(operations), len(operations[0].alternatives), len(inputs)
        (16, 6, 12)
        >>> operations[0](genotype, random.Random(0)) == genotype
        False
    """
    operations, inputs = [], []
    for number, cell in enumerate(genotype.cells):
        candidates = space.candidates[number]
        for node, edges in enumerate(cell):
            used = {edge.state for edge in edges}
            for edge in edges:
                others = [Edge(name, edge.state) for name in candidates if name != edge.op]
                operations.append(Mutation(number, node, edge, others))
                free = [Edge(edge.op, state) for state in range(2 + node) if state not in used]
                if free:
                    inputs.append(Mutation(number, node, edge, free))
    return operations, inputs


def crossover(one: Genotype, other: Genotype, generator: random.Random) -> Genotype:
    """A genotype that has each node from one of two parents, with both of its edges."""
    return Genotype(
        *(
            tuple(generator.choice(pair) for pair in zip(*cells, strict=True))
            for cells in zip(one.cells, other.cells, strict=True)
        )
    )


def carries_signal(genotype: Genotype) -> bool:
    """Whether neither cell is Zeroise alone, as of `Genotype.random`."""
    return all(any(edge.op != ZEROISE for node in cell for edge in node) for cell in genotype.cells)
