"""Which of its edges a node keeps, as probabilities: the discretiser's choice of the strongest ones
has no gradient."""

from __future__ import annotations

from bnas_larq.backend import tf

#: Strengths are kept this far from 0 and 1, where the odds of two edges would be 0/0 or ∞/∞.
_MARGIN = 1e-6


def inclusion(strengths: tf.Tensor, keep: int) -> tf.Tensor:
    """Probability of each edge to be kept, when independent choices keep exactly `keep` of them.

    Source: conditional Poisson sampling (J. Hájek, Annals of Mathematical Statistics 35, 1964).

    Args:
        strengths: [edges], probability of each choice, from 0 to 1.
        keep: 1 or 2.

    Returns:
        [edges], which sum to `keep`.
    """
    strengths = tf.clip_by_value(strengths, _MARGIN, 1.0 - _MARGIN)
    odds = strengths / (1.0 - strengths)
    if keep == 1:
        return odds / tf.reduce_sum(odds)
    # Pairs are summed as such: differences of sums would lose what small odds add to large ones.
    pairs = odds[:, None] * odds[None, :]
    pairs = tf.linalg.set_diag(pairs, tf.zeros_like(odds))
    return 2.0 * tf.reduce_sum(pairs, axis=1) / tf.reduce_sum(pairs)
