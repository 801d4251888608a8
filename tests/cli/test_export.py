"""`bnas-larq export` for runs, zoo entries and saved models: lint, file, bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import keras
from bnas_larq.files import read_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.zoo.entries import store_entry

CARD = "# tiny\n\nHardly trained.\n"


@pytest.fixture(scope="module")
def places(finished, tmp_path_factory):
    """A run, an entry, a saved model with a backbone in it, and images."""
    root = tmp_path_factory.mktemp("export")
    for name in ("run", "changed"):
        shutil.copytree(finished.folder, root / name)
    with open(root / "changed" / "model.tflite", "ab") as file:
        file.write(b"more")

    def fill(folder: Path) -> dict:
        for name in ("network.json", "genotype.json", "weights.h5"):
            shutil.copy(finished.folder / name, folder / name)
        (folder / "card.md").write_text(CARD)
        return {
            "variant": None,
            "dataset": "digits",
            "source": "imported",
            "redistributable": False,
            "license": "their authors'",
            "description": "",
            "provenance": {},
        }

    store_entry(root / "zoo", "tiny-digits", fill)
    body = build_network(
        Genotype.load("random:two-nodes:3"),
        input_shape=(8, 8, 3),
        cells=1,
        channels=4,
        include_top=False,
        pooling="avg",
        name="body",
    )
    head = keras.layers.Dense(2, activation="softmax", name="head")
    keras.Sequential([body, head]).save(root / "mine.keras")
    (root / "labels.txt").write_text("cat\ndog\n")
    (root / "images").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 7, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def done(in_one_process, places):
    """How the commands ended, by a name for each."""
    run, entry, mine = places / "run", places / "zoo" / "tiny-digits", places / "mine.keras"
    told = ["--labels", places / "labels.txt", "--mean", 0, 0, 0, "--std", 1, 1, 1]
    int8 = ["--float-storage", "int8"]
    (places / "three.txt").write_text("a\nb\nc\n")
    lines = {
        "run": [run, "--bundle", places / "of_run"],
        "run elsewhere": [run, "--out", places / "run.tflite", "--bundle", places / "of_run_2"],
        "lint": [run, "--lint"],
        "lint json": [run, "--lint", "--json"],
        "int8": [run, "--out", places / "8.tflite", "--bundle", places / "of_int8", *int8],
        "other storage": [run, *int8],
        "lint storage": [run, "--lint", *int8],
        "lint images": [run, "--lint", "--images", places / "images", "--overwrite"],
        "lint labels": [mine, "--lint", *told],
        "entry": [entry, "--bundle", places / "of_entry", "--images", places / "images"],
        "lint entry": [entry, "--lint", "--json"],
        "model": [mine, "--out", places / "mine.tflite", "--bundle", places / "of_mine", *told],
        "lint model": [mine, "--lint"],
        "bundle exists": [run, "--bundle", places / "of_run"],
        "file exists": [mine, "--out", places / "mine.tflite"],
        "nowhere": [entry],
        "lint writes": [run, "--lint", "--out", places / "x.tflite"],
        "no labels": [mine, "--bundle", places / "none"],
        "three labels": [mine, "--bundle", places / "none", *told[2:], "--labels"]
        + [places / "three.txt"],
        "labels of a run": [run, "--lint", *told],
        "no images": [entry, "--out", places / "x.tflite", "--images", places / "zoo"],
        "absent": [places / "absent.h5", "--lint"],
        "changed file": [places / "changed", "--bundle", places / "none"],
        "no name": ["nobody-published-this", "--lint"],
    }
    ends = in_one_process([["export", *line] for line in lines.values()])
    return dict(zip(lines, ends, strict=True))


def test_a_run_becomes_a_bundle(done, places, finished):
    end = done["run"]
    assert end.code == 0, end.err
    assert end.out.splitlines()[-2:] == [
        str(places / "run" / "model.tflite"),
        str(places / "of_run"),
    ]
    folder = places / "of_run"
    content = (folder / "model.tflite").read_bytes()
    assert content == (finished.folder / "model.tflite").read_bytes()
    assert (folder / "labels.txt").read_text().splitlines() == list("0123456789")
    network = read_json(finished.folder / "network.json")
    settings = read_json(folder / "preprocessing.json")
    assert settings["mean"] == network["normalization"]["mean"] and settings["height"] == 8
    card = (folder / "card.md").read_text()
    test = read_json(finished.folder / "result.json")["test"]
    assert f"{test['accuracy']:.2%}" in card and "12 epochs of 180 images" in card
    assert "8 test images" in (folder / "README.md").read_text()


def test_a_run_that_is_exported_elsewhere_keeps_its_card(done, places):
    end = done["run elsewhere"]
    assert end.code == 0, end.err
    assert end.out.splitlines()[-2:] == [str(places / "run.tflite"), str(places / "of_run_2")]
    card = (places / "of_run" / "card.md").read_text()
    assert (places / "of_run_2" / "card.md").read_text() == card
    assert "pictures of random noise" in (places / "of_run_2" / "README.md").read_text()


def test_kernels_are_stored_as_asked(done, places, finished):
    end = done["int8"]
    assert end.code == 0, end.err
    assert "kernels stored as int8" in end.err and "int8   convolution stem_conv" in end.out
    assert "float  dense      classifier" in end.out, "too small for an operation of its own"
    assert "stored as int8, with one scale" in (places / "of_int8" / "README.md").read_text()
    sizes = [(path.stat().st_size) for path in (places / "8.tflite", places / "run.tflite")]
    assert sizes[0] < sizes[1]
    report = read_json(finished.folder / "result.json")["export"]
    assert report["float_storage"] == "float32" and report["memory"]["restored_kernels"] == 0
    assert 0 <= report["parity"]["accuracy"] <= 1
    assert report["memory"]["peak_activations"] > 8 * 8 * 3 * 4
    card = (places / "of_run" / "card.md").read_text()
    assert "| classifier |" in card and "bytes at most at one time" in card


def test_the_bundle_of_a_run_predicts_as_the_run_did(done, places):
    pixels = places / "images" / "0.png"
    command = [sys.executable, places / "of_run" / "run.py", "--json", pixels]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    outputs = json.loads(ran.stdout)["outputs"]
    from bnas_larq.data import Normalization
    from bnas_larq.data.geometry import Geometry
    from bnas_larq.data.images import read_image_file
    from bnas_larq.networks.network_files import StoredNetwork

    stored = StoredNetwork.load(places / "run")
    image = Normalization.from_dict(stored.normalization).apply(
        read_image_file(pixels, Geometry((8, 8)))[None]
    )
    np.testing.assert_allclose(outputs, stored.load_model()(image)[0], atol=1e-4)


def test_an_entry_becomes_a_bundle_with_its_own_card(done, places):
    end = done["entry"]
    assert end.code == 0, end.err
    assert (places / "of_entry" / "card.md").read_text() == CARD
    assert "3 images of images predicted as by Keras" in end.err
    assert "must not be redistributed: their authors'" in end.err
    assert "3 images of images" in (places / "of_entry" / "README.md").read_text()


def test_a_saved_model_with_a_backbone_becomes_file_and_bundle(done, places):
    end = done["model"]
    assert end.code == 0, end.err
    content = (places / "mine.tflite").read_bytes()
    assert (places / "of_mine" / "model.tflite").read_bytes() == content
    assert "pictures of random noise" in end.err
    assert "1 bit  convolution body/cell0_preprocess1_conv" in end.out
    assert read_json(places / "of_mine" / "preprocessing.json")["output"] == "probabilities"
    assert "Not measured here." in (places / "of_mine" / "card.md").read_text()
    line = f"{hashlib.sha256(content).hexdigest()}  model.tflite"
    assert line in (places / "of_mine" / "SHA256SUMS").read_text().splitlines()


def test_lint_tells_what_the_export_found(done, places):
    report = read_json(places / "run" / "export.json")
    values = json.loads(done["lint json"].out)
    assert set(values["not_binary"]) == set(report["not_binary_because"])
    assert values["binary"] == report["binary_convolutions"]
    assert len(values["dead_branches"]) == 2
    assert f"{values['binary']} of " in done["lint"].out and "Zeroise: " in done["lint"].out
    assert json.loads(done["lint entry"].out)["layers"] == values["layers"]
    assert "body/stem_conv" in done["lint model"].out and "Zeroise:" not in done["lint model"].out
    assert all(done[name].code == 0 for name in ("lint", "lint json", "lint entry", "lint model"))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("bundle exists", "which exists. Choose another folder or add --overwrite"),
        ("file exists", "mine.tflite, which exists"),
        ("nowhere", "without --out and --bundle"),
        ("other storage", "Received: float storage int8, but it was exported with float32"),
        ("lint storage", "--lint lists all storages, compares no images and writes nothing."),
        ("lint storage", "Received: --float-storage with it."),
        ("lint writes", "Received: --out with it."),
        ("lint images", "Received: --images, --overwrite with it."),
        ("lint labels", "Received: --labels, --mean, --std with it."),
        ("no labels", "without all of --labels, --mean and --std"),
        ("three labels", "with 3 labels"),
        ("labels of a run", "know their labels and normalisation"),
        ("no images", "Received: 0 images in"),
        ("absent", "absent.h5, which does not exist"),
        ("changed file", "which was changed since"),
        ("no name", "takes a run's folder, a zoo entry (its name or folder) or a saved Keras"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(done, places, case, message):
    end = done[case]
    assert end.code == 2 and "Traceback" not in end.err
    assert len(end.errors) == 1 and message in end.errors[0]
    assert not (places / "none").exists() and not (places / "x.tflite").exists()
