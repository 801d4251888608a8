"""Gradients of the architecture variables: how α learns from the two halves of the training data.

The bilevel problem of DARTS (arXiv 1806.09055, eqs. 3 and 4): α minimises the loss on the
validation half at weights w*(α), which minimise the loss on the training half.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.optimizers import clipping_factor, next_learning_rate
from bnas_larq.strategies import means

Batch = tuple[tf.Tensor, tf.Tensor]


class Losses(NamedTuple):
    """Of one batch: the loss of the task alone, the objective that is minimised (`task` plus all
    other terms), and the network's outputs."""

    task: tf.Tensor
    objective: tf.Tensor
    logits: tf.Tensor


class BilevelProblem(Protocol):
    """What the gradients need of a supernet: w, the architecture variables (α, and β of edges), and
    the optimizer that moves w. Other models may offer it too."""

    network_variables: Sequence[tf.Variable]
    architecture_variables: Sequence[tf.Variable]
    optimizer: keras.optimizers.Optimizer

    def training_loss(self, inputs: tf.Tensor, labels: tf.Tensor, forward_pass: str) -> Losses:
        """L_train at the present values of all variables, with the draws of `forward_pass`, one of
        `bnas_larq.supernet.architecture.PASSES`."""

    def alpha_loss(self, inputs: tf.Tensor, labels: tf.Tensor) -> Losses:
        """L_val at the present values of all variables."""

    def helper_passes(self) -> contextlib.AbstractContextManager[None]:
        """Inside, w may change between passes; on exit, no pass has left a trace in other
        variables."""


class AlphaGradients(NamedTuple):
    """A gradient for each architecture variable (None where nothing depends on one), and the losses
    of the batch that gave them."""

    values: list[tf.Tensor | None]
    losses: Losses


class AlphaGradient(abc.ABC):
    """How the architecture variables' gradients are computed; registered, with `get_config`."""

    #: Whether one backward pass on the training half gives the gradients of w and α.
    joint = False

    @abc.abstractmethod
    def __call__(self, problem: BilevelProblem, train: Batch, validation: Batch) -> AlphaGradients:
        """The gradients at the present values of the problem's variables, which do not change."""

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> AlphaGradient:
        """The inverse of `get_config`."""
        return cls(**config)


@register
class FirstOrder(AlphaGradient):
    """∇_α L_val(w, α): w stands in for w*(α) (DARTS, arXiv 1806.09055, eq. 6 at ξ = 0).

    Example:
        >>> from types import SimpleNamespace
        >>> alpha = tf.Variable(2.0)
        >>> loss = lambda *batch: Losses(task=alpha**2, objective=alpha**2, logits=None)
        >>> problem = SimpleNamespace(architecture_variables=[alpha], alpha_loss=loss)
        >>> [float(value) for value in FirstOrder()(problem, (), ()).values]
        [4.0]
    """

    def __call__(self, problem: BilevelProblem, train: Batch, validation: Batch) -> AlphaGradients:
        # Only α is watched, so no kernel gradients are computed in this half of the step.
        alphas = problem.architecture_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(alphas)
            losses = problem.alpha_loss(*validation)
        return AlphaGradients(tape.gradient(losses.objective, alphas), losses)


@register
class SingleLevel(AlphaGradient):
    """∇_α L_train(w, α), in the same backward pass as the weights' gradient, as in SNAS
    (arXiv 1812.09926): no bilevel problem, and the validation half is not used.

    Example:
        >>> SingleLevel().joint, FirstOrder().joint
        (True, False)
    """

    joint = True

    def __call__(self, problem: BilevelProblem, train: Batch, validation: Batch) -> AlphaGradients:
        return FirstOrder()(problem, validation, train)


@register
class SecondOrder(AlphaGradient):
    """∇_α of L_val(w'(α), α), where w' is one virtual step of the weights (DARTS, arXiv 1806.09055,
    eqs. 6 to 8):

        w' = w − ξ·(∇_w L_train(w, α) + momentum + weight decay)
        ∇_α L_val(w', α) − ξ·(∇_α L_train(w⁺, α) − ∇_α L_train(w⁻, α)) / 2ε
        w± = w ± ε·v, v = ∇_w' L_val(w', α), ε = 0.01 / ‖v‖

    The virtual step is the one that the weights' optimizer would take: of SGD with momentum and L2
    decay, as in DARTS' program, and with clipping, which that program leaves out (without
    `clip_norm` both are the same). The gradients of binary kernels carry their fan-in: a search of
    5 cells and 8 channels begins with a norm of 32, clipped to 5, and an unclipped step would lead
    far away from any step that is taken. Where clipping is active, v is multiplied by its
    derivative, so that the gradient stays that of L_val(w'(α), α). Other optimizers count as plain
    gradient descent. Constraints of latent kernels (centring, clamping) are not applied to w'.

    A binary network's loss depends on latent kernels through their scales, and in jumps through
    their signs: there the difference quotient does not approach a derivative.

    The four passes leave no trace in the moving statistics, and all but that of L_val see the same
    draws.

    Args:
        xi: ξ; None for the present learning rate of the weights.
        epsilon: length of the step ε·v over all weights, 0.01 above.

    Raises:
        BnasLarqError: a negative ξ, or ε that is not positive.

    Example:
        >>> SecondOrder(xi=0.025).get_config()
        {'xi': 0.025, 'epsilon': 0.01}
    """

    def __init__(self, xi: float | None = None, epsilon: float = 0.01) -> None:
        if epsilon <= 0 or (xi is not None and xi < 0):
            raise BnasLarqError(
                "A second-order gradient needs ξ >= 0 and a positive ε. "
                f"Received: xi={xi}, epsilon={epsilon}. DARTS takes the learning rate and 0.01."
            )
        self.xi = xi
        self.epsilon = epsilon

    def __call__(self, problem: BilevelProblem, train: Batch, validation: Batch) -> AlphaGradients:
        weights, alphas = problem.network_variables, problem.architecture_variables
        before = [tf.identity(weight) for weight in weights]
        xi = next_learning_rate(problem.optimizer) if self.xi is None else self.xi

        def training_gradients(variables):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                objective = problem.training_loss(*train, forward_pass="virtual").objective
            return gradients_of(tape, objective, variables)

        with problem.helper_passes():
            try:
                step = _VirtualStep(problem.optimizer, weights, training_gradients(weights), xi)
                _assign(weights, step.reached(before))
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([*alphas, *weights])
                    losses = problem.alpha_loss(*validation)
                gradients = gradients_of(tape, losses.objective, [*alphas, *weights])
                direct, vector = gradients[: len(alphas)], step.transposed(gradients[len(alphas) :])

                # Where v = 0, the difference is 0, whatever the length.
                length = self.epsilon / tf.maximum(tf.linalg.global_norm(vector), 1e-12)
                _assign(weights, [w + length * v for w, v in zip(before, vector, strict=True)])
                ahead = training_gradients(alphas)
                _assign(weights, [w - length * v for w, v in zip(before, vector, strict=True)])
                behind = training_gradients(alphas)
            finally:
                _assign(weights, before)
        values = [
            value - xi * (plus - minus) / (2.0 * length)
            for value, plus, minus in zip(direct, ahead, behind, strict=True)
        ]
        return AlphaGradients(values, losses)

    def get_config(self) -> dict:
        return {"xi": self.xi, "epsilon": self.epsilon}


class _VirtualStep:
    """The step of learning rate ξ that an optimizer would take with the weights' gradients, and its
    derivative."""

    def __init__(self, optimizer, weights, gradients, xi) -> None:
        for option in ("momentum_schedule", "rate_multipliers", "nesterov"):
            if getattr(optimizer, option, None):
                raise BnasLarqError(
                    "A second-order gradient follows one step of plain SGD with momentum. "
                    f"Received: an optimizer with {option}. Omit it, or use FirstOrder."
                )
        self.weights, self.gradients, self.xi = weights, gradients, xi
        self.norm = tf.linalg.global_norm(gradients)
        self.clip_norm = getattr(optimizer, "clip_norm", None)
        self.l2 = getattr(optimizer, "l2", 0.0)
        if isinstance(self.l2, dict):
            raise BnasLarqError(
                "A second-order gradient follows a step that decays all weights alike. "
                "Received: an optimizer with l2 by weight. Give one number, or use FirstOrder."
            )
        self.velocities = [_velocity(optimizer, weight) for weight in weights]

    @property
    def _factor(self) -> tf.Tensor | float:
        """What clipping multiplies the gradients by."""
        if self.clip_norm is None:
            return 1.0
        return clipping_factor(self.norm, self.clip_norm)

    def reached(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """w' from the weights' values."""
        factor = self._factor
        return [
            w - self.xi * (velocity + factor * gradient + self.l2 * w)
            for w, velocity, gradient in zip(values, self.velocities, self.gradients, strict=True)
        ]

    def transposed(self, vector: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The transposed Jacobian of gradient clipping, times a vector: of c·g/‖g‖ it is
        (c/‖g‖)·(1 − g·gᵀ/‖g‖²), and 1 below the norm c."""
        if self.clip_norm is None:
            return list(vector)
        products = [tf.reduce_sum(v * g) for v, g in zip(vector, self.gradients, strict=True)]
        product = tf.add_n(products)
        clipped = tf.cast(self.norm > self.clip_norm, tf.float32)
        along = clipped * tf.math.divide_no_nan(product, self.norm**2)
        factor = self._factor
        return [factor * (v - along * g) for v, g in zip(vector, self.gradients, strict=True)]


def _velocity(optimizer, weight: tf.Variable) -> tf.Tensor | float:
    """μ·(sum of earlier gradients) of SGD with momentum, else 0. Keras' momentum holds the learning
    rate: v ← μ·v − lr·g."""
    if not isinstance(optimizer, keras.optimizers.SGD) or not optimizer.momentum:
        return 0.0
    index = optimizer._index_dict[optimizer._var_key(weight)]
    rate = tf.maximum(next_learning_rate(optimizer), 1e-12)
    return -optimizer.momentum * tf.convert_to_tensor(optimizer.momentums[index]) / rate


def gradients_of(tape, objective: tf.Tensor, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
    """Gradients, the means over all replicas; zeros for variables that the objective does not
    depend on."""
    zero = tf.UnconnectedGradients.ZERO
    return means(tape.gradient(objective, list(variables), unconnected_gradients=zero))


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
