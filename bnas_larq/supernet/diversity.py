"""The term that keeps undertrained convolutions from losing to pooling early in a search."""

from __future__ import annotations

from bnas_larq.backend import register, tf
from bnas_larq.errors import BnasLarqError


def edge_entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """Entropy in nats of each edge's distribution, [edges, operations] → [edges]; 0·log 0 is 0."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)


@register
class AnnealedEntropy:
    """λ·exp(−t/τ), the weight of the entropy H(p) in L_search = L_val − λ·H(p)·exp(−t/τ).

    Source: BNAS, arXiv 2002.06963, eq. 3; t is the epoch, H the mean entropy over all edges.

    Args:
        weight: λ; 0 switches the term off.
        tau: τ in epochs.

    Raises:
        BnasLarqError: a negative weight, or τ that is not positive.
    """

    def __init__(self, weight: float = 1.0, tau: float = 7.7) -> None:
        if weight < 0 or tau <= 0:
            raise BnasLarqError(
                f"The entropy term needs λ >= 0 and τ > 0. Received: weight={weight}, tau={tau}. "
                "Use weight=0 to switch it off."
            )
        self.weight = weight
        self.tau = tau

    def coefficient(self, epoch: tf.Tensor | float) -> tf.Tensor:
        """λ·exp(−t/τ) at epoch t."""
        return self.weight * tf.exp(-tf.cast(epoch, tf.float32) / self.tau)

    def get_config(self) -> dict:
        return {"weight": self.weight, "tau": self.tau}

    @classmethod
    def from_config(cls, config: dict) -> AnnealedEntropy:
        """The inverse of `get_config`."""
        return cls(**config)
