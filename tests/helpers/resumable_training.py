"""A small training that can be killed and resumed."""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.files import read_lines
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.training.schedules import OneCycle, OneCycleMomentum

EPOCHS, STEPS, BATCH = 4, 3, 4

OPTIMIZERS = {
    "momentum": lambda: CoupledSGD(
        OneCycle(0.1, EPOCHS * STEPS),
        momentum=0.9,
        momentum_schedule=OneCycleMomentum(EPOCHS * STEPS),
        l2=0.01,
        clip_norm=1.0,
    ),
    "adam": lambda: CoupledAdam(0.01, l2=0.01),
}


class Killed(Exception):
    """Stands for `kill -9`: nothing catches it, and nothing is written after it."""


def batches(epoch, step=0):
    """Endless batches, each a function of its number alone."""

    def batch(number):
        generator = np.random.default_rng(number)
        inputs = generator.normal(size=(BATCH, 5)).astype(np.float32)
        return inputs, (inputs.sum(axis=1) > 0).astype(np.int64)

    def endless():
        number = epoch * STEPS + step
        while True:
            yield batch(number)
            number += 1

    signature = (tf.TensorSpec((BATCH, 5), tf.float32), tf.TensorSpec((BATCH,), tf.int64))
    return tf.data.Dataset.from_generator(endless, output_signature=signature)


def make_model(units=6, optimizer=OPTIMIZERS["momentum"], seed=1, dense="hidden"):
    """A dense network with BatchNorm, whose moving statistics are state too."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(units, name=dense),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(2, name="classifier"),
        ]
    )
    model.compile(
        optimizer=optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    return model


def fit(model, folder, epochs=EPOCHS, **settings):
    """Train in a run's stage folder; returns the epochs that were done before."""
    return resumable_fit(
        model,
        settings.pop("dataset", batches),
        steps_per_epoch=STEPS,
        epochs=epochs,
        checkpoints=Checkpoints(folder / "checkpoints"),
        log=folder / "metrics.jsonl",
        optimizers={"optimizer": (model.optimizer, model.trainable_variables)},
        **settings,
    )


def kill_in(epoch, step=None):
    """A callback that ends training in an epoch: before a step, or before its checkpoint."""

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (epoch, step):
                raise Killed

        def on_epoch_end(self, number, logs=None):
            if step is None and number == epoch:
                raise Killed

    return Kill()


def state(model):
    """All that training moves: weights, statistics, optimizer slots and step."""
    return {variable.name: variable.numpy() for variable in model.weights + slots(model)}


def slots(model):
    return list(model.optimizer.variables)


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def rows(folder):
    """The metrics without the wall time."""
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in read_lines(folder / "metrics.jsonl")
    ]
