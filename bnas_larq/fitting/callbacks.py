"""Keras callbacks of every run: metrics log, guard against a loss that is not finite, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.console import clock, end_progress, say, show_progress
from bnas_larq.errors import TrainingStopped
from bnas_larq.files import append_line


def plain(logs: dict[str, Any] | None) -> dict[str, float]:
    """Keras' logs as Python numbers."""
    return {key: float(value) for key, value in (logs or {}).items()}


class MetricsLog(keras.callbacks.Callback):
    """Appends one JSON line per epoch: epoch, `facts`, seconds, learning rate and all of Keras'
    metrics. `earlier` are the seconds that another process spent on the first one."""

    def __init__(
        self, path: Path, facts: Mapping[str, str] | None = None, earlier: float = 0.0
    ) -> None:
        super().__init__()
        self.path, self.facts, self._earlier = path, facts or {}, earlier

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.monotonic() - self._earlier
        self._earlier = 0.0

    @property
    def seconds(self) -> float:
        """Of this epoch, so far."""
        return round(time.monotonic() - self._start, 3)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = self.seconds
        rate = float(keras.backend.get_value(self.model.optimizer.learning_rate))
        row = {"epoch": epoch, **self.facts, "seconds": seconds, "lr": rate, **plain(logs)}
        append_line(self.path, row)


class AfterLastStep(keras.callbacks.Callback):
    """Does something to the weights after the last step, so that validation and checkpoint have it.

    Args:
        act: does it.
        epoch, step: the last of the training, from 0.
    """

    _supports_tf_logs = True  # reads no metrics

    def __init__(self, act: Callable[[], object], epoch: int, step: int) -> None:
        super().__init__()
        self.act, self.epoch, self.step = act, epoch, step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (self._epoch, batch) == (self.epoch, self.step):
            self.act()


def stop_unless_finite(name: str, value: float, where: str) -> None:
    """Raise TrainingStopped if the loss in `where`, such as `epoch 3`, is NaN or infinite."""
    if not math.isfinite(value):
        kind, _, _ = where.partition(" ")
        raise TrainingStopped(
            f"The loss must stay finite. Received: {name} = {value} in {where}. "
            f"Lower the learning rate; checkpoints before this {kind} are kept."
        )


class StopWhenNotFinite(keras.callbacks.Callback):
    """Raises TrainingStopped when a loss is NaN or infinite; the last epoch's checkpoint stays.

    Keras' TerminateOnNaN ends `fit` without an error: a run would continue with broken weights.
    """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        for name, value in plain(logs).items():
            if "loss" in name:
                stop_unless_finite(name, value, f"epoch {epoch + 1}")


class Progress(keras.callbacks.Callback):
    """Logs one line for each epoch, with the time left; a command's terminal shows a bar as well.

    Args:
        title: of the work, such as `search`.
        epochs: last epoch of the whole stage.
        steps: steps of one epoch.
        shown: metrics to print.
        unit: what an epoch is called.
    """

    # Keras' flag: no hook of a step reads metrics, so that none waits for an accelerator.
    _supports_tf_logs = True

    def __init__(
        self, title: str, epochs: int, steps: int, shown: tuple[str, ...], unit: str = "epoch"
    ) -> None:
        super().__init__()
        self.title, self.epochs, self.steps, self.shown = title, epochs, steps, shown
        self.unit = unit
        self._done = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._first_step: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._show(0)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._done += 1
        if self._first_step is None:
            self._first_step = time.monotonic()
        self._show(batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        values = plain(logs)
        parts = [f"{name} {values[name]:.4f}" for name in self.shown if name in values]
        parts.append(self._left(self.steps))
        say(f"{self.title} {self.unit} {epoch + 1}/{self.epochs}: {', '.join(parts)}")
        if epoch + 1 == self.epochs:
            end_progress()

    def _show(self, step: int) -> None:
        where = f"{self.unit} {self._epoch + 1}/{self.epochs}, step {step}/{self.steps}"
        done, total = self._epoch * self.steps + step, self.epochs * self.steps
        show_progress(f"{self.title} {where}", done, total, self._left(step))

    def _left(self, step: int) -> str:
        # The first step traces and compiles the graph; it says nothing about the others.
        if self._first_step is None or self._done < 2:
            return "time left unknown"
        rate = (time.monotonic() - self._first_step) / (self._done - 1)
        remaining = (self.epochs - self._epoch) * self.steps - step
        return f"{clock(rate * remaining)} left"
