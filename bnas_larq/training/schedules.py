"""Schedules of the learning rate and the momentum over one stage of a training."""

from __future__ import annotations

from bnas_larq.backend import keras, register, tf
from bnas_larq.train_settings import StageSettings

_Rate = float | keras.optimizers.schedules.LearningRateSchedule


def _piecewise_linear(step: tf.Tensor, knots: list[tuple[float, float]]) -> tf.Tensor:
    """Linear interpolation of (step, value) knots, constant outside them."""
    step = tf.cast(step, tf.float32)
    value = tf.constant(knots[0][1], tf.float32)
    for (x0, y0), (x1, y1) in zip(knots, knots[1:], strict=False):
        share = tf.clip_by_value((step - x0) / max(x1 - x0, 1.0), 0.0, 1.0)
        value = tf.where(step >= x0, y0 + (y1 - y0) * share, value)
    return value


@register
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Linear 0.05·peak → peak → 0.05·peak over 90 % of the steps, then down to 0.0005·peak.

    Source: the training of BNAS on CIFAR-10 (arXiv 2002.06963, after Smith, arXiv 1708.07120).

    Example:
        >>> rate = OneCycle(peak=1.0, steps=1000)
        >>> [round(float(rate(step)), 4) for step in (0, 450, 900, 1000)]
        [0.05, 1.0, 0.05, 0.0005]
    """

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        half, cycle, end = 0.45 * self.steps, 0.9 * self.steps, float(self.steps)
        low, last = 0.05 * self.peak, 0.0005 * self.peak
        return _piecewise_linear(step, [(0.0, low), (half, self.peak), (cycle, low), (end, last)])

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps}


@register
class OneCycleMomentum(keras.optimizers.schedules.LearningRateSchedule):
    """Momentum of the one-cycle policy: 0.95 → 0.85 → 0.95 over 90 % of the steps, then 0.95.

    Example:
        >>> momentum = OneCycleMomentum(steps=1000)
        >>> [round(float(momentum(step)), 3) for step in (0, 225, 450, 1000)]
        [0.95, 0.9, 0.85, 0.95]
    """

    def __init__(self, steps: int, high: float = 0.95, low: float = 0.85) -> None:
        self.steps, self.high, self.low = steps, high, low

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        knots = [(0.0, self.high), (0.45 * self.steps, self.low), (0.9 * self.steps, self.high)]
        return _piecewise_linear(step, knots)

    def get_config(self) -> dict:
        return {"steps": self.steps, "high": self.high, "low": self.low}


@register
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear rise to `peak` in the first `steps` steps, then `schedule` from its start.

    Args:
        schedule: a Keras schedule that starts at `peak`; None stays there.
        peak: rate of the step number `steps - 1`.
        steps: at least 1.

    Example:
        >>> rate = WarmUp(None, peak=1.0, steps=4)
        >>> [float(rate(step)) for step in (0, 1, 3, 4, 5)]
        [0.25, 0.5, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule | None,
        peak: float,
        steps: int,
    ) -> None:
        self.schedule, self.peak, self.steps = schedule, peak, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rise = self.peak * (step + 1.0) / self.steps
        later = tf.maximum(step - self.steps, 0.0)
        rate = self.peak if self.schedule is None else self.schedule(later)
        return tf.where(step < self.steps, rise, rate)

    def get_config(self) -> dict:
        schedule = self.schedule and keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "peak": self.peak, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict):
        schedule = config["schedule"]
        schedule = schedule and keras.optimizers.schedules.deserialize(schedule)
        return cls(**{**config, "schedule": schedule})


def learning_rate(settings: StageSettings, steps_per_epoch: int) -> _Rate:
    """The schedule of a stage, over all its steps."""
    steps = settings.epochs * steps_per_epoch
    if settings.schedule == "one-cycle":
        return OneCycle(settings.learning_rate, steps)
    rise = round(settings.warmup * steps)
    rate = _without_rise(settings, max(steps - rise, 1), steps_per_epoch)
    if not rise:
        return rate
    schedule = None if isinstance(rate, float) else rate
    return WarmUp(schedule, settings.learning_rate, rise)


def _without_rise(settings: StageSettings, steps: int, steps_per_epoch: int) -> _Rate:
    schedules, rate = keras.optimizers.schedules, settings.learning_rate
    if settings.schedule == "cosine" and settings.restart_epochs:
        period = settings.restart_epochs * steps_per_epoch
        return schedules.CosineDecayRestarts(rate, period, t_mul=1.0, m_mul=1.0)
    if settings.schedule == "cosine":
        return schedules.CosineDecay(rate, steps)
    if settings.schedule == "linear":
        return schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)
    return rate
