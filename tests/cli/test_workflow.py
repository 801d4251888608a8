"""From images to a checked .tflite with the real command line, in one go and step by step."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
import shutil

import h5py
import numpy as np
import pytest
import yaml

from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.errors import RecipeError
from bnas_larq.files import read_json, read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.run.recipe_run import Run
from bnas_larq.search import SearchResult
from bnas_larq.settings import SearchSettings

#: Scikit-learn's digits: a fifth of 1797 is the test part; of data.limit = 200 a tenth is held out.
TEST_IMAGES = 359
FILES = {
    "confusion.csv",
    "environment.json",
    "export.json",
    "genotype.json",
    "model.tflite",
    "network.json",
    "predictions.csv",
    "recipe.yaml",
    "report.html",
    "search/alarms.jsonl",
    "search/alphas.jsonl",
    "search/metrics.jsonl",
    "state.json",
    "train/metrics.jsonl",
    "weights.h5",
    *(f"pictures/cell_{kind}.{form}" for kind in ("normal", "reduce") for form in ("png", "svg")),
    *(f"pictures/{n}.png" for n in ("alphas", "confusion", "search_curves", "train_curves")),
}


@pytest.fixture(scope="module")
def result(finished):
    """What programs read of a run."""
    return read_json(finished.folder / "result.json")


def test_a_run_ends_with_the_path_of_its_result_on_stdout(finished):
    assert finished.done.out == f"{finished.folder / 'result.json'}\n"
    for text in ("search epoch 12/12", "train epoch 12/12", "left", "genotype g-", "evaluate: "):
        assert text in finished.done.err
    assert "Traceback" not in finished.done.err and "Warning" not in finished.done.err


def test_every_line_of_a_run_through_a_pipe_is_ours(finished):
    ours = (
        r"(search: digits, 12 epochs|train: 12 epochs of|evaluate: test accuracy|export: model).*"
        r"|(search|train) epoch \d+/12: loss .* (left|unknown)|alarm in epoch \d+: .*"
        r"|genotype g-.*|  (normal|reduce) cell|    node \d = .*"
    )
    assert [line for line in finished.done.err.splitlines() if not re.fullmatch(ours, line)] == []


def test_the_run_folder_holds_what_is_promised_and_nothing_else(finished, result):
    found = {
        path.relative_to(finished.folder).as_posix()
        for path in finished.folder.rglob("*")
        if path.is_file()
    }
    assert found == FILES | {"result.json", ".lock"}
    assert set(result["files"]) == FILES
    assert not any(
        (finished.folder / stage / "checkpoints").exists() for stage in ("search", "train")
    )


def test_the_result_names_accuracies_cost_and_time(finished, result):
    assert result["recipe"] == "tiny" and result["finished"] is True
    assert result["genotype"] == Genotype.load(finished.folder / "genotype.json").id
    with open(finished.folder / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == TEST_IMAGES == result["test"]["examples"]
    correct = sum(row["label"] == row["prediction"] for row in rows)
    assert result["test_accuracy"] == pytest.approx(correct / TEST_IMAGES)
    last = read_lines(finished.folder / "train" / "metrics.jsonl")[-1]
    assert result["validation_accuracy"] == last["val_accuracy"]
    assert result["cost"]["binary_macs"] > 0 and result["cost"]["bytes"] > 0
    stages = result["seconds"]
    assert set(stages) == {"search", "train", "evaluate", "export"}
    assert result["wall_seconds"] == pytest.approx(sum(stages.values()), abs=0.05)


def test_metrics_hold_one_line_per_epoch_with_what_the_search_logs(finished):
    search = read_lines(finished.folder / "search" / "metrics.jsonl")
    train = read_lines(finished.folder / "train" / "metrics.jsonl")
    alphas = read_lines(finished.folder / "search" / "alphas.jsonl")
    for rows in (search, train, alphas):
        assert [row["epoch"] for row in rows] == list(range(12))
    wanted = {"loss", "accuracy", "alpha_loss", "alpha_accuracy", "entropy", "diversity_weight"}
    assert wanted | {"share_none", "share_bin_conv_3x3", "seconds", "val_accuracy"} <= set(
        search[0]
    )
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"} <= set(train[0])
    for kind in ("normal", "reduce"):
        assert len(alphas[0][kind]) == 2 + 3 and len(alphas[0][kind][0]) == 7
    # λ·exp(−t/τ) falls, and α move.
    assert search[-1]["diversity_weight"] < search[0]["diversity_weight"] == 1.0
    assert alphas[-1]["normal"] != alphas[0]["normal"]


def test_the_recipe_in_the_folder_is_resolved_and_gives_the_same_recipe_again(finished, tiny):
    values = yaml.safe_load((finished.folder / "recipe.yaml").read_text())
    assert values["name"] == "tiny" and values["search"]["entropy_tau"] == 7.7
    assert load_recipe(finished.folder / "recipe.yaml") == load_recipe(tiny)


def test_the_network_is_described_for_those_who_use_its_weights(finished):
    network = read_json(finished.folder / "network.json")
    assert network["class_names"] == list("0123456789")
    assert network["config"]["input_shape"] == [8, 8, 3] and network["config"]["channels"] == 4
    assert len(network["normalization"]["mean"]) == len(network["normalization"]["std"]) == 3
    assert network["data"]["sizes"] == {"train": 180, "validation": 20, "test": TEST_IMAGES}


def test_the_exported_file_agrees_with_keras_and_lists_its_precisions(finished, result):
    content = (finished.folder / "model.tflite").read_bytes()
    assert result["export"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert result["export"]["bytes"] == len(content)
    assert result["export"]["parity"]["images"] == 8
    assert result["export"]["parity"]["equal_predictions"] == 1.0
    report = read_json(finished.folder / "export.json")
    names = {row["name"] for row in report["convolutions"] if not row["binary"]}
    assert names == set(report["not_binary_because"])


def test_later_commands_answer_from_the_folder(in_one_process, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    before = {name: (folder / name).read_bytes() for name in ("predictions.csv", "model.tflite")}
    (folder / "model.tflite").unlink()
    again, kept, exported = in_one_process(
        [
            ["run", folder / "recipe.yaml", "--out", folder, "--resume"],
            ["evaluate", folder],
            ["export", folder, "--overwrite"],
        ]
    )
    assert [done.code for done in (again, kept, exported)] == [0] * 3
    for stage in ("search", "train", "evaluate"):
        assert f"{stage}: already done" in again.err
    # The lost file is written again although its stage was done.
    assert "export: model.tflite" in again.err
    assert "evaluate: already done" in kept.err
    assert json.loads(kept.out) == read_json(finished.folder / "result.json")["test"]
    assert "export: model.tflite" in exported.err
    listed = exported.out.splitlines()
    assert listed[-1] == str(folder / "model.tflite")
    assert any(line.startswith("1 bit ") for line in listed)
    assert any(line.startswith("float ") and "stem" in line for line in listed)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_steps_one_by_one_give_the_network_of_the_whole_run(
    in_one_process, finished, tiny, tmp_path
):
    found, made = tmp_path / "found", tmp_path / "made"
    early, search, half, train, evaluate, export = in_one_process(
        [
            ["train", tiny, "--out", found],
            ["search", tiny, "--out", found],
            ["report", found],
            ["train", tiny, "--genotype", found / "genotype.json", "--out", made],
            ["evaluate", made],
            ["export", made],
        ]
    )
    # A training without a genotype leaves no folder behind, so the search can take its place.
    assert early.code == 2 and early.err.startswith("Error: Training needs a genotype")
    assert search.code == 0 and search.out == f"{found / 'genotype.json'}\n"
    assert half.code == 0
    assert "unfinished; stages done: search" in (found / "report.html").read_text()
    assert read_json(found / "result.json")["finished"] is False
    assert read_json(found / "result.json")["test_accuracy"] is None
    assert train.code == 0 and train.out == f"{made / 'weights.h5'}\n"
    assert evaluate.code == 0 and export.code == 0
    for name in ("genotype.json", "predictions.csv", "model.tflite"):
        assert (made / name).read_bytes() == (finished.folder / name).read_bytes(), name
    assert json.loads(evaluate.out) == read_json(finished.folder / "result.json")["test"]
    assert read_json(made / "result.json")["finished"] is True
    assert not (made / "search").exists()


def test_the_weights_file_holds_binary_networks_latent_weights(finished):
    with h5py.File(finished.folder / "weights.h5") as file:
        assert "classifier" in file and "stem_conv" in file


# -- what searches are given -----------------------------------------------------------------------


@pytest.fixture
def workflow(tiny, tmp_path):
    """A run of `tiny` with other settings, ready to search."""

    def make(name="run", stages=("search",), seed=0, network=(), **search):
        values = yaml.safe_load(tiny.read_text())
        values |= {"seed": seed, "search": values["search"] | search}
        values["network"] |= dict(network)
        return Run.create(parse_recipe(values), tmp_path / name, stages=stages)

    return make


def test_credit_has_a_fixed_order_that_mixes_the_classes(workflow):
    """Also of images that are stored class by class, as those of a folder are."""
    labels = np.repeat(np.arange(2), 600)
    images = np.broadcast_to(labels[:, None, None, None], (1200, 8, 8, 3)).astype(np.uint8)

    def credit(name, **settings):
        inputs = workflow(name, limit=None, **settings).inputs
        inputs.data = dataclasses.replace(inputs.data, train=InMemoryExamples(images, labels))
        passes = inputs.search_data().credit
        orders = [[batch.numpy().tolist() for _, batch in passes] for _ in range(2)]
        assert orders[0] == orders[1]
        pictures = np.concatenate([batch.numpy()[:, 0, 0, 0] > 0 for batch, _ in passes])
        assert pictures.tolist() == [bool(label) for batch in orders[0] for label in batch]
        return orders[0]

    found = credit("one")
    # Equal batches of up to 250; 5 deviations of a fair draw are 7·5 images.
    assert [len(batch) for batch in found] == [200, 200, 200]
    assert all(abs(np.mean(batch) - 0.5) < 36 / len(batch) for batch in found)
    assert sorted(sum(found, [])) == [0] * 300 + [1] * 300
    assert credit("again") == found
    assert credit("other", seed=1) != found


def test_a_search_by_keras_tuner_has_nothing_to_do_with_a_supernet(workflow, monkeypatch, capsys):
    """Trials have the size of the network; a supernet's settings are refused."""
    with pytest.raises(RecipeError, match="only what its run reads. Received: search.cells 1. "):
        workflow("refused", searcher="tuner")
    defaults = {key: field.default for key, field in SearchSettings.model_fields.items()}
    network = {"cells": 2, "channels": 6}
    made = workflow(network=network, **{**defaults, "searcher": "tuner"})
    calls = []

    class Searcher:
        def run(self, data, **arguments):
            calls.append((data, arguments["provenance"]))
            return SearchResult(Genotype.published("bnas_imagenet"), 1, 0.5)

    monkeypatch.setattr("bnas_larq.run.recipe_run.make_searcher", lambda *_: Searcher())
    made.search()
    ((data, provenance),) = calls
    assert data is None
    assert (provenance["cells"], provenance["channels"], provenance["epochs"]) == (2, 6, 10)
    assert "convolutions in" not in capsys.readouterr().err
    assert not list((made.folder / "search").glob("*precision*"))
