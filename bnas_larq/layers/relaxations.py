"""Relaxations: how architecture weights α become the mixture of the candidates on each edge."""

from __future__ import annotations

import abc

from bnas_larq.backend import register, tf
from bnas_larq.layers.mixture import Mixture, SampledPath


class Relaxation(abc.ABC):
    """What a search makes of α; registered for Keras serialisation, with `get_config`."""

    @abc.abstractmethod
    def __call__(self, alphas: tf.Tensor) -> tf.Tensor:
        """Each edge's distribution over its candidates, [edges, operations] of α of that shape.

        Entropy and the logged shares are computed from it; rows sum to 1.
        """

    def mixture(self, alphas: tf.Tensor) -> Mixture | SampledPath:
        """What the cells evaluate; unless overridden, all candidates with the distribution."""
        return Mixture(self(alphas))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Relaxation:
        """The inverse of `get_config`."""
        return cls(**config)


@register
class Softmax(Relaxation):
    """Softmax over the candidates of each edge, as DARTS (arXiv 1806.09055, eq. 2)."""

    def __call__(self, alphas: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(alphas, axis=-1)

    def mixture(self, alphas: tf.Tensor) -> Mixture:
        return Mixture(self(alphas), positive=True)
