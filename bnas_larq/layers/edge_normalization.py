"""Edge normalisation: weights of whole edges, learnt beside α."""

from __future__ import annotations

import itertools

from bnas_larq.backend import tf
from bnas_larq.spaces import edges_of_cell


class EdgeNormalization:
    """β of the edges of a cell as weights: softmax over the edges that enter the same node.

    With partial channels α alone fluctuate, because other channels are mixed at each step; β are
    shared by all of them. Source: PC-DARTS, arXiv 1907.05737, eq. 3.

    Args:
        nodes: of the cell.

    Call arguments:
        betas: β [edges], rows in the order of `bnas_larq.spaces.edges_of_cell`.

    Output: [edges]; those of one node sum to 1.
    """

    def __init__(self, nodes: int) -> None:
        # The edges are ordered node by node.
        owners = itertools.groupby(edges_of_cell(nodes), key=lambda edge: edge[0])
        self._sizes = [len(list(edges)) for _, edges in owners]

    def __call__(self, betas: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.nn.softmax(part) for part in tf.split(betas, self._sizes)], axis=0)
