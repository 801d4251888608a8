"""From architecture weights to a genotype: its own object, which all searches share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.spaces import ZEROISE, SearchSpace, edges_of_cell


def softmax(alphas: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.asarray(alphas, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class ArgmaxDiscretizer:
    """Per edge the most probable operation, Zeroise included; per node the strongest edges.

    Source: BNAS (arXiv 2002.06963), §4.1 and its transferability parameter γ.

    Attributes:
        gamma: the probability of Zeroise is divided by this before choosing (1 changes nothing; the
            authors use 3 for networks that are moved to ImageNet, so that a large network keeps
            more convolutions).
        edges_per_node: edges that each node keeps; None takes the search space's number.
    """

    gamma: float = 1.0
    edges_per_node: int | None = None

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise GenotypeError(
                f"γ must be positive. Received: {self.gamma}. Use 1 to change nothing."
            )
        if self.edges_per_node is not None and self.edges_per_node < 1:
            raise GenotypeError(
                f"A node keeps at least one edge. Received: edges_per_node={self.edges_per_node}. "
                "Use None for the search space's number."
            )

    def cell(
        self, probabilities: np.ndarray, operations: tuple[str, ...], nodes: int, keep: int
    ) -> Cell:
        """Discretise one cell.

        Args:
            probabilities: [edges, operations], rows in the order of `edges_of_cell(nodes)`.
        """
        edges = edges_of_cell(nodes)
        probabilities = np.array(probabilities, np.float64)
        if probabilities.shape != (len(edges), len(operations)):
            raise GenotypeError(
                "Architecture weights must have the shape [edges, operations] = "
                f"{[len(edges), len(operations)]}. Received: {list(probabilities.shape)}. "
                "Use the search space that they were trained in."
            )
        if not np.all(np.isfinite(probabilities)):
            raise GenotypeError("Architecture weights must be finite. Received: NaN or infinity.")
        if ZEROISE in operations:
            probabilities[:, operations.index(ZEROISE)] /= self.gamma
        best = probabilities.argmax(axis=1)
        strength = probabilities.max(axis=1)
        cell = []
        for node in range(nodes):
            rows = [row for row, (owner, _) in enumerate(edges) if owner == node]
            # Stable sort: of equally strong edges, every platform keeps that of the earlier state.
            kept = sorted(rows, key=lambda row: -strength[row])[:keep]
            cell.append(tuple(Edge(operations[best[row]], edges[row][1]) for row in sorted(kept)))
        return tuple(cell)

    def __call__(
        self,
        normal: np.ndarray,
        reduce: np.ndarray,
        space: SearchSpace,
        name: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Genotype:
        """The genotype of `normal` and `reduce`: α before the softmax, [edges, operations]."""
        keep = self.edges_per_node or space.edges_per_node
        return Genotype(
            self.cell(softmax(normal), space.normal, space.nodes, keep),
            self.cell(softmax(reduce), space.reduce, space.nodes, keep),
            name,
            {"space": space.name, "gamma": self.gamma, **(provenance or {})},
        )
