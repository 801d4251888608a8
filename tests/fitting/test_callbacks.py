"""What a user sees while a run works, and what is recorded of each epoch."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.errors import TrainingStopped
from bnas_larq.files import read_lines
from bnas_larq.fitting.callbacks import MetricsLog, Progress, StopWhenNotFinite, plain


def test_logs_become_plain_numbers():
    assert plain({"loss": np.float32(0.5), "n": np.int64(3)}) == {"loss": 0.5, "n": 3.0}
    assert type(plain({"loss": np.float32(0.5)})["loss"]) is float
    assert plain(None) == {}


def lines_of(progress, epochs, steps, caplog, logs):
    caplog.set_level("INFO")
    progress.on_train_begin()
    for epoch in epochs:
        progress.on_epoch_begin(epoch)
        for step in range(steps):
            progress.on_train_batch_end(step)
        progress.on_epoch_end(epoch, logs)
    return caplog.messages


def test_one_plain_line_for_each_epoch_without_a_terminal(caplog):
    progress = Progress("search", 3, 2, ("loss", "val_loss", "accuracy"))
    logs = {"loss": 0.25, "accuracy": 1 / 3, "other": 9.0}
    lines = lines_of(progress, range(3), 2, caplog, logs)
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        expected = rf"search epoch {number}/3: loss 0.2500, accuracy 0.3333, \d+:\d\d left"
        assert re.fullmatch(expected, line)
    assert lines[-1].endswith(", 0:00 left")


def test_the_first_step_says_nothing_about_the_time_left(caplog):
    """It builds the graph."""
    lines = lines_of(Progress("train", 2, 1, ("loss",)), [0], 1, caplog, {"loss": 1.0})
    assert lines == ["train epoch 1/2: loss 1.0000, time left unknown"]


def test_a_resumed_training_counts_from_its_own_epoch(caplog):
    lines = lines_of(Progress("train", 9, 3, ()), [7, 8], 3, caplog, {})
    assert [line.split(":")[0] for line in lines] == ["train epoch 8/9", "train epoch 9/9"]
    assert lines[-1] == "train epoch 9/9: 0:00 left"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["loss", "val_loss", "alpha_loss"])
def test_any_loss_that_is_not_finite_stops(name, value):
    guard = StopWhenNotFinite()
    guard.on_epoch_end(0, {name: 1.0, "accuracy": value})
    message = rf"loss must stay finite. Received: {name} = (nan|-?inf) in epoch 5. Lower the"
    with pytest.raises(TrainingStopped, match=message):
        guard.on_epoch_end(4, {name: value})


def test_the_metrics_of_an_epoch_are_one_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    log.set_model(model)
    for epoch in (3, 4):
        log.on_epoch_begin(epoch)
        log.on_epoch_end(epoch, {"loss": np.float32(0.25)})
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [{**row, "seconds": 0} for row in rows] == [
        {"epoch": 3, "seconds": 0, "lr": 0.5, "loss": 0.25},
        {"epoch": 4, "seconds": 0, "lr": 0.5, "loss": 0.25},
    ]
    assert all(row["seconds"] >= 0 for row in rows)
