"""Discretisation: from architecture weights to a genotype, the same for all searches."""

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


def softmax_by_node(betas: np.ndarray, nodes: int) -> np.ndarray:
    """β [edges] as weights: softmax over the edges that enter the same node, in float64."""
    betas = np.asarray(betas, np.float64)
    weights = np.full(betas.shape, np.nan)
    owners = np.array([node for node, _ in edges_of_cell(nodes)])
    # β of a wrong shape stay NaN here: their user refuses them with a message.
    for node in range(nodes if betas.shape == owners.shape else 0):
        weights[owners == node] = softmax(betas[owners == node])
    return weights


@dataclasses.dataclass(frozen=True)
class ArgmaxDiscretizer:
    """The most probable operation of each edge, and the strongest edges of each node.

    Sources: BNAS (arXiv 2002.06963), §4.1 and its transferability parameter γ; DARTS (arXiv
    1806.09055, §2.4) without Zeroise; PC-DARTS (arXiv 1907.05737, §3.3) with edge weights.

    Attributes:
        gamma: divides the probability of Zeroise before the choice. 1 changes nothing; the authors
            use 3 for networks transferred to ImageNet, which then keep more convolutions.
        edges_per_node: edges that each node keeps; None takes the search space's number.
        zeroise_competes: whether Zeroise may be chosen, as in BNAS. DARTS leaves it out of the
            arg-max and of the edges' strengths, but not of the softmax.

    Example:
        >>> space = SearchSpace.bnas()
        >>> alphas = np.zeros([len(space.edges), len(space.normal)])
        >>> alphas[:, space.normal.index("bin_conv_3x3")] = 1.0
        >>> ArgmaxDiscretizer()(alphas, alphas, space).normal[0]
        (Edge(op='bin_conv_3x3', state=0), Edge(op='bin_conv_3x3', state=1))
    """

    gamma: float = 1.0
    edges_per_node: int | None = None
    zeroise_competes: bool = True

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
        self,
        probabilities: np.ndarray,
        operations: tuple[str, ...],
        nodes: int,
        keep: int,
        edge_weights: np.ndarray | None = None,
    ) -> Cell:
        """Discretise one cell.

        Args:
            probabilities: [edges, operations], rows in the order of `edges_of_cell(nodes)`.
            edge_weights: [edges], factors of the edges' strengths.
        """
        edges = edges_of_cell(nodes)
        probabilities = np.array(probabilities, np.float64)
        if probabilities.shape != (len(edges), len(operations)):
            raise GenotypeError(
                "Architecture weights must have the shape [edges, operations] = "
                f"{[len(edges), len(operations)]}. Received: {list(probabilities.shape)}. "
                "Use the search space that they were trained in."
            )
        weights = np.ones(len(edges)) if edge_weights is None else np.asarray(edge_weights)
        if weights.shape != (len(edges),):
            raise GenotypeError(
                f"Edge weights must have the shape [edges] = {[len(edges)]}. Received: "
                f"{list(weights.shape)}. Use the search space that they were trained in."
            )
        if not (np.all(np.isfinite(probabilities)) and np.all(np.isfinite(weights))):
            raise GenotypeError("Architecture weights must be finite. Received: NaN or infinity.")
        if ZEROISE in operations:
            zeroise = probabilities[:, operations.index(ZEROISE)]
            zeroise /= self.gamma
            if not self.zeroise_competes:
                zeroise[:] = -1.0
        best = probabilities.argmax(axis=1)
        strength = probabilities.max(axis=1) * weights
        cell = []
        for node in range(nodes):
            rows = [row for row, (owner, _) in enumerate(edges) if owner == node]
            # The sort is stable: of equally strong edges, the one from the earlier state is kept.
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
        *,
        betas: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Genotype:
        """The genotype of `normal` and `reduce`: α before the softmax, [edges, operations].

        Args:
            betas: β of normal and reduction cells, [edges], before the softmax over each node's
                edges; None if edges have no weights.
        """
        keep = self.edges_per_node or space.edges_per_node
        weights = (None, None)
        if betas is not None:
            weights = [softmax_by_node(edge_betas, space.nodes) for edge_betas in betas]
        kinds = zip((normal, reduce), space.candidates, weights, strict=True)
        cells = [
            self.cell(softmax(alphas), operations, space.nodes, keep, edge_weights)
            for alphas, operations, edge_weights in kinds
        ]
        settings = {"space": space.name, "gamma": self.gamma}
        if not self.zeroise_competes:
            settings["zeroise_competes"] = False
        return Genotype(*cells, name, {**settings, **(provenance or {})})
