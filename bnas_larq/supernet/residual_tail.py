"""What follows the convolution of a residual candidate (EBNAS): BatchNorm, + input, PReLU, as a
function that states of equal shape share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.layers.batch_norm import PlainBatchNormalization
from bnas_larq.layers.convolutions import RepeatChannels
from bnas_larq.layers.merging import joined
from bnas_larq.layers.operations import Chain, PlusInput
from bnas_larq.layers.prelu import PReLU2D
from bnas_larq.strategies import own_copy
from bnas_larq.supernet.edge_channels import picked, weighted


class EdgeStatistics(NamedTuple):
    """Moving statistics of a BatchNorm on some edges: the `channels` of `mean` and `variance`."""

    mean: tf.Variable
    variance: tf.Variable
    channels: tf.Tensor

    def values(self) -> list[tf.Tensor]:
        """Mean and variance of these channels."""
        return [tf.gather(statistic, self.channels) for statistic in (self.mean, self.variance)]

    def move(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
        """Replace the statistics of these channels."""
        for statistic, moved in ((self.mean, mean), (self.variance, variance)):
            statistic.scatter_update(tf.IndexedSlices(moved, self.channels))

    def fixed(self) -> EdgeStatistics:
        """Their values of now, which nothing moves."""
        mean, variance = self.values()
        return EdgeStatistics(mean, variance, tf.range(mean.shape[0]))


class TailWeights(NamedTuple):
    """What a tail reads besides its inputs: PReLU's slopes [channels], and statistics."""

    slopes: tf.Tensor
    statistics: EdgeStatistics


@dataclasses.dataclass(frozen=True)
class ResidualTail:
    """The end of a residual candidate's chain of layers, for all edges that leave one state.

    Attributes:
        norm: BatchNorm of the convolution's output, without scale and offset.
        added: from the state to what is added to each edge.
        prelu: with one slope per channel.
    """

    norm: PlainBatchNormalization
    added: tuple[keras.layers.Layer, ...]
    prelu: PReLU2D

    @classmethod
    def of(cls, chain: Chain) -> ResidualTail | None:
        """The tail that a chain of layers ends in, or None."""
        if len(chain) < 3 or not isinstance(chain[-2], PlusInput):
            return None
        norm, plus, prelu = chain[-3:]
        added = plus.layers
        if added and isinstance(added[-1], RepeatChannels):
            added = added[:-1]
        per_channel = type(prelu) is PReLU2D and prelu.shared_axes == [1, 2]
        plain = type(norm) is PlainBatchNormalization and per_channel
        return cls(norm, added, prelu) if plain else None

    @property
    def settings(self) -> tuple:
        """Everything but weights and inputs that the outputs depend on."""
        return self.norm.epsilon, self.norm.momentum, self.norm.trainable

    def weights(self, live: Sequence[int], edges: int) -> TailWeights:
        """Slopes and statistics of some of the edges."""
        slopes = tf.reshape(tf.convert_to_tensor(self.prelu.alpha), [-1])
        channels = np.arange(slopes.shape[0], dtype=np.int32).reshape(edges, -1)[list(live)]
        norm = self.norm
        moving = map(own_copy, (norm.moving_mean, norm.moving_variance))
        statistics = EdgeStatistics(*moving, channels.ravel())
        return TailWeights(picked(slopes, live, edges), statistics)

    def held(self, weights: TailWeights, training: bool) -> TailWeights:
        """The weights as a call keeps them for its gradient: a pass in training may move statistics
        before that is asked for."""
        if self._moves(training):
            return weights
        return weights._replace(statistics=weights.statistics.fixed())

    def _moves(self, training: bool) -> bool:
        """Whether a call uses the batch's own statistics, and moves those it is given."""
        return training and self.norm.trainable

    def __call__(
        self,
        convolved: tf.Tensor,
        added: tf.Tensor,
        factors: tf.Tensor,
        weights: TailWeights,
        training: bool,
        move: bool = True,
    ) -> tf.Tensor:
        """factors · PReLU(BatchNorm(convolved) + added).

        Args:
            convolved: [batch, height, width, edges·channels].
            added: to each edge, [batch, height, width, channels].
            factors: [edges·channels], float32.
            move: whether training moves the statistics.
        """
        slopes, statistics = weights
        moves = statistics.move if move and self._moves(training) else None
        # A training BatchNorm that moves nothing reads nothing.
        reads = moves or not self._moves(training)
        values = statistics.values() if reads else (None, None)
        normed = self.norm.normalise(convolved, *values, training, moves)
        total = normed + joined([added] * (convolved.shape[-1] // added.shape[-1]))
        # PReLU(x) = a·x + (1 − a)·ReLU(x), with the factors inside.
        linear, positive = factors * slopes, factors * (1.0 - slopes)
        return weighted(total, linear) + weighted(tf.nn.relu(total), positive)

    def gradients(
        self,
        upstream: tf.Tensor,
        convolved: tf.Tensor,
        added: tf.Tensor,
        factors: tf.Tensor,
        weights: TailWeights,
        training: bool,
    ) -> list[tf.Tensor]:
        """Gradients of `convolved`, `added`, the slopes and the factors, given that of a call."""
        # A tensor of this graph: in a switch it is a branch's, whose gradient would not find it.
        convolved = tf.identity(convolved)
        sources = convolved, added, weights.slopes, factors
        with tf.GradientTape() as tape:
            tape.watch(sources)
            outputs = self(convolved, added, factors, weights, training, move=False)
        return tape.gradient(outputs, sources, upstream)
