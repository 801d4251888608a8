"""Fine-tuning: the head alone, then everything, and no bit lost by a kill in either stage."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import Normalization, load_dataset
from bnas_larq.determinism import make_deterministic
from bnas_larq.files import read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.layers.cells import DropPath
from bnas_larq.layers.template import CLASSIFIER
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.recipe import Recipe
from bnas_larq.train_settings import (
    FINE_TUNING,
    FineTuneSettings,
    TrainSettings,
    training_plan,
)
from bnas_larq.training.recipe_training import train_stored
from bnas_larq.training.training_plan import train_plan

CELL = [[("bin_conv_3x3", 0), ("bin_conv_3x3", 1)]]
STEPS, BATCH = 3, 8
SETTINGS = TrainSettings(**{**FINE_TUNING, "epochs": 2, "batch_size": BATCH, "drop_path": 0.3})
TUNING = FineTuneSettings(entry="not used here", head_epochs=2)


def network(seed=1):
    """One cell of one node with two edges, for 8×8 images of two classes.

    Offsets as if it were trained: without them all features are 0, and no head learns.
    """
    keras.utils.set_random_seed(seed)
    size = {"input_shape": (8, 8, 3), "num_classes": 2, "channels": 4, "cells": 1}
    model = build_network(Genotype(CELL, CELL), drop_path=True, **size)
    for weight in model.weights:
        if "/beta" in weight.name:
            weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return model


def batches(epoch):
    """Bright images are of class 1, dark ones of class 0."""

    def batch(number):
        generator = np.random.default_rng(number)
        labels = generator.integers(2, size=BATCH)
        noise = generator.normal(size=(BATCH, 8, 8, 3))
        return (noise + 2.0 * (2 * labels[:, None, None, None] - 1)).astype(np.float32), labels

    def endless():
        number = epoch * STEPS
        while True:
            yield batch(number)
            number += 1

    images = tf.TensorSpec((BATCH, 8, 8, 3), tf.float32)
    signature = (images, tf.TensorSpec((BATCH,), tf.int64))
    return tf.data.Dataset.from_generator(endless, output_signature=signature)


class Watch(keras.callbacks.Callback):
    """All weights before and after each epoch; raises before the epoch `kill_at`."""

    def __init__(self, kill_at=None):
        super().__init__()
        self.kill_at, self.seen = kill_at, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill_at:
            raise Killed
        if not self.seen:
            self.seen.append(self._values())

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self._values())

    def _values(self):
        return {weight.name: weight.numpy() for weight in self.model.weights}


class Killed(Exception):
    """Stands for `kill -9`."""


def tune(folder, *, seed=1, tuning=TUNING, settings=SETTINGS, kill_at=None):
    """The tuned model, and its weights before the first and after each epoch."""
    make_deterministic(0)
    watch = Watch(kill_at)
    model = train_plan(
        training_plan(settings, tuning),
        lambda stage: network(seed),
        lambda stage: SimpleNamespace(dataset=batches, steps_per_epoch=STEPS),
        validation=lambda stage: batches(99).take(2),
        folder=folder,
        callbacks=[watch],
    )
    return model, watch.seen


def moved(before, after):
    """Names of the weights that are not the same."""
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted fine-tuning: (folder, model, weights)."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *tune(folder)


def test_only_the_head_moves_at_first(whole):
    """No BatchNorm statistic either."""
    seen = whole[2]
    head = {f"{CLASSIFIER}/kernel:0", f"{CLASSIFIER}/bias:0"}
    assert moved(seen[0], seen[1]) == moved(seen[1], seen[2]) == head


def test_then_everything_moves_with_its_statistics(whole):
    _, model, seen = whole
    assert moved(seen[2], seen[3]) == set(seen[0])
    assert all(layer.trainable for layer in model.layers)


def test_epochs_are_counted_through_both_stages(whole):
    rows = read_lines(whole[0] / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    # The head at its constant rate; then a cosine over 2·STEPS steps, read at an epoch's last one.
    cosine = [0.5 * (1 + np.cos(np.pi * step / (2 * STEPS))) for step in (STEPS - 1, 2 * STEPS - 1)]
    expected = [TUNING.head_learning_rate] * 2 + [SETTINGS.learning_rate * c for c in cosine]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-5)
    assert all({"loss", "accuracy", "val_loss", "val_accuracy"} <= set(row) for row in rows)


def test_latent_kernels_move_by_the_multiplier(tmp_path):
    """One step of the second stage: Adam's first step is of the rate's size wherever a gradient is.

    The constraint centres kernels over their input channels after it, which keeps the ratio.
    """
    once = SETTINGS.model_copy(update={"epochs": 1, "schedule": "constant", "drop_path": 0.0})
    steps = {}
    for multiplier in (1.0, 0.125):
        tuning = TUNING.model_copy(update={"head_epochs": 0, "binary_multiplier": multiplier})
        make_deterministic(0)
        model = network()
        # Centred, as they are in every trained network.
        for kernel in latent_kernels(model):
            kernel.assign(kernel.constraint(kernel.latent_variable))
        before = {weight.name: weight.numpy() for weight in model.weights}
        folder = tmp_path / str(multiplier)
        train_plan(
            training_plan(once, tuning),
            lambda stage, model=model: model,
            lambda stage: SimpleNamespace(dataset=batches, steps_per_epoch=1),
            folder=folder,
        )
        steps[multiplier] = {w.name: w.numpy() - before[w.name] for w in model.weights}
    latent = {kernel.name for kernel in latent_kernels(model)}
    assert len(latent) == 4
    for name, full in steps[1.0].items():
        if name in latent:
            assert np.abs(full).max() > 1e-4
            np.testing.assert_allclose(steps[0.125][name], 0.125 * full, atol=2e-7)
        else:
            np.testing.assert_array_equal(steps[0.125][name], full)


@pytest.mark.parametrize("kill_at", [2, 3], ids=["between the stages", "in the second"])
def test_a_kill_costs_no_bit(whole, tmp_path, kill_at):
    folder, model, _ = whole
    with pytest.raises(Killed):
        tune(tmp_path, kill_at=kill_at)
    again, _ = tune(tmp_path, seed=2)  # what it starts from does not matter: all is restored
    for one, other in zip(again.weights, model.weights, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes(), one.name
    rows, expected = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_lines(path)]
        for path in (tmp_path / "metrics.jsonl", folder / "metrics.jsonl")
    )
    assert rows == expected


def test_clearing_the_checkpoints_clears_those_of_both_stages(whole):
    checkpoints = Checkpoints(whole[0] / "checkpoints")
    assert [epoch for epoch, _ in checkpoints.candidates()] == [4, 3]
    head = Checkpoints(checkpoints.folder / "head")
    assert [epoch for epoch, _ in head.candidates()] == [2, 1]


def test_drop_path_follows_the_recipes_seed(tmp_path):
    data = load_dataset("digits", limit=40, validation_fraction=0.0)
    train = {"epochs": 1, "batch_size": 20, "drop_path": 0.5}
    config = NetworkConfig(input_shape=data.image_shape, channels=2, cells=1)
    stored = StoredNetwork(
        tmp_path, Genotype(CELL, CELL), config, data.class_names, Normalization().to_dict(), {}
    )
    recipe = Recipe.model_validate({"seed": 7, "train": train})
    watch = Watch()
    train_stored(stored, recipe, data, [watch])
    drops = [layer for layer in watch.model.layers if isinstance(layer, DropPath)]
    assert len(drops) == 2 and {int(layer.control.seed) for layer in drops} == {7}
