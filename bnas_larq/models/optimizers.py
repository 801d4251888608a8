"""SGD and Adam with L2 decay added to the gradient, as the papers' programs (PyTorch) do it.

Keras' own `weight_decay` is decoupled (AdamW, SGDW): it bypasses momentum and Adam's scaling, and
so is another method. Here gradients are clipped first and decay is added after, also after the
factor of binary kernels.

Single weights may have a rate of their own. Larq's `CaseOptimizer` would be the other way, but it
takes only Keras' legacy optimizers, and needs one for each rate.
"""

from __future__ import annotations

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
            return super().update_step(gradient, variable)
        finally:
            self._multiplier = None

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        pairs = [
            (gradient, variable) for gradient, variable in grads_and_vars if gradient is not None
        ]
        gradients, variables = [g for g, _ in pairs], [v for _, v in pairs]
        if self.clip_norm is not None:
            # As `tf.clip_by_global_norm`, which makes an operation more of each.
            factor = clipping_factor(tf.linalg.global_norm(gradients), self.clip_norm)
            gradients = [factor * tf.convert_to_tensor(gradient) for gradient in gradients]
        if self.l2:
            # One constant for all: a graph of hundreds of variables is traced slowly.
            l2 = tf.constant(self.l2)
            gradients = [
                g + tf.cast(l2, v.dtype) * tf.convert_to_tensor(v)
                for g, v in zip(gradients, variables, strict=True)
            ]
        # Read once, not for each variable.
        self._rate = next_learning_rate(self)
        try:
            return super().apply_gradients(zip(gradients, variables, strict=True), *args, **kwargs)
        finally:
            self._rate = None

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "l2": self.l2,
            "clip_norm": self.clip_norm,
            "rate_multipliers": self.rate_multipliers,
        }


class _OneOpSGD(keras.optimizers.SGD):
    """Keras' SGD with one operation for each variable instead of ten: a supernet has hundreds."""

    def update_step(self, gradient, variable):
        if isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        velocity = self.momentums[self._index_dict[self._var_key(variable)]]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


@register
class CoupledSGD(_CoupledDecay, _OneOpSGD):
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

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        constant = self.momentum
        # Once for all variables: the graph of a schedule is larger than that of an update.
        if self.momentum_schedule is None:
            self.momentum = tf.constant(constant)
        else:
            self.momentum = self.momentum_schedule(self.iterations)
        try:
            return super().apply_gradients(grads_and_vars, *args, **kwargs)
        finally:
            self.momentum = constant

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
