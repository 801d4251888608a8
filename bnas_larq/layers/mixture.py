"""What a relaxation hands to the mixed cells: how the candidates of each edge are mixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bnas_larq.backend import tf


@dataclasses.dataclass(frozen=True)
class Mixture:
    """All candidates of every edge, each times its weight.

    Attributes:
        weights: [edges, operations]. Any values; a hard one-hot mixture is one whose weights are
            one-hot, and still passes the gradient of every candidate's weight.
        positive: whether every weight is above 0, as a softmax's are, edge weights included.
            ReLU(w·x) = w·ReLU(x) then lets the weight be part of the convolution's own scale.
        edge_weights: [edges], factors of whole edges (PC-DARTS' edge normalisation, arXiv
            1907.05737, eq. 3), or None for 1.
    """

    weights: tf.Tensor
    positive: bool = False
    edge_weights: tf.Tensor | None = None
    _of_rows: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def of_rows(self, rows: Sequence[int]) -> tf.Tensor:
        """Weights of some edges, those of the whole edges included, [rows, operations].

        In a graph they are computed once, as all cells of a kind ask for the same.
        """
        if tf.executing_eagerly():
            return self._gathered(rows)
        # Tensors belong to the graph that they were made in.
        key = id(tf.compat.v1.get_default_graph()), tuple(rows)
        if key not in self._of_rows:
            self._of_rows[key] = self._gathered(rows)
        return self._of_rows[key]

    def _gathered(self, rows: Sequence[int]) -> tf.Tensor:
        weights = tf.gather(self.weights, rows)
        if self.edge_weights is not None:
            weights *= tf.gather(self.edge_weights, rows)[:, None]
        return weights


@dataclasses.dataclass(frozen=True)
class SampledPath:
    """One candidate of every edge; the others are not computed.

    Attributes:
        chosen: integers [edges], columns of α.
        weights: [edges, operations]; the chosen entry multiplies the candidate's output, and
            receives its gradient (1 for a plain path; a straight-through estimator otherwise).
            None for 1.
        edge_weights: as for `Mixture`.
    """

    chosen: tf.Tensor
    weights: tf.Tensor | None = None
    edge_weights: tf.Tensor | None = None


def as_mixture(mixture: Mixture | SampledPath | tf.Tensor) -> Mixture | SampledPath:
    """`mixture` itself; a plain tensor [edges, operations] becomes a `Mixture` of any weights."""
    return mixture if isinstance(mixture, Mixture | SampledPath) else Mixture(mixture)
