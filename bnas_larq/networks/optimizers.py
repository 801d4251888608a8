"""SGD and Adam with L2 decay added to the gradient, as in the papers' programs (PyTorch).

Keras' own `weight_decay` is decoupled (AdamW, SGDW): it bypasses momentum and Adam's scaling, and
so is another method. Here gradients are clipped first, then decay is added; under a strategy both
happen once, to the sum of the replicas' gradients.

Single weights may have their own rate. Larq's `CaseOptimizer` takes only Keras' legacy optimizers,
and needs one for each rate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from bnas_larq.backend import keras, register, tf
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.layers.template import CLASSIFIER

#: Kinds of weights, as recipes name them.
KINDS = ("binary", "kernels", "batch_norm", "head", "other")


def latent_kernels(model: keras.Model) -> list[tf.Variable]:
    """Weights of `model` that are binary in use, also of models inside it: those with a 1-bit
    quantizer, and those of which `ABCConv2D` makes binary bases."""
    bases = {
        id(layer.kernel)
        for layer in model.submodules
        if isinstance(layer, ABCConv2D) and layer.built and not layer.real_kernel
    }
    return [
        weight
        for weight in model.weights
        if id(weight) in bases
        or getattr(getattr(weight, "quantizer", None), "precision", None) == 1
    ]


def weight_kinds(model: keras.Model) -> dict[str, str]:
    """The kind of each of `model`'s trainable weights, by its name: one of `KINDS`.

    `binary`: latent kernels; `head`: those of the classifier; `batch_norm`: scales and offsets;
    `kernels`: all other kernels of convolutions and dense layers; `other`: biases, scales, slopes.
    """
    latent = {kernel.name for kernel in latent_kernels(model)}
    kinds = {}
    # Models and composite layers come before the layers inside them, which say more.
    for layer in model.submodules:
        attributes = ("kernel", "depthwise_kernel", "pointwise_kernel")
        kernels = {getattr(getattr(layer, key, None), "name", None) for key in attributes}
        for weight in getattr(layer, "trainable_weights", ()):
            if weight.name in latent:
                kind = "binary"
            elif layer.name == CLASSIFIER:
                kind = "head"
            elif isinstance(layer, keras.layers.BatchNormalization):
                kind = "batch_norm"
            else:
                kind = "kernels" if weight.name in kernels else "other"
            kinds[weight.name] = kind
    return kinds


def next_learning_rate(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """The rate of the optimizer's next step; with a schedule, the property `learning_rate` still
    has the last step's."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return tf.cast(rate(optimizer.iterations), tf.float32)
    return tf.convert_to_tensor(rate)


def clipping_factor(norm: tf.Tensor, limit: float) -> tf.Tensor:
    """The factor that scales gradients of this global norm down to `limit`; NaN if the norm is not
    finite, so that no weight hides it."""
    return limit / tf.maximum(norm, limit) + (norm - norm)


def _own_name(variable: tf.Variable) -> str:
    """The name by which users know a variable, also of a replica's copy of it."""
    # As Keras finds the distributed variable, too.
    container = getattr(variable.handle, "_distributed_container", lambda: variable)
    return container().name


class _CoupledDecay:
    """Adds clipping by global norm, L2 decay and rates of single weights to a Keras optimizer.

    Args:
        l2: decay λ: λ·w is added to the gradient of each weight w. A mapping gives λ by variable
            name, 0 where there is none.
        clip_norm: largest global norm of the gradients before the decay; None for no clipping.
        rate_multipliers: variable name → factor of its learning rate. The rate is scaled, not the
            gradient, which Adam would scale back.
    """

    def __init__(
        self,
        *args,
        l2: float | Mapping[str, float] = 0.0,
        clip_norm: float | None = None,
        rate_multipliers: Mapping[str, float] | None = None,
        **kwargs,
    ) -> None:
        self.rate_multipliers = dict(rate_multipliers or {})
        self._multiplier: float | None = None
        self._rate: tf.Tensor | None = None
        # Compiled by XLA, as Keras does on GPUs, an update would keep the first step's rate.
        super().__init__(*args, **{**kwargs, "jit_compile": False})
        self.l2 = dict(l2) if isinstance(l2, Mapping) else l2
        self.clip_norm = clip_norm
        self._factor: tf.Tensor | float = 1.0
        self._decays: Mapping[float, tf.Tensor] = {}

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
        self._multiplier = self.rate_multipliers.get(_own_name(variable))
        try:
            return self._move(tf.convert_to_tensor(gradient), variable)
        finally:
            self._multiplier = None

    def _move(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update `variable` by its gradient, which has not been clipped yet."""
        if self.l2 or self.clip_norm is not None:
            factor, decay = self._coupling(variable)
            gradient = factor * gradient + decay * variable
        super().update_step(gradient, variable)

    def _coupling(self, variable: tf.Variable) -> tuple[tf.Tensor, tf.Tensor]:
        """The step's clipping factor and decay, in the variable's type."""
        decay = self.l2
        if isinstance(decay, dict):
            decay = decay.get(_own_name(variable), 0.0)
        decay = self._decays.get(decay, decay)
        return tf.cast(self._factor, variable.dtype), tf.cast(decay, variable.dtype)

    def apply_gradients(
        self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs
    ):
        pairs = [pair for pair in grads_and_vars if pair[0] is not None]
        together = kwargs.pop("experimental_aggregate_gradients", not skip_gradients_aggregation)
        # With one replica, aggregation would only copy.
        if together and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            pairs = self.aggregate_gradients(pairs)
        if self.clip_norm is not None:
            # As `tf.clip_by_global_norm`, with fewer operations.
            norm = tf.linalg.global_norm([gradient for gradient, _ in pairs])
            self._factor = clipping_factor(norm, self.clip_norm)
        # Once, not for each variable: tracing a graph of hundreds is slow.
        decays = {0.0, *self.l2.values()} if isinstance(self.l2, dict) else {self.l2}
        self._decays = {decay: tf.constant(decay) for decay in decays}
        self._rate = next_learning_rate(self)
        try:
            return super().apply_gradients(
                pairs, name=name, skip_gradients_aggregation=True, **kwargs
            )
        finally:
            self._rate, self._factor, self._decays = None, 1.0, {}

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "l2": self.l2,
            "clip_norm": self.clip_norm,
            "rate_multipliers": self.rate_multipliers,
        }


def _update(step: Callable, dtype: tf.DType, states: int, scalars: int) -> Callable:
    """An update as one function for variables of all shapes: Keras' own have a dozen to thirty
    operations, and a network two hundred variables.

    Args:
        step: takes the variable's handle and those of its `states`, the gradient, and `scalars`
            numbers.
    """
    handles, scalar = [tf.TensorSpec([], tf.resource)] * (1 + states), tf.TensorSpec([], dtype)
    return tf.function(
        step,
        input_signature=[*handles, tf.TensorSpec(None, dtype), *[scalar] * scalars],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


@functools.cache
def _momentum_step(dtype: tf.DType, nesterov: bool) -> Callable:
    """One update of SGD."""

    def step(weight, velocity, gradient, factor, decay, rate, momentum):
        value = tf.raw_ops.ReadVariableOp(resource=weight, dtype=dtype)
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=weight,
            accum=velocity,
            lr=rate,
            grad=factor * gradient + decay * value,  # clipped and decayed
            momentum=momentum,
            use_nesterov=nesterov,
        )

    return _update(step, dtype, 1, 4)


@functools.cache
def _adam_step(dtype: tf.DType) -> Callable:
    """One update of Adam."""

    def step(weight, first, second, gradient, factor, decay, rate, *numbers):
        ahead, root, beta1_rest, beta2_rest, epsilon = numbers

        def read(handle):
            return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)

        value, m, v = read(weight), read(first), read(second)
        gradient = factor * gradient + decay * value  # clipped and decayed
        m += (gradient - m) * beta1_rest
        v += (tf.square(gradient) - v) * beta2_rest
        value -= m * (rate * root / ahead) / (tf.sqrt(v) + epsilon)
        for handle, new in ((first, m), (second, v), (weight, value)):
            tf.raw_ops.AssignVariableOp(resource=handle, value=new)

    return _update(step, dtype, 2, 8)


@register
class CoupledSGD(_CoupledDecay, keras.optimizers.SGD):
    """SGD whose L2 decay passes through the momentum.

    The velocity holds the learning rate, as always in Keras (v ← μ·v − lr·g, w ← w + v); PyTorch
    multiplies by it afterwards. Both are equal while the rate is constant; under a schedule ours
    follows it about 1/(1 − μ) steps later.

    Args:
        momentum_schedule: function of the step that replaces the constant momentum (one-cycle).

    Example:
        >>> weight = tf.Variable(2.0)
        >>> optimizer = CoupledSGD(0.5, momentum=0.9, l2=0.1)
        >>> for _ in range(2):
        ...     _ = optimizer.apply_gradients([(tf.constant(1.0), weight)])
        >>> round(float(weight), 3)  # 2 - 0.6 - (0.9 * 0.6 + 0.5 * (1 + 0.1 * 1.4))
        0.29
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
    """Adam whose L2 decay passes through the moments (not AdamW).

    Example:
        >>> weight = tf.Variable(2.0)
        >>> optimizer = CoupledAdam(0.5, l2=0.1, rate_multipliers={weight.name: 0.1})
        >>> _ = optimizer.apply_gradients([(tf.constant(1.0), weight)])
        >>> round(float(weight), 3)
        1.95
    """

    def apply_gradients(self, grads_and_vars, *args, **kwargs):
        # Once for all variables.
        taken = tf.cast(self.iterations + 1, tf.float32)
        ahead, scale = (1 - tf.pow(beta, taken) for beta in (self.beta_1, self.beta_2))
        rests = 1 - self.beta_1, 1 - self.beta_2
        self._numbers = ahead, tf.sqrt(scale), *map(tf.constant, (*rests, self.epsilon))
        try:
            return super().apply_gradients(grads_and_vars, *args, **kwargs)
        finally:
            self._numbers = ()

    def _move(self, gradient, variable):
        if self.amsgrad or self.adaptive_epsilon:
            super()._move(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        _adam_step(variable.dtype)(
            variable.handle,
            self._momentums[index].handle,
            self._velocities[index].handle,
            gradient,
            *self._coupling(variable),
            tf.cast(self.learning_rate, variable.dtype),
            *(tf.cast(value, variable.dtype) for value in self._numbers),
        )
