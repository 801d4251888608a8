"""BinaryDuo's plan: a stage that starts from the decoupled network of the one before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError
from bnas_larq.networks.binary_duo import BinaryDuoConfig, decouple
from bnas_larq.networks.network import build_network
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import parse_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.train_settings import TrainSettings, training_plan
from bnas_larq.training.training_plan import train_plan

CONFIG = BinaryDuoConfig(
    input_shape=(8, 8, 3), num_classes=2, widths=(4, 6), blocks=(1, 2), last_width=8
)
COUPLED = {"name": "coupled", "activations": "ternary"}
DECOUPLED = {"name": "decoupled", "start": "decoupled"}
PLAN = {"epochs": 1, "batch_size": 4, "drop_path": 0.1, "stages": [COUPLED, DECOUPLED]}


def network(stage):
    config = CONFIG.replace(**stage.network_settings)
    return build_network(None, config, drop_path=stage.drop_path > 0)


def batches(epoch):
    generator = np.random.default_rng(epoch)
    images = generator.normal(size=(64, 8, 8, 3)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((images, np.arange(64) % 2)).batch(4)


class Killed(Exception):
    """Stands for `kill -9`."""


class Watch(keras.callbacks.Callback):
    """The network at the begin of each epoch; raises before the epoch `kill_at`."""

    def __init__(self, kill_at=None):
        super().__init__()
        self.kill_at, self.weights = kill_at, {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.kill_at:
            raise Killed
        self.weights[epoch] = {weight.name: weight.numpy() for weight in self.model.weights}


def train(folder, kill_at=None):
    make_deterministic(0)
    watch = Watch(kill_at)
    model = train_plan(
        training_plan(TrainSettings.model_validate(PLAN)),
        network,
        lambda stage: SimpleNamespace(dataset=batches, steps_per_epoch=2),
        folder=folder,
        callbacks=[watch],
    )
    return model, watch.weights


def test_a_stage_starts_decoupled_and_a_kill_between_them_costs_no_bit(tmp_path):
    model, begins = train(tmp_path / "whole")
    stored = tmp_path / "whole" / "checkpoints" / "coupled" / "weights.h5"
    coupled = load_weights(build_network(None, CONFIG.replace(activations="ternary")), stored)
    expected = decouple(coupled)
    assert {weight.name for weight in expected.weights} == begins[1].keys()
    for weight in expected.weights:
        np.testing.assert_array_equal(weight, begins[1][weight.name], err_msg=weight.name)
    assert any(np.any(weight.numpy() != begins[1][weight.name]) for weight in model.weights)
    with pytest.raises(Killed):
        train(tmp_path / "killed", kill_at=1)
    resumed, _ = train(tmp_path / "killed")
    for weight, same in zip(model.get_weights(), resumed.get_weights(), strict=True):
        assert weight.tobytes() == same.tobytes()


def recipe(network, stages):
    return parse_recipe({"network": network, "train": {"epochs": 1, "stages": stages}})


DUO = {"kind": "binary-duo", "widths": [4, 6], "blocks": [1, 2]}


def test_the_plan_of_a_recipe():
    fine = recipe(DUO, [COUPLED, DECOUPLED])
    check_plan(fine)
    check_keys_are_read(fine)
    # Real activations before the ternary ones are a stage of the same network.
    check_plan(recipe(DUO, [{"activations": "clip"}, COUPLED, DECOUPLED]))
    check_plan(recipe(DUO, [COUPLED, DECOUPLED, {"name": "longer"}]))


@pytest.mark.parametrize(
    ("network", "stages", "message"),
    [
        (
            {"kind": "residual"},
            [COUPLED, DECOUPLED],
            "Only BinaryDuo's network is decoupled.*ternary to sign in a network of the kind resid",
        ),
        (DUO, [{"name": "first"}, DECOUPLED], "sign to sign in a network of the kind binary-duo"),
        (DUO, [COUPLED, {**DECOUPLED, "activations": "clip"}], "ternary to clip"),
        (DUO, [COUPLED, {"name": "second"}], "two copies.*start previous in the stage 'second'"),
    ],
)
def test_stages_that_cannot_be_decoupled(network, stages, message):
    with pytest.raises(RecipeError, match=message):
        check_plan(recipe(network, stages))


def test_the_first_stage_has_none_before_it():
    with pytest.raises(RecipeError, match="the first stage has none before it"):
        recipe(DUO, [DECOUPLED])


@pytest.mark.parametrize(
    ("network", "key"),
    [
        ({**DUO, "scheme": "bi-real"}, "network.scheme"),
        ({**DUO, "nonlinearity": "prelu"}, "network.nonlinearity"),
        ({**DUO, "activation_clip": 2.0}, "network.activation_clip"),
        ({**DUO, "channels": 8}, "network.channels"),
        ({"kind": "residual", "last_width": 256}, "network.last_width"),
    ],
)
def test_keys_that_binary_duo_or_the_others_do_not_read(network, key):
    with pytest.raises(RecipeError, match=f"Received: {key} "):
        check_keys_are_read(recipe(network, []))
