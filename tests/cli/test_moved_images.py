"""A run on a folder of images that has moved since; file names in predictions.csv."""

from __future__ import annotations

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bnas_larq.cli.main import main
from bnas_larq.files import read_json

RECIPE = """\
genotype: random:two-nodes:3
data: {name: folder, validation_fraction: 0.2, background: [9, 8, 7]}
network: {cells: 1, channels: 4}
train: {epochs: 1, batch_size: 8}
export: {parity_images: 4}
"""


@pytest.fixture
def refuse(capsys):
    """Runs a command that must end in one sentence, and returns it."""

    def refuse(*args):
        capsys.readouterr()
        assert main([str(arg) for arg in args]) == 2
        *_, last = capsys.readouterr().err.splitlines()
        assert last.startswith("Error: ")
        return last

    return refuse


def draw(root, prefix=""):
    for part, count in (("train", 10), ("test", 2)):
        for name in ("apple", "pear"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{prefix}{number}.png")
    return root


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A trained run whose images are in another place now: (its folder, the images)."""
    root = tmp_path_factory.mktemp("moved")
    (root / "recipe.yaml").write_text(RECIPE)
    images, out = draw(root / "images"), root / "run"
    command = ("train", root / "recipe.yaml", "--data-dir", images, "--out", out)
    assert main([str(word) for word in command]) == 0
    return out, images.rename(root / "elsewhere")


@pytest.fixture
def run(moved, tmp_path):
    """A copy of it to work in."""
    return shutil.copytree(moved[0], tmp_path / "run")


def test_evaluation_and_export_take_the_new_place(run, moved, refuse):
    for command in ("evaluate", f"export --bundle={run / 'bundle'}"):
        words = [*command.split(), str(run)]
        assert "--data-dir" in refuse(*words)
        assert main([*words, "--data-dir", str(moved[1])]) == 0
    with open(run / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [
        f"test/{name}/{number}.png" for name in ("apple", "pear") for number in range(2)
    ]
    assert [row["label"] for row in rows] == ["apple"] * 2 + ["pear"] * 2
    assert (run / "model.tflite").is_file()
    assert read_json(run / "bundle" / "preprocessing.json")["background"] == [9, 8, 7]


def test_the_file_of_a_run_is_evaluated_once_there_is_one(run, moved, refuse, capsys):
    words = ["evaluate", str(run), "--data-dir", str(moved[1]), "--tflite"]
    assert "without model.tflite. Export it first" in refuse(*words)
    assert main(["export", *words[1:-1]]) == main(words) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert metrics["tflite"]["examples"] == metrics["examples"] == 4
    assert metrics["tflite"]["bytes"] == (run / "model.tflite").stat().st_size


def test_other_images_are_refused(run, moved, refuse, tmp_path):
    other = draw(tmp_path / "other", prefix="x")
    message = refuse("evaluate", run, "--data-dir", other)
    assert f"other test images in {other}" in message
    assert not (run / "predictions.csv").exists()
    for command in ("evaluate", "export"):
        assert main([command, str(run), "--data-dir", str(moved[1])]) == 0
        # Also where the stored result would answer.
        assert "other test images in" in refuse(command, run, "--data-dir", other)


@pytest.mark.parametrize("option", ["--lint", "--out=model.tflite"])
def test_exports_that_read_no_test_images_take_no_place(run, moved, refuse, option):
    assert "--data-dir says where" in refuse("export", run, "--data-dir", moved[1], option)


def test_a_class_that_is_no_text_is_refused_before_anything_is_written(tmp_path, refuse):
    images = draw(tmp_path / "images")
    os.rename(images / "train" / "pear", os.path.join(os.fsencode(images), b"train/caf\xe9"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = tmp_path / "run"
    message = refuse("train", tmp_path / "recipe.yaml", "--data-dir", images, "--out", out)
    assert r"b'caf\xe9'" in message and not out.exists()


def test_images_to_compare_on_are_told_by_their_content(run, refuse, tmp_path):
    images = tmp_path / "pictures"
    images.mkdir()
    command = ("export", run, "--images", images, "--out", tmp_path / "model.tflite")
    (images / "notes.txt").write_text("no image")
    assert "Received: 0 images" in refuse(*command)
    (images / "vectors.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert "vectors.png (cannot identify image file" in refuse(*command)
    Image.new("RGB", (9, 9)).save(images / "vectors.png")
    Image.new("RGB", (9, 9)).save(images / "photo.jfif", format="JPEG")
    assert main([str(word) for word in command]) == 0
