"""A genotype by perturbation: of each edge the candidate that a trained supernet misses most."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.console import say
from bnas_larq.errors import RunError
from bnas_larq.files import append_line, read_rows, read_rows_to_resume
from bnas_larq.fitting.callbacks import Progress
from bnas_larq.genotype import Cell, Edge
from bnas_larq.run_records import PerturbationRow
from bnas_larq.search.searcher import SearchData, running
from bnas_larq.search.single_path import PathAccuracy
from bnas_larq.spaces import KINDS, ZEROISE, SearchSpace
from bnas_larq.strategies import Strategy
from bnas_larq.supernet.fixed_choices import FixedMixture
from bnas_larq.supernet.super_net import SuperNet

#: File in a stage's folder: a line per decision.
RECORD = "perturbation.jsonl"


class PerturbationChoice:
    """The choice of DARTS-PT (Wang et al., arXiv 2108.04392, algorithm 1) from a trained supernet.

    1. Edge by edge in a random order, each candidate's weight is set to 0 in turn, and the one
       whose absence leaves the least accuracy is kept alone, with the weight 1.
    2. Node by node in a random order, each edge is left out in turn, and those are kept whose
       absence leaves the least accuracy.

    The other weights stay as they are, and so do the supernet's weights: the paper's training
    between the decisions is not done, and late ones may compare accuracies near chance. Each row
    therefore has the accuracy `before` the decision, with nothing left out. Of equally accurate
    absences, the candidate of the largest weight and the edge from the earliest state are kept.

    Args:
        space: of the supernet.
        measure: the supernet's accuracy with these weights of normal and reduction edges, float32
            [edges, operations].
        log: gets a line per decision; decisions that it holds are not made again.
        seed: of the orders.
        zeroise_competes: whether Zeroise may be kept.

    Example:
        >>> import tempfile
        >>> space = SearchSpace("small", *[("max_pool_3x3", "bin_conv_3x3")] * 2, nodes=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = Path(folder) / RECORD
        ...     choice = PerturbationChoice(space, lambda n, r: n[:, 1].sum(), log)
        ...     normal, reduce = choice([np.full([2, 2], 0.5)] * 2)
        >>> normal[0]
        (Edge(op='bin_conv_3x3', state=0), Edge(op='bin_conv_3x3', state=1))
    """

    def __init__(
        self,
        space: SearchSpace,
        measure: Callable[[np.ndarray, np.ndarray], float],
        log: Path,
        seed: int = 0,
        zeroise_competes: bool = True,
    ) -> None:
        self.space, self.measure, self.log = space, measure, log
        self.seed, self.zeroise_competes = seed, zeroise_competes

    @property
    def planned(self) -> int:
        """Number of decisions."""
        return 2 * (len(self.space.edges) + self.space.nodes)

    def __call__(
        self,
        weights: Sequence[np.ndarray],
        alive: Sequence[np.ndarray] | None = None,
        shown: Callable[[int], AbstractContextManager] = nullcontext,
    ) -> tuple[Cell, Cell]:
        """The normal and the reduction cell of a supernet with these mixture weights.

        Args:
            weights: of normal and reduction edges, [edges, operations].
            alive: booleans of the same shapes; pruned candidates are not kept.
            shown: the context that each decision is made in, by its number.

        Raises:
            RunError: the log is damaged, or of another space or seed.
        """
        mixture = [np.array(values, np.float32) for values in weights]
        rows = read_rows_to_resume(self.log, PerturbationRow, key="decision")
        generator = random.Random(f"perturbation {self.seed}")
        edges, nodes = range(len(self.space.edges)), range(self.space.nodes)
        decisions: list[tuple[Callable[..., dict[str, Any]], int, int]] = []
        for decide, places in ((self._operation, edges), (self._edges, nodes)):
            order = [(decide, kind, place) for kind in (0, 1) for place in places]
            generator.shuffle(order)
            decisions += order
        alive = alive or [np.ones(values.shape, bool) for values in mixture]
        for number, (decide, kind, place) in enumerate(decisions):
            if number >= len(rows):
                begin = time.monotonic()
                row = {"decision": number, "cell": KINDS[kind]}
                with shown(number):
                    row |= decide(mixture, kind, place, alive[kind])
                rows.append({**row, "seconds": round(time.monotonic() - begin, 3)})
                append_line(self.log, rows[-1])
            self._check(rows[number], decide, kind, place)
            self._apply(mixture[kind], kind, rows[number])
        return self._cell(mixture, 0), self._cell(mixture, 1)

    def _operation(self, mixture, kind: int, edge: int, alive: np.ndarray) -> dict[str, Any]:
        """Which candidate an edge keeps."""
        accuracies = {}
        for column, name in enumerate(self._operations(kind)):
            if alive[edge, column] and (self.zeroise_competes or name != ZEROISE):
                accuracies[name] = self._without(mixture, kind, np.s_[edge, column])
        columns = self._operations(kind).index
        kept = min(accuracies, key=lambda op: (accuracies[op], -mixture[kind][edge, columns(op)]))
        node, state = self.space.edges[edge]
        before = float(self.measure(*mixture))
        row = {"node": node, "state": state, "before": before, "without": accuracies}
        return {**row, "kept": kept}

    def _edges(self, mixture, kind: int, node: int, alive: np.ndarray) -> dict[str, Any]:
        """Which edges a node keeps."""
        rows = {state: row for row, (owner, state) in enumerate(self.space.edges) if owner == node}
        keep = self.space.edges_per_node
        if len(rows) <= keep:
            return {"node": node, "before": None, "without": {}, "kept": sorted(rows)}
        before = float(self.measure(*mixture))
        accuracies = {str(state): self._without(mixture, kind, row) for state, row in rows.items()}
        kept = sorted(rows, key=lambda state: accuracies[str(state)])[:keep]
        return {"node": node, "before": before, "without": accuracies, "kept": sorted(kept)}

    def _without(self, mixture, kind: int, place: Any) -> float:
        """The accuracy when the weights in a place are 0."""
        weights = [values.copy() for values in mixture]
        weights[kind][place] = 0.0
        return float(self.measure(*weights))

    def _check(self, row: dict[str, Any], decide: Callable, kind: int, place: int) -> None:
        """Raise RunError unless a row, perhaps read from a file, is of this decision."""
        kept, keep = row["kept"], self.space.edges_per_node
        if decide == self._operation:
            expected, known = self.space.edges[place], kept in self._operations(kind)
        else:
            expected = (place, None)
            known = isinstance(kept, list) and len(set(kept)) == len(kept) == keep
            known = known and max(kept) < 2 + place
        if (row["cell"], row["node"], row.get("state")) != (KINDS[kind], *expected) or not known:
            raise RunError(
                f"A line of {self.log.name} is of the decision of its number, and keeps what the "
                f"space has. Received: {kept!r} in {self.log}, decision {row['decision']}. Delete "
                "the file to choose again."
            )

    def _apply(self, weights: np.ndarray, kind: int, row: dict[str, Any]) -> None:
        """Leave what a decision keeps."""
        for edge, (node, state) in enumerate(self.space.edges):
            if node != row["node"]:
                continue
            if isinstance(row["kept"], list):
                if state not in row["kept"]:
                    weights[edge] = 0.0
            elif row["state"] == state:
                weights[edge] = 0.0
                weights[edge, self._operations(kind).index(row["kept"])] = 1.0

    def _cell(self, mixture, kind: int) -> Cell:
        nodes: list[list[Edge]] = [[] for _ in range(self.space.nodes)]
        for (node, state), weights in zip(self.space.edges, mixture[kind], strict=True):
            if weights.any():
                nodes[node].append(Edge(self._operations(kind)[weights.argmax()], state))
        return tuple(map(tuple, nodes))

    def _operations(self, kind: int) -> tuple[str, ...]:
        return self.space.candidates[kind]


def perturbed_cells(
    supernet: SuperNet,
    data: SearchData,
    folder: Path,
    *,
    examples: int | None = None,
    seed: int = 0,
    zeroise_competes: bool = True,
    strategy: Strategy | None = None,
) -> tuple[Cell, Cell]:
    """The cells that `PerturbationChoice` derives from a compiled supernet, measured on the first
    `examples` of `data.credit` as `PathAccuracy` does, with the statistics of each batch; writes
    perturbation.jsonl."""
    mixture, relaxation = FixedMixture(), supernet.relaxation
    measurement = PathAccuracy(supernet, data, examples, strategy)

    def measure(normal: np.ndarray, reduce: np.ndarray) -> float:
        mixture.assign(normal, reduce)
        return measurement.accuracy()

    log = folder / RECORD
    choice = PerturbationChoice(supernet.space, measure, log, seed, zeroise_competes)
    progress = Progress("search", choice.planned, 1, (), unit="decision")

    @contextmanager
    def shown(number: int) -> Iterator[None]:
        progress.on_epoch_begin(number)
        yield
        progress.on_train_batch_end(0)
        progress.on_epoch_end(number)

    weights = [values.numpy() for values in supernet.distributions()]
    supernet.relaxation = mixture
    try:
        with running(progress):
            cells = choice(weights, supernet.alive, shown)
    finally:
        supernet.relaxation = relaxation
    num_classes = supernet.get_config()["num_classes"]
    if guessed := decisions_near_chance(read_rows(log, PerturbationRow), num_classes):
        say(
            f"search: {len(guessed)} of the choice's decisions, from number {guessed[0] + 1} on, "
            f"compared accuracies near chance ({RECORD}, `before`): they are hardly more than noise"
        )
    return cells


def decisions_near_chance(rows: Sequence[Mapping[str, Any]], num_classes: int) -> list[int]:
    """Numbers of the decisions before which the supernet was less than 5 % of the way from chance
    to certainty.

    Example:
        >>> rows = [{"decision": 0, "before": 0.6}, {"decision": 1, "before": 0.14}]
        >>> decisions_near_chance(rows, num_classes=10)
        [1]
    """
    chance = 1 / num_classes
    limit = chance + 0.05 * (1 - chance)
    return [row["decision"] for row in rows if row["before"] is not None and row["before"] < limit]
