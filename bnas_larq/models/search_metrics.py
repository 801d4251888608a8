"""What a search shows of itself: losses of both halves, entropy, and the shares of operations."""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, tf
from bnas_larq.models.diversity import edge_entropy


def search_trackers(operations: Sequence[str]) -> dict[str, keras.metrics.Metric]:
    """Metrics of a supernet's steps, by name."""
    names = ("loss", "alpha_loss", "entropy", "diversity_weight", "cost", "expected_cost")
    trackers = {
        name: keras.metrics.Mean(name=name)
        for name in (*names, *(f"share_{operation}" for operation in operations))
    }
    for name in ("accuracy", "alpha_accuracy"):
        trackers[name] = keras.metrics.SparseCategoricalAccuracy(name=name)
    return trackers


def mean_entropy(distributions: Sequence[tf.Tensor]) -> tf.Tensor:
    """Mean entropy in nats over all edges of [edges, operations] each."""
    entropies = [edge_entropy(probabilities) for probabilities in distributions]
    return tf.reduce_mean(tf.concat(entropies, axis=0))


def mean_shares(
    distributions: Sequence[tf.Tensor], operations: Sequence[Sequence[str]]
) -> dict[str, tf.Tensor]:
    """Mean share of each operation over all edges that offer it.

    Args:
        distributions: [edges, operations] of each kind of cell.
        operations: names of the columns of each.
    """
    result = {}
    for name in dict.fromkeys(name for names in operations for name in names):
        columns = [
            probabilities[:, names.index(name)]
            for probabilities, names in zip(distributions, operations, strict=True)
            if name in names
        ]
        result[name] = tf.reduce_mean(tf.concat(columns, axis=0))
    return result
