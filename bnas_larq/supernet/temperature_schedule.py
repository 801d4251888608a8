"""The temperature of a search that draws, by epoch."""

from __future__ import annotations

from bnas_larq.backend import register, tf
from bnas_larq.errors import BnasLarqError, nearest

DECAYS = ("linear", "exponential")


@register
class TemperatureSchedule:
    """The temperature of a Gumbel-softmax, by epoch.

    Args:
        first, last: temperature in the first and in the last epoch.
        epochs: of the whole search.
        decay: `"linear"`, as GDAS (arXiv 1910.04465, §4), or `"exponential"`: the same factor
            from each epoch to the next.

    Raises:
        BnasLarqError: a temperature that is not positive, no epochs, or an unknown decay.

    Example:
        >>> temperature = TemperatureSchedule(10.0, 0.1, epochs=100)
        >>> [round(float(temperature(epoch)), 2) for epoch in (0, 33, 99)]
        [10.0, 6.7, 0.1]
    """

    def __init__(self, first: float, last: float, epochs: int, decay: str = "linear") -> None:
        if first <= 0 or last <= 0 or epochs < 1:
            raise BnasLarqError(
                "Temperatures must be positive, over at least one epoch. "
                f"Received: first={first}, last={last}, epochs={epochs}. GDAS goes from 10 to 0.1."
            )
        if decay not in DECAYS:
            raise BnasLarqError(
                "A temperature's decay must be a known one. "
                f"Received: {decay!r}; {nearest(str(decay), DECAYS)}"
            )
        self.first, self.last, self.epochs, self.decay = first, last, epochs, decay

    def __call__(self, epoch: tf.Tensor | float) -> tf.Tensor:
        """The temperature in an epoch, counted from 0; constant after the last one."""
        progress = tf.cast(epoch, tf.float32) / max(1, self.epochs - 1)
        progress = tf.clip_by_value(progress, 0.0, 1.0)
        if self.decay == "linear":
            return self.first + (self.last - self.first) * progress
        return self.first * (self.last / self.first) ** progress

    def get_config(self) -> dict:
        return {"first": self.first, "last": self.last, "epochs": self.epochs, "decay": self.decay}

    @classmethod
    def from_config(cls, config: dict) -> TemperatureSchedule:
        return cls(**config)
