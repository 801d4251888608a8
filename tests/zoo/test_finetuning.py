"""Fine-tuning in Python: from entries and data sets, resumed, and what it leaves in its folder."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.data import Normalization, load_dataset
from bnas_larq.errors import DataError, RecipeError, RunError
from bnas_larq.files import read_json, read_lines
from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import load_recipe
from bnas_larq.run.finetune_source import (
    finetune_recipe,
    pin_weights,
)
from bnas_larq.run.finetuning import finetune
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run_folder import RunFolder
from bnas_larq.train_settings import FINE_TUNING, FineTuneSettings

SHORT = {"epochs": 1, "head_epochs": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def digits():
    """8×8 images of ten classes, 144 of them for training."""
    return load_dataset("digits", limit=160)


class Stop(keras.callbacks.Callback):
    """Ends a call before an epoch, as Ctrl-C does."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def test_an_entry_is_fitted_to_a_data_set(make_entry, small_network, digits, tmp_path):
    out = tmp_path / "out"
    model = finetune(make_entry("toy"), digits, out=out, **SHORT)
    images = Normalization.from_dict(small_network.normalization).apply(
        digits.test.images_at(np.arange(4))
    )
    assert model(images).shape == (4, 10)
    stored = StoredNetwork.load(out)
    assert stored.class_names == tuple("0123456789")
    assert stored.genotype.id == small_network.genotype.id
    assert stored.normalization == small_network.normalization
    np.testing.assert_array_equal(stored.load_model()(images), model(images))
    assert [row["epoch"] for row in read_lines(out / "train" / "metrics.jsonl")] == [0, 1]
    state = read_json(out / "state.json")
    assert state["train"]["done"] and state["search"]["genotype"] == stored.genotype.id
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.data.name == "digits" and recipe.finetune.entry.endswith("toy")
    assert not (out / "train" / "checkpoints").exists()


def test_python_and_recipes_have_the_same_defaults():
    ours = {
        name: parameter.default
        for name, parameter in inspect.signature(finetune).parameters.items()
    }
    for section in (FINE_TUNING, FineTuneSettings(entry="x").model_dump(exclude={"entry"})):
        for key in ours.keys() & section.keys():
            assert ours[key] == section[key], key


def test_a_name_and_a_folder_are_the_same_source(make_entry):
    entry = make_entry("toy")
    by_name, by_folder = finetune_recipe("toy", {}), finetune_recipe(entry.folder, {})
    assert (by_name.finetune.entry, by_folder.finetune.entry) == ("toy", str(entry.folder))
    assert by_name.network == by_folder.network
    assert pin_weights(by_name.finetune).sha256 == pin_weights(by_folder.finetune).sha256


def test_a_folder_of_the_entrys_name_that_holds_something_else_is_not_it(
    make_entry, tmp_path, monkeypatch
):
    make_entry("toy")
    (tmp_path / "here" / "toy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert finetune_recipe("toy", {}).finetune.entry == "toy"


def test_an_interrupted_call_goes_on(small_network, digits, tmp_path):
    def tune(name, **more):
        return finetune(small_network, digits, out=tmp_path / name, **SHORT, **more)

    whole = tune("whole")
    with pytest.raises(KeyboardInterrupt):
        tune("cut", callbacks=[Stop(1)])
    with pytest.raises(RunError, match="resumed with the recipe it began with"):
        tune("cut", resume=True, seed=5)
    log = tmp_path / "cut" / "train" / "metrics.jsonl"
    (row,) = read_lines(log)
    log.write_text(json.dumps({**row, "seconds": 1000.0}) + "\n")
    again = tune("cut", resume=True)
    # The time of the call that was cut counts too.
    assert 1000.0 < read_json(tmp_path / "cut" / "state.json")["train"]["seconds"] < 2000.0
    for one, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    # Once more: nothing is left to do.
    before = (tmp_path / "cut" / "weights.h5").read_bytes()
    tune("cut", resume=True)
    assert (tmp_path / "cut" / "weights.h5").read_bytes() == before
    with pytest.raises(RunError, match="needs a new or empty folder"):
        tune("cut")


def before_tuning(source, data, folder):
    """The network that a fine-tuning begins with."""
    recipe = finetune_recipe(source.folder, {})
    inputs = RunInputs(RunFolder(folder), recipe, data)
    model = build_network(source.genotype, inputs.network_config)
    inputs.load_start(recipe.plan[0], model)
    return model


def test_a_new_head_keeps_everything_else(small_network, digits, tmp_path):
    model, old = before_tuning(small_network, digits, tmp_path), small_network.load_model()
    assert model.output_shape == (None, 10)
    for layer in old.layers:
        if layer.name == "classifier":
            continue
        for one, other in zip(
            layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_a_head_for_as_many_classes_is_new_as_well(small_network, digits, tmp_path):
    three = dataclasses.replace(digits, class_names=("a", "b", "c"))
    model = before_tuning(small_network, three, tmp_path)
    old = small_network.load_model().get_layer("classifier").get_weights()[0]
    assert not np.array_equal(model.get_layer("classifier").get_weights()[0], old)


def test_the_recipe_repeats_how_the_source_was_trained(small_network, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(small_network.folder, folder)
    assert not finetune_recipe(folder, {}).data.augmentation.flip
    (folder / "recipe.yaml").write_text("data: {augmentation: {flip: true, crop_padding: 2}}\n")
    augmentation = finetune_recipe(folder, {}).data.augmentation
    assert augmentation.flip and augmentation.crop_padding == 2
    recipe = finetune_recipe(folder, {}, ["data.augmentation.flip=false"])
    assert not recipe.data.augmentation.flip
    assert recipe.data.image_size == 8
    assert (recipe.network.cells, recipe.network.channels) == (1, 2)
    assert recipe.train.optimizer == "adam" and recipe.finetune.binary_multiplier == 1.0
    (folder / "recipe.yaml").write_text("extends: quickstart\n")
    with pytest.warns(UserWarning, match="cannot be read as a recipe"):
        assert not finetune_recipe(folder, {}).data.augmentation.flip
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning):
        assert finetune_recipe("run", {}).finetune.entry == str(folder)


def test_refused(small_network, digits, tmp_path):
    with pytest.raises(DataError, match="A loaded data set's images have their size"):
        finetune(small_network, digits, out=tmp_path / "a", image_size=16)
    with pytest.raises(RecipeError, match="'train.epochs' must be valid"):
        finetune(small_network, digits, out=tmp_path / "a", epochs=0)
    with pytest.raises(RunError, match="does not overwrite the network it starts from"):
        finetune(small_network, digits, out=small_network.folder, overwrite=True)
    assert not (tmp_path / "a").exists()
