"""Publishing: the number on the card is the one that the published weights have, or there is none.

The run is as real as one can be without training: untrained weights, evaluated as runs are.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data import Normalization, evaluation_dataset, load_described
from bnas_larq.errors import BnasLarqError, RunError, WeightsError, ZooError
from bnas_larq.export.exporter import export_network
from bnas_larq.files import read_json, sha256, write_atomic, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.recipe import parse_recipe
from bnas_larq.training import evaluate_network
from bnas_larq.zoo.published_run import Origin
from bnas_larq.zoo.publishing import _variant, publish_run
from bnas_larq.zoo.registry import find_entry

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
EPOCHS = [
    {"epoch": n, "seconds": 2.0, "loss": 2.0 - n / 10, "accuracy": 0.1, "val_accuracy": None}
    for n in range(20)
]
EPOCHS[-1]["val_accuracy"] = 0.25


def write_run(folder, values):
    """A run folder as `bnas-larq run` leaves it, as far as publishing reads it."""
    sizes = {"network": {"cells": 1, "channels": 8}, "train": {"epochs": len(EPOCHS)}}
    recipe = parse_recipe({"name": "test", **sizes, **values})
    data = load_described(recipe.data, recipe.seed)
    folder.mkdir(parents=True)
    stored = StoredNetwork(
        folder,
        Genotype(CELL, CELL),
        NetworkConfig(data.image_shape, data.num_classes, channels=8, cells=1),
        data.class_names,
        data.normalization().to_dict(),
        data.describe(),
    )
    stored.save()
    model = build_network(stored.genotype, stored.config)
    rng = np.random.default_rng(0)
    for weight in model.weights:  # both signs, so that the outputs depend on the images
        low = 0.3 if "gamma" in weight.name or "variance" in weight.name else -1.0
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    save_weights(model, stored.weights)
    normalization = Normalization.from_dict(stored.normalization)
    test = evaluate_network(model, evaluation_dataset(data.test, 250, normalization)).metrics()
    write_atomic(folder / "recipe.yaml", recipe.to_yaml())
    (folder / "train").mkdir()
    (folder / "train" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in EPOCHS))
    write_json(
        folder / "state.json",
        {
            "search": {"done": True, "searched": False, "seconds": 0.1},
            "train": {"done": True, "seconds": 40.0, "validation_accuracy": 0.25},
            "evaluate": {"done": True, "seconds": 1.0, "test": test},
        },
    )
    write_json(folder / "environment.json", {"python": "3", "command": ["bnas-larq", str(folder)]})
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    genotype = tmp_path_factory.mktemp("genotypes") / "mine.json"
    return write_run(tmp_path_factory.mktemp("runs") / "digits", {"genotype": str(genotype)})


@pytest.fixture
def run(original, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(original, tmp_path / "run")


def change(path, **values):
    write_json(path, read_json(path) | values)


def record(run, **test):
    """Change the metrics that the run recorded."""
    state = read_json(run / "state.json")
    state["evaluate"]["test"] |= test
    write_json(run / "state.json", state)


@pytest.fixture(scope="module")
def entry(original, tmp_path_factory):
    zoo = tmp_path_factory.mktemp("zoo")
    return publish_run(original, "my-digits", variant="bnas-d", notes=["Only a test."], out=zoo)


def test_a_run_becomes_an_entry(original, entry, own_zoo, monkeypatch):
    assert entry.verify() == ()
    test = read_json(original / "state.json")["evaluate"]["test"]
    assert entry.metrics == {**test, "validation_accuracy": 0.25}
    assert (entry.dataset, entry.source, entry.redistributable) == ("digits", "published", True)
    assert entry.cost["bytes"] > 0 and "layers" not in entry.cost
    assert entry.provenance["seed"] == 0 and entry.provenance["began_with"] == []
    assert set(entry.files) == {
        *("card.md", "confusion.csv", "genotype.json", "network.json", "recipe.yaml"),
        *("train_curves.png", "training.csv", "weights.h5"),
    }
    with open(entry.folder / "training.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["loss"] for row in rows] == [str(row["loss"]) for row in EPOCHS]
    monkeypatch.setenv("BNAS_LARQ_ZOO", str(entry.folder.parent))
    found = find_entry("digits", "bnas-d")
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    expected = StoredNetwork.load(original).load_model()(image)
    np.testing.assert_array_equal(found.load_model()(image), expected)


def test_the_card_says_what_it_is_and_how_little_it_was_trained(original, entry):
    card = entry.card
    test = read_json(original / "state.json")["evaluate"]["test"]
    right = round(test["accuracy"] * 359)
    for text in (
        f"**{test['accuracy']:.2%}** ({right} of 359 images correct",
        'BNASD(weights="my-digits")',
        "1,294 for train",
        "Trained for 20 epochs on 1,294 images, one run with one seed",
        "It is not the papers' BNASD, which has 12 cells of 64 channels",
        "- Only a test.",
        "Licence of the weights: Apache-2.0",
        "bnas-larq run recipe.yaml --out runs/test",
        "| 1 | 2.0000 | 10.00% | – | – |",
        "| 20 | 0.1000 | 10.00% | – | 25.00% |",
        "OPs, counted honestly",
    ):
        assert text in card, text
    assert card.count("| 10.00% |") == 12


def test_a_run_with_a_file_tells_what_the_file_does(run, tmp_path):
    model, path = StoredNetwork.load(run).load_model(), run / "model.tflite"
    images = np.zeros([1, 8, 8, 3], np.float32)
    report = export_network(model, path, images, float_storage="int8")
    write_json(run / "export.json", report)
    change(run / "state.json", export={"done": True})
    entry = publish_run(run, "my-digits", out=tmp_path / "zoo")
    shared = ("bytes", "sha256", "float_storage", "memory")
    assert {key: entry.deployed[key] for key in shared} == {key: report[key] for key in shared}
    assert abs(entry.deployed["accuracy"] - entry.metrics["accuracy"]) <= 2 / 359
    assert f"{report['bytes']:,} bytes, full-precision kernels as int8; 3 conv" in entry.card
    assert f"the file | {entry.deployed['accuracy']:.2%} in Larq Compute" in entry.card


def test_nothing_of_the_users_machine_is_published(original, entry):
    for name in entry.files:
        content = (entry.folder / name).read_bytes()
        assert str(original.parent.parent).encode() not in content, name
    assert "genotype: genotype.json\n" in (entry.folder / "recipe.yaml").read_text()


# -- numbers that are not those of the weights -----------------------------------------------------


def refused(run, message, error=ZooError, **settings):
    """Publishing is refused in one sentence, and nothing is left behind."""
    zoo = run.parent / "zoo"
    with pytest.raises(error, match=message) as raised:
        publish_run(run, "my-digits", out=zoo, **settings)
    assert str(raised.value).isprintable()
    assert not zoo.exists() or not list(zoo.iterdir())


def test_an_accuracy_that_is_off_by_one_image_is_refused(run):
    right = round(read_json(run / "state.json")["evaluate"]["test"]["accuracy"] * 359)
    record(run, accuracy=(right + 1) / 359)
    refused(run, rf"is the one its weights have. Received: {right} of 359.*{right + 1} of 359")


@pytest.mark.parametrize("test", [{"accuracy": "high"}, {"loss": 9.0}])
def test_an_accuracy_that_says_nothing_is_refused(run, test):
    record(run, **test)
    refused(run, "is the one its weights have")


def test_other_weights_than_those_evaluated_are_refused(run):
    model = StoredNetwork.load(run).load_model()
    kernel, bias = model.get_layer("classifier").get_weights()
    model.get_layer("classifier").set_weights([-kernel, -bias])
    save_weights(model, run / "weights.h5")
    refused(run, "is the one its weights have")


def test_weights_cut_in_half_are_refused(run):
    path = run / "weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(run, "intact HDF5", WeightsError)


def test_another_test_split_is_refused(run):
    described = read_json(run / "network.json")
    described["data"]["fingerprints"]["test"] = "0" * 64
    write_json(run / "network.json", described)
    refused(run, "with the test images it was evaluated on")


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_an_unfinished_run_is_refused(run, stage):
    change(run / "state.json", **{stage: None})
    refused(run, f"Only a trained and evaluated run.*stage '{stage}' is not done")


def test_what_is_no_run_is_refused(run):
    (run / "recipe.yaml").unlink()
    refused(run, "holds recipe.yaml", RunError)


# -- names and choices -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "bnas-z"}, "Received: 'bnas-z'; did you mean"),
        ({"dataset": "../up"}, "data set's name.*Received: '../up'"),
        ({"dataset": "my-digits"}, "must not be a data set's"),
        ({"license": "a\nb"}, "one line of printable text"),
        ({"notes": ["\x1b[2J"]}, "one line of printable text"),
        ({"data_dir": "/data"}, "digits are in no folder"),
    ],
)
def test_impossible_choices_are_refused(run, settings, message):
    refused(run, message, **settings)


def test_a_name_is_taken_once(original, make_entry, own_zoo):
    make_entry("my-digits")
    before = sha256(own_zoo / "my-digits" / "entry.json")
    with pytest.raises(ZooError, match="a name of its own"):
        publish_run(original, "my-digits")
    assert sha256(own_zoo / "my-digits" / "entry.json") == before
    entry = publish_run(original, "my-digits", overwrite=True)
    assert entry.dataset == "digits" and entry.folder == own_zoo / "my-digits"


def test_weights_may_be_put_elsewhere(original, own_zoo, tmp_path):
    url = (tmp_path / "server" / "w.h5").as_uri()
    entry = publish_run(original, "my-digits", weights_url=url)
    (tmp_path / "server").mkdir()
    shutil.move(entry.folder / "weights.h5", tmp_path / "server" / "w.h5")
    assert find_entry("my-digits").load_model().output_shape == (None, 10)
    with pytest.raises(ZooError, match="an http, https or file URL"):
        publish_run(original, "other", weights_url="javascript:alert(1)")
    assert [path.name for path in own_zoo.iterdir()] == ["my-digits"]


def test_weights_in_half_the_bytes_have_the_entrys_accuracy(original, own_zoo):
    entry = publish_run(original, "my-digits", half=True)
    whole = (original / "weights.h5").stat().st_size
    assert entry.files["weights.h5"]["bytes"] < whole  # most of it are names here
    assert "float16" in entry.card
    model = find_entry("my-digits").load_model()
    assert {weight.dtype for weight in model.weights} == {tf.float32}
    data = load_described(parse_recipe({"data": {"name": "digits"}}).data, 0)
    normalization = Normalization.from_dict(StoredNetwork.load(entry.folder).normalization)
    metrics = evaluate_network(model, evaluation_dataset(data.test, 250, normalization)).metrics()
    assert metrics["accuracy"] == entry.accuracy


def test_the_variant_is_known_by_cells_and_size(small_network):
    def network(genotype, **size):
        return dataclasses.replace(
            small_network, genotype=Genotype.published(genotype), config=NetworkConfig(**size)
        )

    assert _variant(None, network("bnas_cifar", cells=20, channels=36)) == "bnas-a"
    assert _variant(None, network("bnas_imagenet", cells=12, channels=64)) == "bnas-d"
    assert _variant(None, network("bnas_imagenet", cells=12, channels=66)) is None
    assert _variant(None, small_network) is None
    assert _variant("bnas-h", small_network) == "bnas-h"
    entry = Origin("some-entry", "published", "0" * 64, "Apache-2.0", True, "bnas-e")
    assert _variant(None, small_network, [entry]) == "bnas-e"


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    """A run on a folder of 24 images."""
    images = tmp_path_factory.mktemp("data") / "My Cats"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (images / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(images / name / f"{index}.png")
    values = {"data": {"name": "folder", "data_dir": str(images)}}
    return write_run(tmp_path_factory.mktemp("runs") / "cats", values), images


def test_a_folder_of_images_gives_its_name(folder_run, own_zoo):
    run, images = folder_run
    entry = publish_run(run, "cats-small")
    assert entry.dataset == "my-cats" and entry.class_names == ("cat", "dog")
    for name in ("recipe.yaml", "entry.json", "card.md"):
        assert str(images.parent) not in (entry.folder / name).read_text()
    assert "recipe.yaml --data-dir FOLDER" in entry.card


def test_images_that_moved_are_named_and_those_that_changed_refused(folder_run, own_zoo, tmp_path):
    run, images = folder_run
    copy = shutil.copytree(run, tmp_path / "run")
    text = (copy / "recipe.yaml").read_text().replace(str(images), "/nowhere/cats")
    (copy / "recipe.yaml").write_text(text)
    with pytest.raises(ZooError, match="needs the run's test images.*--data-dir"):
        publish_run(copy, "cats-small")
    assert publish_run(copy, "cats-small", data_dir=images).dataset == "cats"
    other = shutil.copytree(images, tmp_path / "images")
    for path in other.rglob("*.png"):
        Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ZooError, match="is the one its weights have"):
        publish_run(copy, "cats-black", data_dir=other)


# -- weights of others -----------------------------------------------------------------------------

THEIRS = "Weights of their authors."


def began_with(run, entry, weights=None):
    """Let the run's recipe say that it was fine-tuned from `entry`."""
    pinned = "null" if weights is None else sha256(weights)
    text = (run / "recipe.yaml").read_text()
    section = (
        f"finetune:\n  entry: {json.dumps(str(entry))}\n  sha256: {pinned}\n  head_epochs: 0\n"
    )
    (run / "recipe.yaml").write_text(text.replace("finetune: null\n", section))
    return run


def test_fine_tuned_from_an_open_entry(run, make_entry):
    source = make_entry("open-one")
    entry = publish_run(began_with(run, "open-one", source.folder / "weights.h5"), "mine")
    assert entry.redistributable and entry.license == "Apache-2.0"
    (origin,) = entry.provenance["began_with"]
    assert (origin["name"], origin["source"]) == ("open-one", "published")
    assert "Began with the weights of `open-one` (published, licence: Apache-2.0)" in entry.card
    assert "bnas-larq finetune open-one --data digits" in entry.card


@pytest.mark.parametrize("steps", [1, 2])
def test_imported_weights_keep_their_licence_and_stay_in_the_users_zoo(
    run, make_entry, tmp_path, own_zoo, steps
):
    source = make_entry("theirs", source="imported", redistributable=False, license=THEIRS)
    weights = source.folder / "weights.h5"
    if steps == 2:  # a run that began with a run that began with them
        first = began_with(shutil.copytree(run, tmp_path / "first"), "theirs", weights)
        began_with(run, first, first / "weights.h5")
    else:
        began_with(run, "theirs", weights)
    refused(run, f"may not be redistributed.*'theirs' .licence: {THEIRS}.*Omit --out")
    entry = publish_run(run, "mine", license="MIT")
    assert entry.folder.parent == own_zoo and not entry.redistributable
    assert entry.license == f"As of theirs, from which it was fine-tuned: {THEIRS}"
    assert "Not to be passed on" in entry.card


def test_what_began_with_weights_that_are_gone_is_not_passed_on(run, make_entry):
    gone = began_with(run, "gone", run / "weights.h5")
    refused(gone, "may not be redistributed.*'gone' .licence: unknown")
    assert not publish_run(gone, "mine").redistributable


def test_what_began_with_other_weights_of_that_name_is_not_passed_on(run, make_entry):
    make_entry("open-one")
    refused(began_with(run, "open-one", run / "weights.h5"), "licence: unknown")


def test_a_circle_of_runs_ends(run):
    refused(began_with(run, run, run / "weights.h5"), "licence: unknown")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 20", "epochs: 300", "metrics of 20 epochs .* not of the 300"),
        ("channels: 8", "channels: 64", "a network of channels 8, and 64"),
    ],
)
def test_a_recipe_that_promises_more_than_was_done_is_refused(run, old, new, message):
    text = (run / "recipe.yaml").read_text()
    assert old in text
    (run / "recipe.yaml").write_text(text.replace(old, new))
    refused(run, message)


def test_files_of_a_run_that_contradict_each_other_are_refused(run):
    state = read_json(run / "state.json")
    state["train"]["validation_accuracy"] = 0.99
    write_json(run / "state.json", state)
    refused(run, "validation accuracy 0.99 in state.json, and 0.25 of its last epoch")
    (run / "weights.h5").unlink()
    refused(run, "with no weights.h5")
    (run / "environment.json").write_text("[1]")
    refused(run, "environment.json must be")


def test_an_entry_is_not_named_as_a_data_set(run, make_entry):
    make_entry("toy-entry", dataset="toys")
    for name in ("toys", "imagenet", "cifar10"):
        with pytest.raises(ZooError, match=f"must not be a data set's.*Received: '{name}'"):
            publish_run(run, name)


def test_a_published_entry_is_no_run(entry, own_zoo):
    with pytest.raises(BnasLarqError, match="'train' is not done"):
        publish_run(entry.folder, "again")
