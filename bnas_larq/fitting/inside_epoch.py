"""Checkpoints inside long epochs, and `fit` that begins where one of them was written."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pydantic

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError
from bnas_larq.fitting.callbacks import MetricsLog, plain, stop_unless_finite


class Position(pydantic.BaseModel):
    """Where inside an epoch a checkpoint was written.

    Attributes:
        step: steps of the epoch that were done.
        seconds: that they took.
        metrics: the state of each metric, float32 numbers.
    """

    step: pydantic.NonNegativeInt = 0
    seconds: pydantic.NonNegativeFloat = 0.0
    metrics: list[list[float]] = []


class SaveInside(keras.callbacks.Callback):
    """Calls `save` with an epoch and the position in it, every few minutes.

    Not after the last two steps: the epoch's own checkpoint follows soon, and a model may report
    the metrics of its last step, before which `TakeUp` must have acted. A loss that is not finite
    stops the training first (TrainingStopped), so that earlier checkpoints stay.

    Args:
        minutes: between two calls.
        steps: of an epoch.
        log: tells the seconds of the epoch.
    """

    def __init__(
        self, save: Callable[[int, Position], None], minutes: float, steps: int, log: MetricsLog
    ) -> None:
        super().__init__()
        self.save, self.seconds, self.steps, self.log = save, 60 * minutes, steps, log

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._saved = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        due = time.monotonic() - self._saved >= self.seconds
        if not due or batch + 2 >= self.steps:
            return
        for name, value in plain(logs).items():
            if "loss" in name:
                stop_unless_finite(name, value, f"epoch {self._epoch + 1}")
        metrics = [
            [float(variable) for variable in metric.variables] for metric in _means(self.model)
        ]
        inside = Position(step=batch + 1, seconds=self.log.seconds, metrics=metrics)
        self.save(self._epoch, inside)
        self._saved = time.monotonic()


class TakeUp(keras.callbacks.Callback):
    """Adds the metrics' sums at the position to those of the first step from there, which creates
    the metrics; the sum of two numbers does not depend on their order, and a step adds one to each,
    see `bnas_larq.training.accumulation`."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position: Position | None = position

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.position is None:
            return
        for metric, earlier in zip(_means(self.model), self.position.metrics, strict=True):
            for variable, value in zip(metric.variables, earlier, strict=True):
                variable.assign(variable + value)
        self.position = None


def _means(model: keras.Model) -> list[keras.metrics.Mean]:
    """The model's metrics; BnasLarqError unless they are means, whose state is a sum."""
    metrics = list({id(metric): metric for metric in model.metrics}.values())
    for metric in metrics:
        if not isinstance(metric, keras.metrics.Mean):
            raise BnasLarqError(
                "Checkpoints inside epochs keep metrics that are means. "
                f"Received: {metric.name!r}, a {type(metric).__name__}. "
                "Set checkpoint_minutes to 0."
            )
    return metrics


@contextlib.contextmanager
def begun_inside(model: keras.Model, epoch: int, step: int) -> Iterator[None]:
    """Inside, `fit` begins at this step of its first epoch, `epoch`.

    Keras can do so, but only asks its own BackupAndRestore, by a method of the model.
    """
    if not step:
        yield
        return
    model._maybe_load_initial_counters_from_ckpt = lambda *_: (epoch, step)
    try:
        yield
    finally:
        del model._maybe_load_initial_counters_from_ckpt
