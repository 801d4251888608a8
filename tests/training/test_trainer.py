"""Training of final networks: drop-path by the step, smoothed labels, the recipe's optimizer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.determinism import make_deterministic
from bnas_larq.files import read_lines, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.layers.binary_convolution import BinaryConv2D
from bnas_larq.layers.cells import DropPath
from bnas_larq.networks.network import build_network
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.schedules import OneCycle, OneCycleMomentum
from bnas_larq.training.trainer import (
    AnnealingSchedule,
    DropPathSchedule,
    make_accuracy,
    make_loss,
    make_optimizer,
    train_network,
)

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
STEPS, BATCH = 4, 8


def network(drop_path=False, seed=1, **settings):
    """One cell of one node with two edges, for 8×8 images of two classes."""
    keras.utils.set_random_seed(seed)
    size = {"input_shape": (8, 8, 3), "num_classes": 2, "channels": 2, "cells": 1}
    return build_network(Genotype(CELL, CELL), drop_path=drop_path, **size, **settings)


def batches(epoch, step=0):
    """Bright images are of class 1, dark ones of class 0."""

    def batch(number):
        generator = np.random.default_rng(number)
        labels = generator.integers(2, size=BATCH)
        noise = generator.normal(size=(BATCH, 8, 8, 3))
        return (noise + 2.0 * (2 * labels[:, None, None, None] - 1)).astype(np.float32), labels

    def endless():
        number = epoch * STEPS + step
        while True:
            yield batch(number)
            number += 1

    images = tf.TensorSpec((BATCH, 8, 8, 3), tf.float32)
    signature = (images, tf.TensorSpec((BATCH,), tf.int64))
    return tf.data.Dataset.from_generator(endless, output_signature=signature)


# -- drop-path -------------------------------------------------------------------------------------


def test_drop_path_follows_the_optimizers_step():
    """From 0 linearly to 0.2 over 40 steps, wherever an epoch or a process begins."""
    model = network(drop_path=True)
    model.compile(optimizer=CoupledSGD(0.1), loss="mse")
    schedule = DropPathSchedule(0.2, 40, seed=5)
    schedule.set_model(model)
    schedule.on_train_begin()
    layers = [layer for layer in model.layers if isinstance(layer, DropPath)]
    assert len(layers) == 2 and len(schedule.controls) == 1
    for step, rate in ((0, 0.0), (1, 0.2 / 40), (20, 0.1), (40, 0.2), (50, 0.2)):
        model.optimizer.iterations.assign(step)
        schedule.on_train_begin()  # reads it once, and then counts along
        schedule.on_train_batch_begin(0)  # the number within the epoch does not count
        for layer in layers:
            assert float(layer.control.rate) == pytest.approx(rate)
            assert int(layer.control.step) == step
            assert int(layer.control.seed) == 5


def test_a_network_without_drop_path_needs_no_schedule():
    model = network()
    model.compile(optimizer=CoupledSGD(0.1), loss="mse")
    schedule = DropPathSchedule(0.2, 40)
    schedule.set_model(model)
    schedule.on_train_begin()
    schedule.on_train_batch_begin(0)
    assert schedule.controls == []


def test_annealed_signs_follow_the_optimizers_step():
    """From 0 linearly to 1 over 40 steps, one progress for the network; none without such signs."""
    for gradient, controls in (("annealed", 1), ("ste", 0)):
        model = network(activation_gradient=gradient)
        model.compile(optimizer=CoupledSGD(0.1), loss="mse")
        schedule = AnnealingSchedule(40)
        schedule.set_model(model)
        schedule.on_train_begin()
        assert len(schedule.controls) == controls
        for step, progress in ((0, 0.0), (10, 0.25), (40, 1.0), (50, 1.0)):
            model.optimizer.iterations.assign(step)
            schedule.on_train_begin()
            schedule.on_train_batch_begin(0)
            for control in schedule.controls:
                assert float(control.progress) == progress


# -- loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_label_smoothing(smoothing, shape):
    """(1 − s)·(−log p_label) + s·mean over all classes of −log p, softmax of (0, log 2, log 5)."""
    p = np.array([1 / 8, 2 / 8, 5 / 8])
    labels = np.array([1, 2])
    expected = np.mean(
        [-(1 - smoothing) * math.log(p[label]) - smoothing * np.log(p).mean() for label in labels]
    )
    loss = make_loss(TrainSettings(label_smoothing=smoothing), 3)
    logits = tf.constant(np.log([p, p]), tf.float32)
    assert float(loss(tf.constant(labels.reshape(shape)), logits)) == pytest.approx(expected)


def test_shares_of_classes():
    """Mixup's labels: cross-entropy with each class, and accuracy by the larger share."""
    p = np.array([1 / 8, 2 / 8, 5 / 8])
    shares = np.array([[0.0, 0.25, 0.75], [0.75, 0.25, 0.0]], np.float32)
    settings, logits = TrainSettings(mixup=0.2), tf.constant(np.log([p, p]), tf.float32)
    expected = np.mean([-(row * np.log(p)).sum() for row in shares])
    assert float(make_loss(settings, 3)(tf.constant(shares), logits)) == pytest.approx(expected)
    accuracy = make_accuracy(settings)
    accuracy.update_state(tf.constant(shares), logits)
    assert float(accuracy.result()) == 0.5
    accuracy.update_state(tf.constant([2, 2]), logits)  # of validation
    assert float(accuracy.result()) == 0.75


# -- optimizer -------------------------------------------------------------------------------------


def test_the_recipes_defaults_are_one_cycle_sgd():
    optimizer = make_optimizer(TrainSettings(), 100, network())
    assert isinstance(optimizer, CoupledSGD)
    assert (optimizer.l2, optimizer.clip_norm) == (3e-6, None)
    rate, momentum = optimizer._learning_rate, optimizer.momentum_schedule
    assert isinstance(rate, OneCycle) and isinstance(momentum, OneCycleMomentum)
    assert (rate.peak, rate.steps, momentum.steps) == (0.05, 600 * 100, 600 * 100)


def test_cosine_sgd_keeps_its_momentum():
    """The ImageNet setting of FACTS §1."""
    settings = TrainSettings(
        schedule="cosine", restart_epochs=50, weight_decay=3e-5, clip_norm=5.0, momentum=0.8
    )
    optimizer = make_optimizer(settings, 100, network())
    assert isinstance(optimizer, CoupledSGD) and optimizer.momentum_schedule is None
    assert (optimizer.momentum, optimizer.l2, optimizer.clip_norm) == (0.8, 3e-5, 5.0)


def test_adam():
    settings = TrainSettings(optimizer="adam", schedule="constant", learning_rate=0.002)
    optimizer = make_optimizer(settings, 100, network())
    assert isinstance(optimizer, CoupledAdam)
    assert float(optimizer.learning_rate) == pytest.approx(0.002)
    assert optimizer.l2 == 3e-6


# -- training --------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for `kill -9`."""


class KillInSecondEpoch(keras.callbacks.Callback):
    """Before its first step, or another one."""

    def __init__(self, step=0):
        super().__init__()
        self.step = step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (1, self.step):
            raise Killed


@pytest.mark.parametrize(
    ("precision", "gradient", "minutes"),
    [("float32", "ste", 0), ("bfloat16", "annealed", 0), ("float32", "annealed", 1e-9)],
)
def test_training_lowers_the_loss_and_goes_on_after_a_kill_with_the_same_bits(
    tmp_path, precision, gradient, minutes
):
    """A binary network with drop-path: masks, momentum, rate and the sign's gradient all follow the
    step. Killed behind the first epoch, or inside the second."""
    make_deterministic(0)
    settings = TrainSettings(
        epochs=3,
        batch_size=BATCH,
        learning_rate=0.1,
        drop_path=0.5,
        mixed_precision=precision,
        checkpoint_minutes=minutes,
    )

    def train(model, folder, *callbacks):
        validation = batches(99).take(2)
        train_network(
            model,
            settings,
            batches,
            STEPS,
            validation_data=validation,
            folder=folder,
            callbacks=callbacks,
            seed=3,
        )
        return model

    kind = {"drop_path": True, "activation_gradient": gradient}
    whole = train(network(**kind), tmp_path / "whole")
    with pytest.raises(Killed):
        train(network(**kind), tmp_path / "cut", KillInSecondEpoch(step=2 if minutes else 0))
    again = train(network(seed=2, **kind), tmp_path / "cut")

    for one, other in zip(again.weights, whole.weights, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes(), one.name
    rows, again_rows = (
        [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in read_lines(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "cut")
    )
    assert rows == again_rows
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["val_accuracy"] > 0.9
    # The rate of each epoch's last step.
    schedule = OneCycle(0.1, 3 * STEPS)
    expected = [float(schedule(step)) for step in (3, 7, 11)]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-6)


class ComputesIn(keras.callbacks.Callback):
    """Notes what the binary convolutions compute in while training."""

    def on_train_batch_end(self, batch, logs=None):
        layers = [layer for layer in self.model.layers if isinstance(layer, BinaryConv2D)]
        self.seen = {layer.compute for layer in layers}


@pytest.mark.parametrize("recorded", ["float32", "bfloat16"])
def test_auto_keeps_what_the_run_began_with(tmp_path, recorded):
    settings = TrainSettings(epochs=1, batch_size=BATCH, mixed_precision="auto")
    write_json(tmp_path / "precision.json", {"name": recorded, "reason": "measured"})
    note, model = ComputesIn(), network()
    train_network(
        model, settings, batches, STEPS, validation_data=None, folder=tmp_path, callbacks=[note]
    )
    assert note.seen == {recorded}
    note.on_train_batch_end(0)
    assert note.seen == {"float32"}
