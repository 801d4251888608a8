"""Relaxations: what a search evaluates, given α. All candidates of an edge, weighted, or one of
them.

Softmax is DARTS', `Concrete` SNAS', `GumbelHard` GDAS'.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule

#: The smallest uniform number whose logarithm is taken.
_TINY = float(np.finfo(np.float32).tiny)
#: In place of a column of α: the edge is left out, whatever its candidates.
NO_EDGE = -1


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a relaxation may depend on besides α, for one kind of cell in one forward pass.

    Attributes:
        kind: `"normal"` or `"reduce"`.
        epoch: t, float32 scalar.
        seed: int32 [2] for `tf.random.stateless_*`; differs between kinds and forward passes.
        training: False to evaluate the network: then nothing is random.
    """

    kind: str
    epoch: tf.Tensor
    seed: tf.Tensor
    training: bool


@dataclasses.dataclass(frozen=True)
class Mixture:
    """All candidates of every edge, each times its weight.

    Attributes:
        weights: [edges, operations], of any values; all receive a gradient, even where they are 0.
        positive: whether every weight is above 0, as a softmax's are, edge weights included.
            ReLU(w·x) = w·ReLU(x) then lets the weight be part of the convolution's own scale.
        edge_weights: [edges], factors of whole edges (see `EdgeNormalization`), or None for 1.
    """

    weights: tf.Tensor
    positive: bool = False
    edge_weights: tf.Tensor | None = None
    _of_rows: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def of_rows(self, rows: Sequence[int]) -> tf.Tensor:
        """Weights of some edges times their edge weights, [rows, operations]. In a graph they are
        computed once, as all cells of a kind ask for the same."""
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
        chosen: integers [edges], columns of α, or `NO_EDGE` in a path without weights.
        weights: [edges, operations]; the chosen entry multiplies the candidate's output, and
            receives its gradient (1 for a plain path; a straight-through estimator otherwise).
            None for 1.
        edge_weights: as for `Mixture`.
    """

    chosen: tf.Tensor
    weights: tf.Tensor | None = None
    edge_weights: tf.Tensor | None = None


#: What a relaxation chooses, and a cell evaluates.
Choice = Mixture | SampledPath


class Relaxation(abc.ABC):
    """What a search makes of α; registered for Keras serialisation, with `get_config`."""

    def logits(self, alphas: tf.Tensor, kind: str) -> tf.Tensor:
        """What the softmax is taken of, [edges, operations], of cells of a kind, `"normal"` or
        `"reduce"`: α unless a relaxation says otherwise. Genotypes are derived from it."""
        return alphas

    def __call__(self, alphas: tf.Tensor, kind: str = "normal") -> tf.Tensor:
        """Each edge's distribution over its candidates, [edges, operations], for entropy, cost
        terms and the logged shares: the softmax of the logits."""
        return tf.nn.softmax(self.logits(alphas, kind), axis=-1)

    @abc.abstractmethod
    def choose(self, alphas: tf.Tensor, draw: Draw) -> Choice:
        """What the cells of one kind evaluate in one forward pass, given α [edges, operations], so
        low for pruned candidates that their share is 0, and all else it may depend on."""

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Relaxation:
        """The inverse of `get_config`."""
        return cls(**config)


@register
class Softmax(Relaxation):
    """Softmax over the candidates of each edge, as DARTS (arXiv 1806.09055, eq. 2); softmax(α/T)
    with a temperature for each kind of cell, as BATS (arXiv 2003.01711, §4.2).

    Args:
        normal, reduce: T of normal and of reduction cells.

    Raises:
        BnasLarqError: a temperature that is not positive.

    Example:
        >>> draw = Draw("normal", epoch=tf.constant(0.0), seed=tf.constant([1, 2]), training=True)
        >>> Softmax().choose(tf.zeros([1, 4]), draw).weights.numpy().tolist()
        [[0.25, 0.25, 0.25, 0.25]]
        >>> Softmax(normal=0.2)(tf.constant([[0.2, 0.0]]), "normal").numpy().round(3).tolist()
        [[0.73..., 0.26...]]
    """

    def __init__(self, normal: float = 1.0, reduce: float = 1.0) -> None:
        if not (0 < normal < math.inf and 0 < reduce < math.inf):
            raise BnasLarqError(
                "Temperatures of a softmax are positive. "
                f"Received: normal={normal}, reduce={reduce}. BATS has 0.2 and 0.15."
            )
        self.temperatures = {"normal": float(normal), "reduce": float(reduce)}

    def logits(self, alphas: tf.Tensor, kind: str) -> tf.Tensor:
        temperature = self.temperatures[kind]
        return alphas if temperature == 1.0 else alphas / temperature

    def choose(self, alphas: tf.Tensor, draw: Draw) -> Mixture:
        return Mixture(self(alphas, draw.kind), positive=True)

    def get_config(self) -> dict:
        return dict(self.temperatures)


class _Gumbel(Relaxation):
    """Relaxations that draw: candidates by softmax(α), perturbed by Gumbel noise."""

    def __init__(self, temperature: TemperatureSchedule) -> None:
        self.temperature = temperature

    def perturbed(self, alphas: tf.Tensor, draw: Draw) -> tf.Tensor:
        """log softmax(α) + g, g Gumbel noise of the draw's seed."""
        return tf.nn.log_softmax(alphas, axis=-1) + gumbel(alphas.shape, draw.seed)

    def relaxed(self, perturbed: tf.Tensor, draw: Draw) -> tf.Tensor:
        """Softmax of perturbed logits at the epoch's temperature."""
        return tf.nn.softmax(perturbed / self.temperature(draw.epoch), axis=-1)

    def get_config(self) -> dict:
        return {"temperature": keras.utils.serialize_keras_object(self.temperature)}

    @classmethod
    def from_config(cls, config: dict) -> _Gumbel:
        return cls(keras.utils.deserialize_keras_object(config["temperature"]))


def gumbel(shape: tf.TensorShape, seed: tf.Tensor) -> tf.Tensor:
    """Standard Gumbel noise −log(−log u), a function of the seed (int32 [2])."""
    uniform = tf.random.stateless_uniform(shape, seed, minval=_TINY, maxval=1.0)
    return -tf.math.log(-tf.math.log(uniform))


@register
class GumbelHard(_Gumbel):
    """One candidate of each edge, drawn by softmax(α), with the gradient of the relaxed draw (GDAS,
    arXiv 1910.04465, eqs. 3 to 5).

    Only the drawn candidates are computed. A drawn candidate's weight passes its gradient to the
    relaxed weights, and through them to all α of its edge (straight-through). The other weights of
    the edge receive none: their candidates' outputs are not known. (GDAS' program adds those
    weights, which are 0, to the output, so that all receive the sum of the output's gradient.)

    In evaluation the candidates with the largest α are computed.

    Args:
        temperature: τ of the relaxed weights; GDAS goes linearly from 10 to 0.1.

    Example:
        >>> relaxation = GumbelHard(TemperatureSchedule(10.0, 0.1, epochs=240))
        >>> draw = Draw("normal", epoch=tf.constant(0.0), seed=tf.constant([1, 2]), training=False)
        >>> relaxation.choose(tf.constant([[0.0, 3.0], [1.0, 0.0]]), draw).chosen.numpy().tolist()
        [1, 0]
    """

    def choose(self, alphas: tf.Tensor, draw: Draw) -> SampledPath:
        if not draw.training:
            return SampledPath(tf.argmax(alphas, axis=-1, output_type=tf.int32))
        perturbed = self.perturbed(alphas, draw)
        chosen = tf.argmax(perturbed, axis=-1, output_type=tf.int32)
        soft = self.relaxed(perturbed, draw)
        hard = tf.one_hot(chosen, alphas.shape[-1])
        # In this order: soft − soft is exactly 0, so the chosen candidate's weight is exactly 1.
        return SampledPath(chosen, (soft - tf.stop_gradient(soft)) + hard)


@register
class Concrete(_Gumbel):
    """All candidates, weighted by a draw from the concrete distribution (SNAS, arXiv 1812.09926,
    §2.3), whose gradient is that of the reparameterised draw.

    In evaluation the weights are softmax(α).

    Args:
        temperature: λ of the paper, annealed towards 0, where draws become one-hot.

    Example:
        >>> relaxation = Concrete(TemperatureSchedule(1.0, 0.03, epochs=150, decay="exponential"))
        >>> draw = Draw("normal", epoch=tf.constant(0.0), seed=tf.constant([1, 2]), training=True)
        >>> weights = relaxation.choose(tf.zeros([1, 4]), draw).weights
        >>> round(float(tf.reduce_sum(weights)), 4), bool(tf.reduce_all(weights == 0.25))
        (1.0, False)
    """

    def choose(self, alphas: tf.Tensor, draw: Draw) -> Mixture:
        if not draw.training:
            return Mixture(self(alphas, draw.kind), positive=True)
        return Mixture(self.relaxed(self.perturbed(alphas, draw), draw), positive=True)
