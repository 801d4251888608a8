"""Batches in parts: the update of the whole batch, as far as BatchNorm has fixed statistics."""

from __future__ import annotations

import contextlib

import numpy as np
import pydantic
import pytest
from resumable_training import BATCH, Killed, fit, kill_in, make_model, rows

from bnas_larq.backend import keras, tf
from bnas_larq.files import read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.layers.cells import drop_path_controls
from bnas_larq.networks.fast_training import fast_training
from bnas_larq.networks.network import build_network
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.accumulation import accumulated
from bnas_larq.training.teachers import Distilled, Teacher
from bnas_larq.training.trainer import train_network

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(2, size=8)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZERS = {
    "momentum": lambda: CoupledSGD(0.1, momentum=0.9, l2=0.01, clip_norm=0.1),
    "adam": lambda: CoupledAdam(0.01, l2=0.01),
}


def network(seed=1, fixed=True, **settings):
    """A binary cell for 8×8 images of two classes; with `fixed` statistics of BatchNorm."""
    keras.utils.set_random_seed(seed)
    size = {"input_shape": (8, 8, 3), "num_classes": 2, "channels": 2, "cells": 1}
    model = build_network(Genotype(CELL, CELL), **size, **settings)
    for layer in model.layers:
        if fixed and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return model


def after_steps(parts, compute="float32", optimizer="momentum", teacher=None, steps=2, **settings):
    """A network after some steps on one batch, and what Keras reports of them."""
    model = whole = network(**settings)
    if teacher is not None:
        model = Distilled(model, Teacher(network(seed=9), teacher), LOSS)
    model.compile(OPTIMIZERS[optimizer](), LOSS, metrics=["accuracy"])
    data = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
    with fast_training(model, compute), accumulated(model, parts):
        history = model.fit(data, steps_per_epoch=steps, verbose=0).history
    assert int(model.optimizer.iterations) == steps
    return whole, history


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("parts", [2, 8])
def test_parts_give_the_update_of_the_whole_batch(optimizer, parts):
    """With clipping that acts, decay, momentum, and a binary network's layers."""
    (whole, seen), (again, reported) = (after_steps(n, optimizer=optimizer) for n in (1, parts))
    moved = [np.abs(a - b).max() for a, b in zip(whole.weights, network().weights, strict=True)]
    assert max(moved) > 0.01
    for one, other in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6, err_msg=one.name)
    assert reported["accuracy"] == seen["accuracy"]
    assert reported["loss"] == pytest.approx(seen["loss"], abs=1e-6)


def test_parts_learn_from_a_teacher():
    teacher = TeacherSettings(model="x", temperature=2.0, attention=0.5)
    (whole, seen), (again, reported) = (after_steps(n, teacher=teacher) for n in (1, 4))
    for one, other in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6, err_msg=one.name)
    assert reported["loss"] == pytest.approx(seen["loss"], abs=1e-6)


def test_parts_in_bfloat16_are_near():
    (whole, _), (again, _) = (after_steps(n, "bfloat16", steps=1) for n in (1, 4))
    for one, other in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=2e-3, err_msg=one.name)


def test_one_part_changes_nothing():
    model = network()
    model.compile(CoupledSGD(0.1), LOSS)
    with accumulated(model, 1):
        assert "train_step" not in vars(model)


def test_batch_norm_takes_the_statistics_of_each_part():
    """The moving mean of the input's BatchNorm steps once with each part."""
    model, _ = after_steps(2, steps=1, fixed=False)
    norm = next(x for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
    start = network(fixed=False)
    inputs = keras.Model(start.inputs, start.get_layer(norm.name).input)
    expected = np.zeros(norm.moving_mean.shape)
    for part in np.split(IMAGES, 2):
        mean = inputs(part, training=True).numpy().mean((0, 1, 2))
        expected = norm.momentum * expected + (1 - norm.momentum) * mean
    np.testing.assert_allclose(norm.moving_mean, expected, atol=1e-6)


class NoteMasks(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        (control,) = drop_path_controls(self.model)
        self.last = int(control.step)


def test_each_part_has_drop_path_masks_of_its_own():
    model = network(drop_path=True)
    model.compile(CoupledSGD(0.1), LOSS)
    note = NoteMasks()
    data = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
    with accumulated(model, 4):
        model.fit(data, steps_per_epoch=3, verbose=0, callbacks=[note])
    assert note.last == 2 * 4 + 3


def test_a_recipes_stage_trains_in_parts_and_goes_on_inside_an_epoch(tmp_path):
    """With drop-path, and BatchNorm's statistics estimated again."""

    def batches(epoch, step=0):
        data = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
        return data.enumerate(epoch * 4 + step).map(
            lambda number, batch: (batch[0] + tf.cast(number, tf.float32) / 10, batch[1])
        )

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    settings = TrainSettings(
        epochs=2,
        batch_size=8,
        accumulate=2,
        drop_path=0.5,
        reestimate_batch_norm=2,
        checkpoint_minutes=1e-9,
    )
    models = []
    for name, callbacks in (("whole", []), ("cut", [Kill()]), ("cut", [])):
        models.append(model := network(seed=len(models) // 2, fixed=False, drop_path=True))
        with pytest.raises(KeyboardInterrupt) if callbacks else contextlib.nullcontext():
            how = {"validation_data": None, "folder": tmp_path / name, "callbacks": callbacks}
            train_network(model, settings, batches, 4, **how)
    for one, other in zip(models[0].weights, models[2].weights, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes(), one.name
    losses = [
        [x["loss"] for x in read_lines(tmp_path / n / "metrics.jsonl")] for n in ("whole", "cut")
    ]
    assert losses[0] == losses[1]


def test_metrics_of_a_resumed_epoch_have_the_same_bits(tmp_path):
    """A step adds the sum of its parts: sums of more than two numbers depend on their order."""
    for name, kills in (("whole", [None]), ("cut", [kill_in(2, step=2), None])):
        for kill in kills:
            model = make_model()
            callbacks = [kill] if kill else []
            with (
                accumulated(model, BATCH),
                pytest.raises(Killed) if kill else contextlib.nullcontext(),
            ):
                fit(model, tmp_path / name, checkpoint_minutes=1e-9, callbacks=callbacks)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 10}, {"batch_size": 8, "stages": [{"batch_size": 9}]}],
)
def test_unequal_parts_are_refused(settings):
    with pytest.raises(pydantic.ValidationError, match="accumulate divides the batch into equal"):
        TrainSettings(accumulate=4, **settings)
