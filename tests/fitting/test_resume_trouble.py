"""Damaged and foreign checkpoints, losses that are not finite, a full disk."""

from __future__ import annotations

import math

import pytest
from resumable_training import (
    OPTIMIZERS,
    STEPS,
    assert_same_bits,
    batches,
    fit,
    make_model,
    rows,
    state,
)

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import CheckpointError, RunError, TrainingStopped, WeightsError
from bnas_larq.networks.optimizers import CoupledSGD

pytestmark = pytest.mark.usefixtures("deterministic")


def test_a_truncated_checkpoint_is_passed_over(tmp_path):
    """The run goes back one epoch and ends with the same bits."""
    whole = make_model()
    fit(whole, tmp_path / "whole")
    cut = tmp_path / "cut"
    fit(make_model(), cut, epochs=3)
    data = next((cut / "checkpoints" / "epoch-00003").glob("*.data*"))
    data.write_bytes(data.read_bytes()[:-100])
    again = make_model(seed=2)
    with pytest.warns(UserWarning, match="epoch-00003 is damaged .* using the one before it"):
        assert fit(again, cut) == 2
    assert_same_bits(state(again), state(whole))
    assert rows(cut) == rows(tmp_path / "whole")


def test_only_damaged_checkpoints(tmp_path):
    fit(make_model(), tmp_path, epochs=2)
    for path in (tmp_path / "checkpoints").glob("*/*.index"):
        path.write_bytes(b"")
    before = rows(tmp_path)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="one intact checkpoint"):
        fit(make_model(), tmp_path)
    assert rows(tmp_path) == before


@pytest.mark.parametrize(
    "other",
    [
        {"units": 7},
        {"dense": "hidden", "units": 60},
        {"optimizer": OPTIMIZERS["adam"]},
    ],
    ids=["one unit more", "many more", "another optimizer"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other):
    fit(make_model(), tmp_path, epochs=2)
    before = rows(tmp_path)
    message = (
        "must hold the weights of this very model. Received: .*epoch-00002.* Resume with the rec"
    )
    with pytest.raises(WeightsError, match=message) as error:
        fit(make_model(**other), tmp_path)
    assert "\n" not in str(error.value)
    assert rows(tmp_path) == before


def test_a_checkpoint_of_a_smaller_model_is_refused(tmp_path):
    fit(make_model(), tmp_path, epochs=2)
    larger = make_model()
    larger.add(keras.layers.Dense(2))
    larger.compile(optimizer=CoupledSGD(0.1), loss="mse")
    with pytest.raises(WeightsError, match="must hold the weights of this very model"):
        fit(larger, tmp_path)


def test_a_checkpoint_without_tensorflows_files_is_refused(tmp_path):
    """Whole by its sums, and still nothing that TensorFlow can read."""
    Checkpoints(tmp_path / "checkpoints").save(1, lambda folder: (folder / "a").write_text("b"))
    with pytest.raises(
        CheckpointError, match="must be readable. Received: .*epoch-00001 .*Delete it"
    ):
        fit(make_model(), tmp_path)


@pytest.mark.parametrize("minutes", [0.0, 1e-9])
def test_a_loss_that_is_no_longer_finite_stops_and_keeps_the_checkpoint_before(tmp_path, minutes):
    """From epoch 2 on the inputs are infinite; epochs 0 and 1 stay as they were."""

    def broken(epoch):
        return (
            batches(epoch)
            .enumerate(epoch * STEPS)
            .map(
                lambda number, batch: (
                    batch[0] * tf.where(number >= 2 * STEPS, math.inf, 1.0),
                    batch[1],
                )
            )
        )

    message = (
        r"loss must stay finite. Received: loss = nan in epoch 3. Lower the learning rate; check"
    )
    with pytest.raises(TrainingStopped, match=message):
        fit(make_model(), tmp_path, dataset=broken, checkpoint_minutes=minutes)
    assert [epoch for epoch, _ in Checkpoints(tmp_path / "checkpoints").candidates()] == [2, 1]
    assert [row["epoch"] for row in rows(tmp_path)] == [0, 1]

    healthy = tmp_path / "healthy"
    fit(whole := make_model(), healthy)
    again = make_model(seed=2)
    assert fit(again, tmp_path) == 2
    assert_same_bits(state(again), state(whole))


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path):
    broken = batches(0).take(1).map(lambda inputs, labels: (inputs * math.nan, labels))
    with pytest.raises(TrainingStopped, match="Received: val_loss = nan in epoch 1"):
        fit(make_model(), tmp_path, validation_data=broken)
    assert rows(tmp_path) == []


def test_a_full_disk_stops_with_a_sentence_and_keeps_the_checkpoint_before(tmp_path, full_disk):
    fit(make_model(), tmp_path, epochs=1)
    message = "checkpoint must be written to disk. Received: .* Free space, then resume"
    with full_disk(1000), pytest.raises(RunError, match=message) as error:
        fit(make_model(), tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-00001"]
    fit(whole := make_model(), tmp_path / "whole")
    assert fit(again := make_model(seed=2), tmp_path) == 1
    assert_same_bits(state(again), state(whole))
