"""`bnas-larq evaluate` of entries and of exported files: the card's number, and the file's."""

from __future__ import annotations

import json
import shutil

import pytest

from bnas_larq.cli.main import main
from bnas_larq.errors import ZooError
from bnas_larq.run.target_evaluation import evaluate_target
from bnas_larq.run.targets import TRAINED, find_target
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
    with pytest.raises(ZooError, match=f"Received: {ENTRY}, published without a recipe"):
        evaluate_target(target(folder))
