"""Branches of a genotype's cells that carry no signal.

Zeroise is a choice of the search that makes networks cheaper (BNAS, arXiv 2002.06963, §3.1), but on
a device its zeros take memory.
"""

from __future__ import annotations

import dataclasses

from bnas_larq.genotype import Cell, Genotype
from bnas_larq.layers.cells import live_edges, used_states
from bnas_larq.networks.network import NetworkConfig

_INPUTS = ("older", "newer")


@dataclasses.dataclass(frozen=True)
class DeadBranches:
    """What carries no signal in a kind of cell.

    Attributes:
        cell: `"normal"` or `"reduce"`.
        edges, zeroise: number of all edges, and of Zeroise edges.
        unread: inputs of the cell, `"older"` or `"newer"`, that no operation reads, so that their
            1×1 preprocessing is not built.
        zero_nodes: nodes (from 0) with Zeroise edges only: their part of the cell's output is zero.
        constant_nodes: nodes that read only such nodes: the same for every image.
        absent: names of the preprocessing layers that are not built.
    """

    cell: str
    edges: int
    zeroise: int
    unread: tuple[str, ...]
    zero_nodes: tuple[int, ...]
    constant_nodes: tuple[int, ...]
    absent: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """The same for people; empty if everything carries a signal."""
        absent = f"; {', '.join(self.absent)} not built" if self.absent else ""
        sentences = [f"no operation reads its {state} input{absent}" for state in self.unread]
        if self.zero_nodes:
            sentences.append(f"{_nodes(self.zero_nodes)} only Zeroise edges, so only zeros")
        if self.constant_nodes:
            sentences.append(
                f"{_nodes(self.constant_nodes)} only zeros as input, so the same for every image"
            )
        return [f"{self.cell} cell: {sentence}" for sentence in sentences]


def dead_branches(genotype: Genotype, config: NetworkConfig | None = None) -> list[DeadBranches]:
    """Dead branches of both cells; `config`, the network's size, names the layers not built."""
    cells = {"normal": genotype.normal, "reduce": genotype.reduce}
    return [_dead_branches(kind, cell, config) for kind, cell in cells.items()]


def _dead_branches(kind: str, cell: Cell, config: NetworkConfig | None) -> DeadBranches:
    zero: list[int] = []
    constant: list[int] = []
    for index, node in enumerate(cell):
        live = live_edges(node)
        if not live:
            zero.append(index)
        elif all(edge.state - 2 in zero + constant for edge in live):
            constant.append(index)
    unread = sorted({0, 1} - used_states(cell))
    plans = config.plan_cells() if config else []
    return DeadBranches(
        cell=kind,
        edges=sum(map(len, cell)),
        zeroise=sum(len(node) - len(live_edges(node)) for node in cell),
        unread=tuple(_INPUTS[state] for state in unread),
        zero_nodes=tuple(zero),
        constant_nodes=tuple(constant),
        absent=tuple(
            f"{plan.name}_preprocess{state}"
            for plan in plans
            if plan.reduction == (kind == "reduce")
            for state in unread
        ),
    )


def _nodes(numbers: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"node {listed} has" if len(numbers) == 1 else f"nodes {listed} have"
