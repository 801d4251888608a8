"""Stages that start from trained networks: which weights they get, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.errors import WeightsError, ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.creation import pin_source, resolve_recipe
from bnas_larq.run.stage_sources import load_start
from bnas_larq.train_settings import TrainStage

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
GENOTYPE = Genotype(CELL, CELL)


def network(classes=2):
    size = {"input_shape": (8, 8, 3), "num_classes": classes, "channels": 2, "cells": 1}
    return build_network(GENOTYPE, NetworkConfig(**size))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same weights as a run's folder and as a saved model: (model, folder, file)."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    model = network()
    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=2, channels=2, cells=1)
    stored = StoredNetwork(folder, GENOTYPE, config, ("a", "b"), {}, {})
    folder.mkdir()
    stored.save()
    save_weights(model, stored.weights)
    file = folder.parent / "saved.keras"
    model.save(file)
    return model, folder, file


@pytest.mark.parametrize("kind", [1, 2], ids=["run", "saved model"])
def test_weights_are_loaded_by_layer_name(sources, kind):
    model = network()
    load_start(TrainStage(start=str(sources[kind])), model)
    for weight, expected in zip(model.weights, sources[0].weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("kind", [1, 2], ids=["run", "saved model"])
def test_a_classifier_of_other_classes_is_new(sources, kind):
    model = network(classes=3)
    before = model.get_layer("classifier").get_weights()[0]
    load_start(TrainStage(start=str(sources[kind])), model)
    np.testing.assert_array_equal(model.get_layer("classifier").get_weights()[0], before)
    stem = model.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_array_equal(stem, sources[0].get_layer("stem_conv").get_weights()[0])


def test_a_run_records_which_weights_it_starts_from(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(sources[1].parent)
    stages = [{"start": "source"}, {"start": "saved.keras"}, {}]
    recipe = parse_recipe({"genotype": "bnas_cifar", "train": {"stages": stages}})
    pinned = pin_source(resolve_recipe(recipe), tmp_path / "out").train.stages
    assert [stage.start for stage in pinned] == [str(sources[1]), str(sources[2]), None]
    changed = pinned[0].model_copy(update={"start_sha256": "0" * 64})
    with pytest.raises(WeightsError, match="starts from the weights its recipe names. Received:"):
        load_start(changed, network())
    for stage in pinned[:2]:
        load_start(stage, network())


def test_other_things_are_refused(tmp_path):
    with pytest.raises(ZooError, match="A stage's start takes a run's folder, a zoo entry .* or"):
        load_start(TrainStage(start="bnas_cifar"), network())
