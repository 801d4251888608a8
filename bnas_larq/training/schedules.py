"""Learning-rate and momentum schedules: pure functions of the step, which resumed runs follow."""

from __future__ import annotations

from bnas_larq.backend import keras, register, tf
from bnas_larq.settings import TrainSettings


def _piecewise_linear(step: tf.Tensor, knots: list[tuple[float, float]]) -> tf.Tensor:
    """Linear interpolation through (step, value) knots; constant outside."""
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
    """Momentum of the one-cycle policy: 0.95 → 0.85 → 0.95 over 90 % of the steps, then 0.95."""

    def __init__(self, steps: int, high: float = 0.95, low: float = 0.85) -> None:
        self.steps, self.high, self.low = steps, high, low

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        knots = [(0.0, self.high), (0.45 * self.steps, self.low), (0.9 * self.steps, self.high)]
        return _piecewise_linear(step, knots)

    def get_config(self) -> dict:
        return {"steps": self.steps, "high": self.high, "low": self.low}


def learning_rate(
    settings: TrainSettings, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The recipe's schedule over the whole training."""
    steps = settings.epochs * steps_per_epoch
    if settings.schedule == "one-cycle":
        return OneCycle(settings.learning_rate, steps)
    if settings.schedule == "cosine":
        if settings.restart_epochs:
            return keras.optimizers.schedules.CosineDecayRestarts(
                settings.learning_rate,
                settings.restart_epochs * steps_per_epoch,
                t_mul=1.0,
                m_mul=1.0,
            )
        return keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
    return settings.learning_rate
