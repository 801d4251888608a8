"""`bnas-larq evaluate` of entries and of exported files: the card's number, and the file's."""

from __future__ import annotations

import json
import shutil

import pytest

from bnas_larq.cli.main import main
from bnas_larq.errors import ZooError
from bnas_larq.run.deployment import export_target
from bnas_larq.run.target_evaluation import evaluate_target
from bnas_larq.run.targets import TRAINED, find_target
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.registry import find_entry

ENTRY = "bnasd-digits-small"


def target(text):
    return find_target(text, TRAINED, "a test")


def test_an_entry_has_the_number_on_its_card_and_its_file_nearly(capsys):
    assert main(["evaluate", ENTRY, "--tflite"]) == 0
    metrics, recorded = json.loads(capsys.readouterr().out), find_entry(ENTRY).metrics
    for key in ("accuracy", "top5_accuracy", "examples"):
        assert metrics[key] == recorded[key]
    assert abs(metrics["tflite"]["accuracy"] - recorded["accuracy"]) <= 1 / 359
    assert metrics["tflite"]["examples"] == 359 and metrics["tflite"]["bytes"] > 100_000


def test_an_entry_without_a_recipe_has_no_images(tmp_path):
    folder = shutil.copytree(find_entry(ENTRY).folder, tmp_path / "entry")
    (folder / "recipe.yaml").unlink()
    with pytest.raises(ZooError, match="files must all be there"):
        evaluate_target(target(folder))
    entry = json.loads((folder / "entry.json").read_text())
    del entry["files"]["recipe.yaml"]
    (folder / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(ZooError, match=f"Received: {ENTRY}, published without a recipe"):
        evaluate_target(target(folder))


def test_a_changed_recipe_is_not_believed(tmp_path):
    folder = shutil.copytree(find_entry(ENTRY).folder, tmp_path / "entry")
    path = folder / "recipe.yaml"
    path.write_text(path.read_text().replace("limit: null", "limit: 300"))
    with pytest.raises(ZooError, match="recipe.yaml"):
        evaluate_target(target(folder))


def test_other_images_than_the_cards_are_told(tmp_path, capsys):
    folder = shutil.copytree(find_entry(ENTRY).folder, tmp_path / "entry")
    network = json.loads((folder / "network.json").read_text())
    network["data"]["fingerprints"]["test"] = "0" * 64
    (folder / "network.json").write_text(json.dumps(network))
    (folder / "entry.json").unlink()
    Entry.create(folder, name=ENTRY, variant="bnas-d", dataset="digits")
    assert main(["evaluate", str(folder)]) == 0
    assert f"not the images that the card of {ENTRY}" in capsys.readouterr().err


def test_an_entrys_file_is_stored_as_its_card_says(tmp_path):
    entry = find_entry("bnas-nano")
    report, _ = export_target(target("bnas-nano"), out=tmp_path / "nano.tflite")
    for fact in ("bytes", "float_storage", "memory"):
        assert report[fact] == entry.deployed[fact]
