"""SGD and Adam with L2 decay added to the gradient, as the papers' programs (PyTorch) do it.

Keras' own `weight_decay` is decoupled (AdamW, SGDW): it bypasses momentum and Adam's scaling, and
so is another method. Here gradients are clipped first and decay is added after, also after the
factor of binary kernels.

Single weights may have a rate of their own. Larq's `CaseOptimizer` would be the other way, but it
takes only Keras' legacy optimizers, and needs one for each rate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from bnas_larq.backend import keras, register, tf


def latent_kernels(model: keras.Model) -> list[tf.Variable]:
    """The latent weights of `model` that are binarised before use, also of models inside it.

    In larq's layers every weight with a 1-bit quantizer is one.
    """
    return [
        weight
        for weight in model.weights
        if getattr(getattr(weight, "quantizer", None), "precision", None) == 1
    ]


def next_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """The rate of the optimizer's next step.

    Its property `learning_rate` still has that of the step before, when there is a schedule.
    """
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return tf.cast(rate(optimizer.iterations), tf.float32)
    return tf.convert_to_tensor(rate)


def clipping_factor(norm: tf.Tensor, limit: float) -> tf.Tensor:
    """What gradients of this global norm are multiplied by, so that it is at most `limit`; NaN if
    the norm is not finite, so that no weight hides it."""
    return limit / tf.maximum(norm, limit) + (norm - norm)


def _coupled(gradient, weight, factor, decay):
    """The clipped gradient and the decay."""
    return factor * gradient + decay * weight


class _CoupledDecay:
    """Adds clipping by global norm, L2 decay and rates of single weights to a Keras optimizer.

    Args:
        l2: decay λ: λ·w is added to the gradient of each weight w.
        clip_norm: largest global norm of the gradients before the decay; None for no clipping.
        rate_multipliers: by a variable's name, what its learning rate is multiplied by; 1 for all
            others. The rate is scaled, not the gradient, which Adam would scale back.
    """

    def __init__(
        self,
        *args,
        l2: float = 0.0,
        clip_norm: float | None = None,
        rate_multipliers: Mapping[str, float] | None = None,
        **kwargs,
    ) -> None:
        self.rate_multipliers = dict(rate_multipliers or {})
        self._multiplier: float | None = None
        self._rate: tf.Tensor | None = None
        # Compiled by XLA, as Keras does on GPUs, an update would keep the first step's rate.
        super().__init__(*args, **{**kwargs, "jit_compile": False})
        self.l2 = l2
        self.clip_norm = clip_norm
        self._factor: tf.Tensor | float = 1.0
        self._decay: tf.Tensor | float = l2

    @property
    def learning_rate(self):
        """The learning rate; inside the update of a variable with a multiplier, that one's."""
        rate = super().learning_rate if self._rate is None else self._rate
        return rate if self._multiplier is None else rate * self._multiplier

    @learning_rate.setter
    def learning_rate(self, rate) -> None:
        # `super()` alone finds properties, but does not set them.
        super(_CoupledDecay, type(self)).learning_rate.fset(self, rate)

    def update_step(self, gradient, variable):
        self._multiplier = self.rate_multipliers.get(variable.name)
        try:
            return self._move(tf.convert_to_tensor(gradient), variable)
        finally:
            self._multiplier = None

    def _move(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update `variable` by its gradient, which has not been clipped yet."""
        if self.l2 or self.clip_norm is not None:
            gradient = _coupled(gradient, variable, *self._coupling(variable))
        super().update_step(gradient, variable)

    def _coupling(self, variable: tf.Variable) -> tuple[tf.Tensor, tf.Tensor]:
        """The step's clipping factor and decay, in the variable's type."""
        return tf.cast(self._factor, variable.dtype), tf.cast(self._decay, variable.dtype)

    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        together = kwargs.pop("experimental_aggregate_gradients", not skip_gradients_aggregation)
        # Of one replica, the sum would be a copy of each.
        if together and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            pairs = self.aggregate_gradients(pairs)
        if self.clip_norm is not None:
            # As `tf.clip_by_global_norm`, which makes more operations of each.
            norm = tf.linalg.global_norm([gradient for gradient, _ in pairs])
            self._factor = clipping_factor(norm, self.clip_norm)
        # Made once, not for each variable: a graph of hundreds of them is traced slowly.
        self._decay = tf.constant(self.l2)
        self._rate = next_learning_rate(self)
        try:
            return super().apply_gradients(
                pairs, name=name, skip_gradients_aggregation=True, **kwargs
            )
        finally:
            self._rate, self._factor, self._decay = None, 1.0, self.l2

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "l2": self.l2,
            "clip_norm": self.clip_norm,
            "rate_multipliers": self.rate_multipliers,
        }


@functools.cache
def _momentum_step(dtype: tf.DType, nesterov: bool) -> Callable:
    """One update of SGD as one function for variables of all shapes.

    Keras' own has a dozen operations, and a supernet two hundred variables.
    """

    def step(weight, velocity, gradient, factor, decay, rate, momentum):
        value = tf.raw_ops.ReadVariableOp(resource=weight, dtype=dtype)
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=weight,
            accum=velocity,
            lr=rate,
            grad=_coupled(gradient, value, factor, decay),
            momentum=momentum,
            use_nesterov=nesterov,
        )

    handle, scalar = tf.TensorSpec([], tf.resource), tf.TensorSpec([], dtype)
    return tf.function(
        step,
        input_signature=[handle, handle, tf.TensorSpec(None, dtype), *[scalar] * 4],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


@register
class CoupledSGD(_CoupledDecay, keras.optimizers.SGD):
    """SGD whose L2 decay passes through the momentum.

    The velocity holds the learning rate, as always in Keras (v ← μ·v − lr·g, w ← w + v); PyTorch
    multiplies by it afterwards. Both are equal while the rate is constant; under a schedule ours
    follows it about 1/(1 − μ) steps later.

    Args:
        momentum_schedule: function of the step that replaces the constant momentum (one-cycle).
    """

    def __init__(self, *args, momentum_schedule: Callable | None = None, **kwargs) -> None:
        self.momentum_schedule = momentum_schedule
        super().__init__(*args, **kwargs)
        self._momentum: tf.Tensor | float = self.momentum

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        # Once for all variables: the graph of a schedule is larger than that of an update.
        schedule = self.momentum_schedule
        self._momentum = schedule(self.iterations) if schedule else tf.constant(self.momentum)
        try:
            return super().apply_gradients(grads_and_vars, *args, **kwargs)
        finally:
            self._momentum = self.momentum

    def _move(self, gradient, variable):
        velocity = self.momentums[self._index_dict[self._var_key(variable)]]
        _momentum_step(variable.dtype, self.nesterov)(
            variable.handle,
            velocity.handle,
            gradient,
            *self._coupling(variable),
            tf.cast(self.learning_rate, variable.dtype),
            tf.cast(self._momentum, variable.dtype),
        )

    def get_config(self) -> dict:
        schedule = self.momentum_schedule
        serialised = None if schedule is None else keras.optimizers.schedules.serialize(schedule)
        return {**super().get_config(), "momentum_schedule": serialised}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None):
        config = dict(config)
        if config.get("momentum_schedule") is not None:
            config["momentum_schedule"] = keras.optimizers.schedules.deserialize(
                config["momentum_schedule"], custom_objects
            )
        return super().from_config(config, custom_objects)


@register
class CoupledAdam(_CoupledDecay, keras.optimizers.Adam):
    """Adam whose L2 decay passes through the moments (not AdamW)."""
