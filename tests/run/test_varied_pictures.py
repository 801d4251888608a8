"""A small ImageNet through a run: crops from the originals, and evaluation on centre crops."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from bnas_larq import Run
from bnas_larq.backend import keras, tf
from bnas_larq.errors import DataError
from bnas_larq.files import read_json, read_lines
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.ablation import Ablation
from bnas_larq.run.finetune_source import finetune_recipe
from bnas_larq.run.searchers import make_searcher
from bnas_larq.zoo.preprocessing import preprocess_input

SIZE = 96
GENOTYPE = "random:two-nodes:3"

pytestmark = pytest.mark.usefixtures("small_spaces")


@pytest.fixture(scope="module", params=["tfds", "folder"])
def run(request, varied_pictures, tmp_path_factory) -> Run:
    """Two steps of 8 images and an evaluation."""
    recipe = parse_recipe(
        {
            "name": "varied",
            "genotype": GENOTYPE,
            "data": {
                **varied_pictures.source(request.param),
                "image_size": SIZE,
                "evaluation": "center-crop",
                "limit": 16,
                "validation_fraction": 0,
                "augmentation": {"random_resized_crop": True, "flip": True},
            },
            "network": {"cells": 1, "channels": 4, "stem": "imagenet"},
            "train": {"epochs": 1, "batch_size": 8},
            "export": {"enabled": False},
        }
    )
    with Run.create(recipe, tmp_path_factory.mktemp("varied") / "run") as run:
        run.run()
    return run


def test_a_small_imagenet_is_trained_and_evaluated(run):
    assert run.inputs.data.train.streamed  # its originals are needed
    network = StoredNetwork.load(run.folder.path)
    assert network.config.stem == "imagenet" and network.config.num_classes == 1000
    assert run.result["test"]["examples"] == 12
    data = read_json(run.folder / "network.json")["data"]
    assert (data["evaluation"], data["crop_share"]) == ("center-crop", 0.875)
    assert network.geometry == run.inputs.data.geometry


def test_preprocess_input_gives_the_pixels_of_the_evaluation(run, varied_pictures):
    test, folder = run.inputs.data.test, run.folder.path
    evaluated = np.concatenate([images.numpy() for images, _ in run.inputs.batches(test)])
    shapes = set()
    for label, expected in zip(test.labels, evaluated, strict=True):
        jpeg = varied_pictures.jpeg("test", label)
        if run.inputs.data.name == "folder":
            original = np.array(Image.open(io.BytesIO(jpeg)))
        else:
            original = tf.io.decode_image(jpeg).numpy()
        shapes.add(original.shape)
        np.testing.assert_array_equal(preprocess_input(original, folder), expected)
        for same in (original.astype("float32"), original[None], tf.constant(original)):
            prepared = np.reshape(preprocess_input(same, folder), expected.shape)
            np.testing.assert_array_equal(prepared, expected)
    assert len(shapes) > 8
    pictures = tf.data.Dataset.from_tensors(original).map(lambda p: preprocess_input(p, folder))
    assert pictures.element_spec.shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(next(iter(pictures)), expected)


def test_images_of_the_networks_size_are_only_normalised(run):
    ready = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    expected = run.inputs.normalization.apply(ready)
    np.testing.assert_array_equal(preprocess_input(ready, run.folder.path), expected)
    inputs = keras.Input((SIZE, SIZE, 3))
    assert preprocess_input(inputs, run.folder.path).shape == inputs.shape
    with pytest.raises(DataError, match="Centre crops cannot be part of a Keras model"):
        preprocess_input(keras.Input((50, 50, 3)), run.folder.path)


@pytest.mark.parametrize("kind", ["tfds", "folder"])
def test_a_training_killed_inside_an_epoch_goes_on_to_the_same_bits(
    kind, varied_pictures, tmp_path
):
    """Random resized crops, colours and drop-path; a checkpoint behind every step."""
    recipe = parse_recipe(
        {
            "genotype": GENOTYPE,
            "data": {
                **varied_pictures.source(kind),
                "image_size": SIZE,
                "limit": 16,
                "validation_fraction": 0,
                "augmentation": {
                    "random_resized_crop": True,
                    "flip": True,
                    "color_jitter": [0.4, 0.4, 0.4, 0.2],
                },
            },
            "network": {"cells": 1, "channels": 4, "stem": "imagenet"},
            "train": {"epochs": 2, "batch_size": 4, "checkpoint_minutes": 1e-9},
        }
    )

    class KilledInside(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, 2):
                raise KeyboardInterrupt

    with Run.create(recipe, tmp_path / "whole", stages=("train",)) as whole:
        whole.train()
    killed = {"callbacks": [KilledInside()]}
    with Run.create(recipe, tmp_path / "cut", stages=("train",), **killed) as run:
        with pytest.raises(KeyboardInterrupt):
            run.train()
    assert (tmp_path / "cut/train/checkpoints/epoch-00001-step-0000002").is_dir()
    with Run.create(recipe, tmp_path / "cut", stages=("train",), resume=True) as run:
        run.train()
    for one, other in zip(run.network().weights, whole.network().weights, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes(), one.name
    rows, expected = (
        [{**row, "seconds": 0} for row in read_lines(made.folder / "train" / "metrics.jsonl")]
        for made in (run, whole)
    )
    assert rows == expected and len(rows) == 2


@pytest.mark.parametrize("kind", ["tfds", "folder"])
def test_a_small_imagenet_is_searched_with_its_stem(kind, varied_pictures, tmp_path):
    """The CIFAR stem would leave the first cell at the pictures' resolution."""
    recipe = parse_recipe(
        {
            "data": {
                **varied_pictures.source(kind),
                "image_size": SIZE,
                "evaluation": "center-crop",
                "limit": 16,
                "validation_fraction": 0,
                "augmentation": {"random_resized_crop": True},
            },
            "search": {
                **{"space": "two-nodes", "cells": 1, "channels": 4},
                **{"epochs": 1, "batch_size": 8},
            },
        }
    )
    with Run.create(recipe, tmp_path / "run", stages=("search",)) as run:
        run.search()
        supernet = make_searcher(run.inputs, recipe.search).supernet
    assert supernet.get_config()["stem"] == run.inputs.network_config.stem == "imagenet"
    assert run.genotype.provenance["select"] == "final"


CROPPED = [{"augmentation": {"random_resized_crop": True}}, {}]


@pytest.mark.parametrize("by_row", [False, True], ids=["a stage", "a stage of a row"])
def test_originals_are_kept_for_whatever_crops_them(varied_pictures, tmp_path, by_row):
    """A stage's own augmentation stands in place of that of the section `data`; the networks of an
    ablation share their images."""
    train = {"epochs": 1, "batch_size": 8, "drop_path": 0.0}
    values = {
        "genotype": GENOTYPE,
        "data": {
            **varied_pictures.source("folder"),
            "image_size": SIZE,
            "limit": 16,
            "validation_fraction": 0,
        },
        "network": {"cells": 1, "channels": 4, "stem": "imagenet"},
        "train": train if by_row else {**train, "stages": CROPPED},
        "export": {"enabled": False},
    }
    if not by_row:
        with Run.create(parse_recipe(values), tmp_path / "run") as run:
            run.train()
        assert run.inputs.data.train.streamed and run.stages.is_done("train")
        return
    rows = [{"name": "plain"}, {"name": "cropped", "changes": {"train": {"stages": CROPPED}}}]
    recipe = parse_recipe({**values, "ablation": {"seeds": [0, 1], "rows": rows}})
    with contextlib.closing(Ablation.create(recipe, tmp_path / "study")) as study:
        # Of the seed 1, the row that does not crop is the first to load them.
        for name in ("plain-seed1", "cropped-seed1", "cropped-seed0"):
            assert study._loaded(study.recipe_of(name)).train.streamed


def test_a_fine_tuning_evaluates_alike(run):
    data = finetune_recipe(run.folder.path, {}).data
    assert (data.image_size, data.evaluation, data.crop_share) == (SIZE, "center-crop", 0.875)
