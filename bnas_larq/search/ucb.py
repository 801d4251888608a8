"""The table of BNAS-UCB's bandit: draws, credits, upper confidence bounds. Plain NumPy."""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np

from bnas_larq.discretize import softmax
from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.run_records import UcbState


class UcbTable:
    """Draws without replacement, upper confidence bounds and operation-space reduction, by edge.

    A round has K draws, where K is the number of candidates left: every edge draws each of its
    candidates once. A draw's accuracy is credited to every candidate in it. After T rounds each
    edge abandons the candidate with the smallest bound, and K falls by one, down to the floor.

    The bound of candidate k is UCB_k = m_k + δ·sqrt(2·ln N / n_k), with m_k the mean and n_k the
    number of its credits in all rounds, and N the number of draws on the edge, abandoned candidates
    included. Rounds draw every candidate of an edge equally often, so that δ shifts all of its
    bounds alike and the smallest mean decides. (Only if normal and reduction edges differ in their
    number of candidates, n_k differ: edges with fewer start over before a round ends.)

    Source: Chen et al., "Binarized Neural Architecture Search for Efficient Object Recognition",
    arXiv 2009.04247.

    Args:
        alive: booleans [edges, operations], the candidates of normal and reduction edges.
        rounds: T.
        floor: candidates that stay on each edge; an edge with fewer keeps them all.
        exploration: δ.
        seed: of the draws, from 0; decides, with the round's number, their order.

    Raises:
        BnasLarqError: an edge without candidates, or a floor that leaves nothing to abandon.
    """

    def __init__(
        self,
        alive: np.ndarray,
        *,
        rounds: int = 3,
        floor: int = 2,
        exploration: float = 1.0,
        seed: int = 0,
    ) -> None:
        alive = np.array(alive, bool)
        if alive.ndim != 2 or not alive.any(axis=1).all():
            raise BnasLarqError(
                "A bandit needs booleans [edges, operations] with a candidate on every edge. "
                f"Received: shape {alive.shape}, {int(alive.sum())} candidates."
            )
        most = int(alive.sum(axis=1).max())
        if rounds < 1 or not 1 <= floor < most:
            raise BnasLarqError(
                "The floor must be at least 1 and below the space's candidates, with at least one "
                f"round each. Received: floor {floor} for {most} candidates, {rounds} rounds. "
                "Change search.bandit.floor or search.bandit.rounds."
            )
        self.rounds, self.floor = rounds, floor
        self.exploration, self.seed = exploration, seed
        self._alive = alive
        self._credits: list[list[list[float]]] = [[[] for _ in row] for row in alive]
        #: Number of complete rounds.
        self.round = 0
        self._drawn = 0
        self._order: np.ndarray | None = None
        #: Number of draws in all.
        self.planned = rounds * sum(range(floor + 1, most + 1))

    @property
    def done(self) -> bool:
        """Whether every edge is down to the floor."""
        return int(self._alive.sum(axis=1).max()) <= self.floor

    @property
    def alive(self) -> np.ndarray:
        """Booleans [edges, operations]: candidates that were not abandoned."""
        return self._alive.copy()

    def order(self) -> np.ndarray:
        """The operations of this round's draws, integers [draws, edges]."""
        if self._order is None:
            draws = int(self._alive.sum(axis=1).max())
            columns = []
            for edge, alive in enumerate(self._alive):
                generator = np.random.default_rng([self.seed, self.round, edge])
                candidates = np.flatnonzero(alive)
                # An edge with fewer candidates than others starts over within the round.
                passes = -(-draws // len(candidates))
                drawn = [generator.permutation(candidates) for _ in range(passes)]
                columns.append(np.concatenate(drawn)[:draws])
            self._order = np.stack(columns, axis=1)
        return self._order

    def path(self) -> np.ndarray:
        """The next draw: one operation of each edge, integers [edges]."""
        return self.order()[self._drawn].copy()

    def credit(self, accuracy: float) -> None:
        """Credit `accuracy` to every operation of `path()` and advance to the next draw.

        The last draw ends its round; after T rounds with the same candidates, each edge abandons
        one.
        """
        for edge, operation in enumerate(self.path()):
            self._credits[edge][operation].append(float(accuracy))
        self._drawn += 1
        if self._drawn == len(self.order()):
            self.round, self._drawn = self.round + 1, 0
            if self.round % self.rounds == 0:
                self._abandon()
            self._order = None

    def _abandon(self) -> None:
        """Abandon each edge's candidate with the smallest bound, the first of equal ones."""
        bounds = np.where(self._alive, self.bounds(), np.inf)
        for edge, alive in enumerate(self._alive):
            if alive.sum() > self.floor:
                alive[bounds[edge].argmin()] = False

    def counts(self) -> np.ndarray:
        """n_k, the number of draws of each operation, [edges, operations]."""
        return np.array([[len(credits) for credits in row] for row in self._credits])

    def means(self) -> np.ndarray:
        """m_k, the mean credit of each operation, [edges, operations]; 0 for one never drawn."""
        # `fsum` is exact: the order of equal credits cannot break a tie.
        return np.array(
            [[math.fsum(c) / len(c) if c else 0.0 for c in row] for row in self._credits]
        )

    def bounds(self) -> np.ndarray:
        """UCB_k, [edges, operations]; infinite for an operation never drawn."""
        counts = self.counts()
        total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        bonus = self.exploration * np.sqrt(2 * np.log(total) / np.maximum(counts, 1))
        return np.where(counts > 0, self.means() + bonus, np.inf)

    def shares(self) -> np.ndarray:
        """Softmax of m over the candidates left on each edge, for reports; 0 for the others."""
        return softmax(np.where(self._alive, self.means(), -np.inf))

    def report(self, operations: list[tuple[str, ...]]) -> list[dict[str, dict[str, Any]]]:
        """{operation: {alive, draws, mean, ucb, share}} for each edge, for JSON; `operations` names
        each edge's columns.
        """
        counts, means = self.counts(), self.means()
        bounds, shares = self.bounds(), self.shares()
        return [
            {
                name: {
                    "alive": bool(self._alive[edge, k]),
                    "draws": int(counts[edge, k]),
                    "mean": float(means[edge, k]),
                    "ucb": float(bounds[edge, k]) if counts[edge, k] else None,
                    "share": float(shares[edge, k]),
                }
                for k, name in enumerate(names)
            }
            for edge, names in enumerate(operations)
        ]

    def state(self) -> dict[str, Any]:
        """All draws and credits so far, for JSON; `restore` reads them."""
        return {
            "round": self.round,
            "drawn": self._drawn,
            "alive": self._alive.tolist(),
            "credits": [[list(credits) for credits in row] for row in self._credits],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the `state` of a table with the same arguments; RunError for another."""
        try:
            table = UcbState.model_validate(state)
            shapes = [[len(row) for row in part] for part in (table.alive, table.credits)]
        except ValueError:
            shapes = []
        if shapes != [[len(row) for row in self._alive]] * 2:
            raise RunError(
                "A search's table of credits must be the one that its checkpoint was written with. "
                f"Received: {reprlib.repr(state)}. Delete the newest checkpoint and resume."
            )
        self.round, self._drawn = table.round, table.drawn
        self._alive, self._credits = np.array(table.alive, bool), table.credits
        self._order = None
