"""Relaxations: how architecture weights α become the weights of the mixture on each edge."""

from __future__ import annotations

from bnas_larq.backend import register, tf


@register
class Softmax:
    """Softmax over the candidates of each edge, as DARTS (arXiv 1806.09055, eq. 2)."""

    def __call__(self, alphas: tf.Tensor) -> tf.Tensor:
        """Mixture weights [edges, operations] of α [edges, operations]; each row sums to 1."""
        return tf.nn.softmax(alphas, axis=-1)

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Softmax:
        """The inverse of `get_config`."""
        return cls(**config)
