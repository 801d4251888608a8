"""Stages that start from trained networks: which weights they get, and which are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bnas_larq.data import ImageDataset, Normalization
from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import RecipeError, WeightsError, ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.creation import pin_source, resolve_recipe
from bnas_larq.run.stage_sources import load_start, load_teacher
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainStage

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
GENOTYPE = Genotype(CELL, CELL)
OWN, SHARED = Normalization((0.5, 0.5, 0.5)), Normalization((0.1, 0.2, 0.3))


def network(classes=2):
    size = {"input_shape": (8, 8, 3), "num_classes": classes, "channels": 2, "cells": 1}
    return build_network(GENOTYPE, NetworkConfig(**size))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same weights as a run's folder and as a saved model: (model, folder, file)."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    model = network()
    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=2, channels=2, cells=1)
    stored = StoredNetwork(folder, GENOTYPE, config, ("a", "b"), OWN.to_dict(), {})
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
    with pytest.raises(WeightsError, match="learns from the weights its recipe names. Received:"):
        load_start(changed, network())
    for stage in pinned[:2]:
        load_start(stage, network())


@pytest.fixture
def images():
    """Four images in the classes of the sources."""
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    part = InMemoryExamples(pixels, np.array([0, 1, 0, 1]))
    return ImageDataset("toys", ("a", "b"), (8, 8, 3), part, None, part, Geometry((8, 8)))


def test_teachers_know_how_their_images_were_normalised(sources, images):
    model, run, saved = sources
    batch = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    colours = {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}
    for source, own, settings in ((run, OWN, {}), (saved, SHARED, {}), (saved, OWN, colours)):
        settings = TeacherSettings(model=str(source), **settings)
        teacher = load_teacher(settings, SHARED, images)
        assert (teacher.own, teacher.shared) == (own, SHARED)
        # Pixels of the teacher: x + mean of the student - mean of the teacher.
        shift = np.subtract(SHARED.mean, own.mean).astype(np.float32)
        np.testing.assert_allclose(teacher.predict(batch), model(batch + shift), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b", "c")}, "knows their classes. Received: .* in 3 classes"),
        ({"class_names": ("b", "a")}, "the classes of the run, in their order. Received: .* a, b"),
        ({"image_shape": (9, 8, 3)}, r"takes the images of the run .* images of \(9, 8, 3\)"),
    ],
)
def test_teachers_of_other_images_are_refused(sources, images, changes, message):
    settings = TeacherSettings(model=str(sources[1]))
    with pytest.raises(RecipeError, match=message):
        load_teacher(settings, SHARED, dataclasses.replace(images, **changes))


def test_a_run_knows_its_normalisation_itself(sources, images):
    settings = TeacherSettings(model=str(sources[1]), mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(RecipeError, match="knows how its images are normalised. Received:"):
        load_teacher(settings, SHARED, images)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(ZooError, match="A stage of a training takes a run's folder, a zoo .* or"):
        load_start(TrainStage(start="bnas_cifar"), network())
