"""Plans of stages: what passes from one to the next, and no bit lost by a kill."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.costs import float_kernels
from bnas_larq.costs.float_kernels import int8_codes
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import CheckpointError, RecipeError
from bnas_larq.files import read_lines
from bnas_larq.layers.batch_norm import batch_norm
from bnas_larq.layers.convolutions import convolution
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.train_settings import TrainSettings, training_plan
from bnas_larq.training.trainer import train_network
from bnas_larq.training.training_plan import freeze, train_plan

STEPS, BATCH = 3, 8
SHARED = {"batch_size": BATCH, "drop_path": 0.0, "learning_rate": 0.1, "epochs": 2}


def network(stage=None):
    """Convolutions, BatchNorms and classifier for 8×8 images of two classes."""
    images = keras.Input((8, 8, 3))
    real = {"input_scheme": None, "kernel_scheme": None}
    outputs = convolution(4, 3, strides=2, name="conv", **real)(images)
    outputs = keras.layers.ReLU(name="relu")(batch_norm("norm")(outputs))
    binary = {"input_scheme": "sign-scale", "kernel_scheme": "sign-scale"}
    outputs = convolution(4, 3, name="binary", **binary)(batch_norm("behind")(outputs))
    outputs = keras.layers.GlobalAveragePooling2D(name="pool")(outputs)
    return keras.Model(images, keras.layers.Dense(2, name="classifier")(outputs))


def batches(epoch):
    """Bright images are of class 1, dark ones of class 0."""

    def endless():
        for number in range(epoch * STEPS, 10**6):
            generator = np.random.default_rng(number)
            labels = generator.integers(2, size=BATCH)
            noise = generator.normal(size=(BATCH, 8, 8, 3))
            yield (noise + 2 * labels[:, None, None, None] - 1).astype(np.float32), labels

    images = tf.TensorSpec((BATCH, 8, 8, 3), tf.float32)
    signature = (images, tf.TensorSpec((BATCH,), tf.int64))
    return tf.data.Dataset.from_generator(endless, output_signature=signature)


class Killed(Exception):
    """Stands for `kill -9`."""


class Watch(keras.callbacks.Callback):
    """All weights at the begin of each epoch; raises before the epoch `kill_at`."""

    def __init__(self, kill_at=None):
        super().__init__()
        self.kill_at, self.seen = kill_at, {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill_at:
            raise Killed
        self.seen[epoch] = values(self.model)


def values(model):
    return {weight.name: weight.numpy() for weight in model.weights}


def train(folder, settings, kill_at=None, validation=None, **more):
    """The trained network, and its weights at the begin of each epoch."""
    make_deterministic(0)
    watch = Watch(kill_at)
    model = train_plan(
        training_plan(TrainSettings.model_validate({**SHARED, **settings})),
        network,
        lambda stage: SimpleNamespace(dataset=batches, steps_per_epoch=STEPS),
        validation=lambda stage: validation,
        folder=folder,
        callbacks=[watch],
        **more,
    )
    return model, watch.seen


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name


def test_a_plan_of_one_stage_is_a_training(tmp_path):
    make_deterministic(0)
    alone, settings = network(), TrainSettings(**SHARED)
    once = {"folder": tmp_path / "alone"}
    train_network(alone, settings, batches, STEPS, validation_data=None, **once)
    for name, stages in {"none": [], "one": [SHARED]}.items():
        model, _ = train(tmp_path / name, {"stages": stages})
        assert_same_bits(values(model), values(alone))


TWO = {
    "stages": [
        {"name": "first", "epochs": 1, "optimizer": "adam", "schedule": "linear"},
        {"weight_decay": {"head": 0.1}, "schedule": "cosine", "warmup": 0.2},
    ]
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted plan of two stages: (folder, model, weights at each epoch's begin)."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, TWO)


def test_weights_pass_to_the_next_stage(whole):
    folder, _, seen = whole
    passed = load_weights(network(), folder / "checkpoints" / "first" / "weights.h5")
    assert_same_bits(values(passed), seen[1])
    assert not np.array_equal(seen[0]["conv/kernel:0"], seen[1]["conv/kernel:0"])


def test_epochs_count_through_named_stages(whole):
    rows = read_lines(whole[0] / "metrics.jsonl")
    stages = [(row["epoch"], row["stage"]) for row in rows]
    assert stages == [(0, "first"), (1, "stage2"), (2, "stage2")]


def test_checkpoints_of_all_stages_are_cleared_together(whole):
    last = Checkpoints(whole[0] / "checkpoints")
    first = Checkpoints(last.folder / "first")
    assert [epoch for epoch, _ in last.candidates()] == [3, 2]
    assert [epoch for epoch, _ in first.candidates()] == [1]


def test_a_kill_in_bfloat16_costs_no_bit(tmp_path):
    low = {**TWO, "mixed_precision": "bfloat16"}
    model, _ = train(tmp_path / "whole", low)
    with pytest.raises(Killed):
        train(tmp_path / "killed", low, 2)
    again, _ = train(tmp_path / "killed", low)
    assert_same_bits(values(again), values(model))


@pytest.mark.parametrize("kill_at", [1, 2], ids=["between the stages", "in the second"])
def test_a_kill_costs_no_bit(whole, tmp_path, kill_at):
    folder, model, _ = whole
    with pytest.raises(Killed):
        train(tmp_path, TWO, kill_at)
    again, _ = train(tmp_path, TWO)
    assert_same_bits(values(again), values(model))
    rows, expected = (
        [{**row, "seconds": 0} for row in read_lines(path)]
        for path in (tmp_path / "metrics.jsonl", folder / "metrics.jsonl")
    )
    assert rows == expected


def test_a_last_stage_of_damaged_checkpoints_begins_again_without_the_first(whole, tmp_path):
    """What the message says to delete is beside the first stage's weights."""
    folder, model, _ = whole
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damaged = list((tmp_path / "checkpoints").glob("epoch-*"))
    for path in damaged:
        (path / "manifest.json").unlink()
    message = r"checkpoints\. Delete its folders epoch-\* to start this stage again"
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match=message):
        train(tmp_path, TWO)
    for path in damaged:
        shutil.rmtree(path)
    again, seen = train(tmp_path, TWO)
    assert set(seen) == {1, 2}
    assert_same_bits(values(again), values(model))


def test_random_weights_of_a_later_stage_follow_the_seed(tmp_path):
    """Also where another process trained the stages before."""
    plan = {"epochs": 1, "stages": [{}, {"start": "random"}]}
    _, seen = train(tmp_path / "whole", plan)
    with pytest.raises(Killed):
        train(tmp_path / "cut", plan, kill_at=1)
    _, again = train(tmp_path / "cut", plan)
    assert_same_bits(again[1], seen[1])
    assert not np.array_equal(seen[1]["conv/kernel:0"], np.zeros_like(seen[1]["conv/kernel:0"]))


def test_frozen_layers_stay_as_they_are(tmp_path):
    """No statistic of their BatchNorm moves either."""
    plan = {"stages": [{"epochs": 1, "freeze": ["*", "!classifier"]}]}
    model, seen = train(tmp_path, plan)
    moved = {
        name for name, value in values(model).items() if not np.array_equal(value, seen[0][name])
    }
    assert moved == {"classifier/kernel:0", "classifier/bias:0"}
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(["konv*"], "names some. Received: 'konv\\*'"), (["*"], "trains some layers. Received")],
)
def test_patterns_that_make_no_sense_are_refused(patterns, message):
    (stage,) = training_plan(TrainSettings(stages=[{"freeze": patterns}]))
    with pytest.raises(RecipeError, match=message):
        freeze(network().layers, stage)


def test_a_later_stage_is_checked_before_the_first_trains(tmp_path):
    with pytest.raises(RecipeError, match="in the stage 'stage2', which names none"):
        train(tmp_path, {"stages": [{}, {"freeze": ["konv*"]}]})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_statistics_are_estimated_again_with_the_last_weights(tmp_path, monkeypatch, storage):
    """Means of the batches' own: of the convolution's output, with Bessel's correction. Kernels
    that the file has as int8 are rounded before."""
    monkeypatch.setattr(float_kernels, "MIN_WEIGHTS", 100)
    validation = batches(99).take(1)
    settings = {"reestimate_batch_norm": 2, "epochs": 1}
    model, _ = train(tmp_path, settings, validation=validation, float_storage=storage)
    kernel = model.get_layer("conv").kernel.numpy()
    codes, scales = int8_codes(kernel, axes=(-1,))
    assert np.array_equal(codes * scales, kernel) == (storage == "int8")
    conv = keras.Model(model.inputs, model.get_layer("conv").output)
    # The batches of the epoch after the last.
    outputs = [conv(images).numpy() for images, _ in batches(1).take(2)]
    count = outputs[0][..., 0].size
    means = [output.mean((0, 1, 2)) for output in outputs]
    variances = [output.var((0, 1, 2)) * count / (count - 1) for output in outputs]
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, np.mean(means, axis=0), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean(variances, axis=0), rtol=1e-4)
    assert norm.momentum == 0.9
    # Validation has seen them.
    (row,) = read_lines(tmp_path / "metrics.jsonl")
    loss, accuracy = model.evaluate(validation, verbose=0)
    assert (row["val_loss"], row["val_accuracy"]) == pytest.approx((loss, accuracy), rel=1e-5)
