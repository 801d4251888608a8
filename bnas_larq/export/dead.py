"""What Zeroise switches off in a genotype's cells: inputs and nodes that carry no signal.

Zeroise is a real choice of the search (BNAS, arXiv 2002.06963, §3.1): it makes networks cheaper.
What it leaves behind is worth knowing before a network goes to a device, where zeros take memory
too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bnas_larq.genotype import Cell, Genotype
from bnas_larq.layers.cells import live_edges, used_states
from bnas_larq.layers.template import plan_cells
from bnas_larq.models.network import NetworkConfig

_INPUTS = ("older", "newer")


@dataclasses.dataclass(frozen=True)
class DeadBranches:
    """What carries no signal in one kind of cell.

    Attributes:
        cell: `"normal"` or `"reduce"`.
        edges, zeroise: number of all edges, and of those that are Zeroise.
        unread: the cell's inputs, `"older"` or `"newer"`, that no operation reads: their 1×1
            preprocessing is not built.
        zero_nodes: nodes (from 0) of nothing but Zeroise: their part of the cell's output is zeros.
        constant_nodes: nodes whose operations read only such nodes: the same for every image.
        absent: names of layers that this network lacks for it.
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
        found = []
        for which in self.unread:
            built = f": not built are {', '.join(self.absent)}" if self.absent else ""
            found.append(f"{self.cell} cell: no operation reads its {which} input{built}")
        if self.zero_nodes:
            found.append(
                f"{self.cell} cell: {_nodes(self.zero_nodes)} nothing but Zeroise, "
                "zeros in its output"
            )
        if self.constant_nodes:
            found.append(
                f"{self.cell} cell: {_nodes(self.constant_nodes)} reading only zeros, "
                "the same for every image"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def dead_branches(genotype: Genotype, config: NetworkConfig | None = None) -> list[DeadBranches]:
    """Look for dead branches in both cells of a genotype.

    Args:
        config: the network's size, to name the layers that are absent.
    """
    return [
        _dead("normal", genotype.normal, config),
        _dead("reduce", genotype.reduce, config),
    ]


def _dead(kind: str, cell: Cell, config: NetworkConfig | None) -> DeadBranches:
    dead: dict[int, str] = {}  # state → why
    for index, node in enumerate(cell):
        live = live_edges(node)
        if not live:
            dead[2 + index] = "zero"
        elif all(edge.state in dead for edge in live):
            dead[2 + index] = "constant"
    used = used_states(cell)
    unread = [which for which in (0, 1) if which not in used]
    plans = plan_cells(config.cells, config.channels, config.stem) if config else []
    return DeadBranches(
        cell=kind,
        edges=sum(map(len, cell)),
        zeroise=sum(len(node) - len(live_edges(node)) for node in cell),
        unread=tuple(_INPUTS[which] for which in unread),
        zero_nodes=tuple(state - 2 for state, why in dead.items() if why == "zero"),
        constant_nodes=tuple(state - 2 for state, why in dead.items() if why == "constant"),
        absent=tuple(
            f"{plan.name}_preprocess{which}"
            for plan in plans
            if plan.reduction == (kind == "reduce")
            for which in unread
        ),
    )


def _nodes(numbers: tuple[int, ...]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"node {listed} is" if len(numbers) == 1 else f"nodes {listed} are"
