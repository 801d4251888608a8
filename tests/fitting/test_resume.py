"""Killed and resumed training ends with the bits of the uninterrupted one."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
from resumable_training import (
    EPOCHS,
    OPTIMIZERS,
    STEPS,
    Killed,
    assert_same_bits,
    batches,
    fit,
    kill_in,
    make_model,
    rows,
    slots,
    state,
)

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import BnasLarqError
from bnas_larq.files import append_line, read_lines
from bnas_larq.fitting.callbacks import plain
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD

pytestmark = pytest.mark.usefixtures("deterministic")


# -- equal bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_resumed_training_equals_the_uninterrupted_one(tmp_path, optimizer):
    """Killed inside epoch 2 and again after the metrics of epoch 3, but before its checkpoint."""
    whole = make_model(optimizer=optimizer)
    assert fit(whole, tmp_path / "whole", validation_data=batches(99).take(2)) == 0

    cut = tmp_path / "cut"
    for done, kill in ((0, kill_in(1, step=1)), (1, kill_in(2)), (2, None)):
        model = make_model(optimizer=optimizer, seed=100 + done)  # another start each time …
        if done == 0:
            model.set_weights(make_model(optimizer=optimizer).get_weights())  # … but the first
        settings = {"validation_data": batches(99).take(2), "callbacks": [kill] if kill else []}
        if kill is None:
            assert fit(model, cut, **settings) == done
        else:
            with pytest.raises(Killed):
                fit(model, cut, **settings)

    assert_same_bits(state(model), state(whole))
    assert int(model.optimizer.iterations) == EPOCHS * STEPS
    moved = sum(np.any(slot.numpy() != 0) for slot in slots(model) if slot.shape.rank)
    assert moved >= len(model.trainable_variables)  # equal zeros would say nothing
    assert rows(cut) == rows(tmp_path / "whole")
    assert [row["epoch"] for row in rows(cut)] == list(range(EPOCHS))
    assert set(rows(cut)[0]) == {"epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_training_killed_inside_an_epoch_goes_on_at_that_step(tmp_path, optimizer):
    """With a checkpoint behind every step: killed in the first and the third epoch, and once more
    behind the first resumed step. The epochs' metrics are those of the uninterrupted one."""
    whole, asked = make_model(optimizer=optimizer), []
    fit(whole, tmp_path / "whole", validation_data=batches(99).take(2))

    def dataset(*position):
        asked.append(position)
        return batches(*position)

    cut = tmp_path / "cut"
    kills = kill_in(0, step=2), kill_in(2, step=1), kill_in(2, step=2), None
    for seed, kill in enumerate(kills, 100):
        model = make_model(optimizer=optimizer, seed=seed)
        if kill is kills[0]:
            model.set_weights(make_model(optimizer=optimizer).get_weights())
        settings = {"validation_data": batches(99).take(2), "callbacks": [kill] if kill else []}
        with contextlib.nullcontext() if kill is None else pytest.raises(Killed):
            fit(model, cut, dataset=dataset, checkpoint_minutes=1e-9, **settings)
    assert asked == [(0,), (0, 1), (2, 1), (2, 1)]
    assert_same_bits(state(model), state(whole))
    assert rows(cut) == rows(tmp_path / "whole")
    names = sorted(path.name for path in (cut / "checkpoints").iterdir())
    assert names == ["epoch-00003-step-0000001", "epoch-00004"]


def test_a_damaged_checkpoint_inside_an_epoch_is_passed_over(tmp_path):
    fit(whole := make_model(), tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        fit(make_model(), cut, checkpoint_minutes=1e-9, callbacks=[kill_in(1, step=2)])
    next((cut / "checkpoints" / "epoch-00001-step-0000001").glob("*.data*")).write_bytes(b"")
    again = make_model(seed=2)
    with pytest.warns(UserWarning, match="step-0000001 is damaged"):
        assert fit(again, cut) == 1
    assert_same_bits(state(again), state(whole))
    assert rows(cut) == rows(tmp_path / "whole")


def test_metrics_that_are_no_means_are_refused_inside_epochs(tmp_path):
    model = make_model()
    model.compile(CoupledSGD(0.1), "mse", metrics=[keras.metrics.AUC(name="auc")])
    with pytest.raises(BnasLarqError, match="means. Received: 'auc', a AUC. Set checkpoint_min"):
        fit(model, tmp_path, dataset=one_hot, checkpoint_minutes=1e-9)
    fit(model, tmp_path, epochs=1, dataset=one_hot)


def one_hot(*position):
    return batches(*position).map(lambda inputs, labels: (inputs, tf.one_hot(labels, 2)))


def test_forgetting_the_slots_would_show(tmp_path):
    """The comparison is sharp: the weights alone do not continue the same training."""
    whole, again = make_model(), make_model(seed=2)
    fit(whole, tmp_path / "whole", epochs=2)
    fit(first := make_model(), tmp_path / "first", epochs=1)
    again.set_weights(first.get_weights())
    again.fit(batches(1), steps_per_epoch=STEPS, epochs=1, verbose=0)
    assert any(np.any(a != b) for a, b in zip(again.weights, whole.weights, strict=True))


def test_a_finished_training_is_only_restored(tmp_path):
    fit(first := make_model(), tmp_path)
    again = make_model(seed=2)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert fit(again, tmp_path) == EPOCHS
    assert_same_bits(state(again), state(first))
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_the_data_of_the_first_epoch_to_do_is_asked_for(tmp_path):
    asked = []

    def dataset(epoch):
        asked.append(epoch)
        return batches(epoch)

    fit(make_model(), tmp_path, epochs=2, dataset=dataset)
    fit(make_model(), tmp_path, epochs=3, dataset=dataset)
    assert asked == [0, 2]


def test_other_records_are_cut_back_like_the_metrics(tmp_path):
    other = tmp_path / "alphas.jsonl"
    hook = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: append_line(other, {"epoch": epoch, **plain(logs)})
    )
    with pytest.raises(Killed):
        fit(make_model(), tmp_path, callbacks=[hook, kill_in(1)], logs=[other])
    assert [row["epoch"] for row in read_lines(other)] == [0, 1]
    fit(make_model(), tmp_path, callbacks=[hook], logs=[other])
    assert [row["epoch"] for row in read_lines(other)] == [0, 1, 2, 3]
    assert [row["loss"] for row in read_lines(other)] == [row["loss"] for row in rows(tmp_path)]


def test_two_optimizers_of_one_model_are_restored(tmp_path):
    """As in a search: a second optimizer that Keras knows nothing of."""

    def make(seed):
        model = make_model(seed=seed)
        model.alpha = tf.Variable([1.0, 2.0], trainable=False, name="alpha")
        second = CoupledAdam(0.01)
        hook = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: second.apply_gradients([(model.alpha, model.alpha)])
        )
        optimizers = {
            "optimizer": (model.optimizer, model.trainable_variables),
            "alpha_optimizer": (second, [model.alpha]),
        }
        return model, second, hook, optimizers

    def train(seed, folder, epochs):
        model, second, hook, optimizers = make(seed)
        resumable_fit(
            model,
            batches,
            steps_per_epoch=STEPS,
            epochs=epochs,
            checkpoints=Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            optimizers=optimizers,
            callbacks=[hook],
        )
        return model, second

    whole, second = train(1, tmp_path / "whole", 3)
    train(1, tmp_path / "cut", 2)
    again, again_second = train(2, tmp_path / "cut", 3)
    assert_same_bits(state(again), state(whole))
    assert again.alpha.numpy().tobytes() == whole.alpha.numpy().tobytes()
    assert int(again_second.iterations) == 3
    for one, other in zip(again_second.variables, second.variables, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_a_run_can_be_moved(tmp_path):
    """Nothing in a checkpoint names the folder it was written to."""
    fit(make_model(), tmp_path / "a", epochs=2)
    fit(whole := make_model(), tmp_path / "whole")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert fit(again := make_model(seed=2), tmp_path / "b") == 2
    assert_same_bits(state(again), state(whole))
