"""A residual network goes the way that networks of cells go: run, cost, zoo, fine-tuning."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from bnas_larq import Genotype, NetworkConfig, Run, planned_costs
from bnas_larq.errors import BnasLarqError, RecipeError, ZooError
from bnas_larq.files import read_json, sha256, write_json
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.comparison_plan import load_budget
from bnas_larq.run.deployment import lint_target
from bnas_larq.run.finetune_source import finetune_recipe
from bnas_larq.run.target_networks import cell_network, target_costs
from bnas_larq.run.targets import Kind, find_target
from bnas_larq.zoo import BNASD
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.publishing import publish_run

DATA = {"name": "digits", "limit": 50}
VALUES = {
    "name": "chain",
    "data": DATA,
    "network": {"kind": "residual", "widths": [4, 8], "blocks": [1, 2], "transition": "blur-conv"},
    "train": {"epochs": 1, "batch_size": 32, "drop_path": 0.1},
    "export": {"parity_images": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run. Read only."""
    path = tmp_path_factory.mktemp("runs") / "chain"
    with Run.create(parse_recipe(VALUES), path) as run:
        run.run()
    return path


@pytest.fixture(scope="module")
def entry(folder, tmp_path_factory):
    """The run as a zoo entry. Read only."""
    return publish_run(folder, "chain-digits", out=tmp_path_factory.mktemp("zoo"))


def test_a_run_has_no_genotype(folder):
    with Run.open(folder) as run:
        assert run.genotype is None and run.result["finished"]
        assert run.result["genotype"] is None
        assert run.cost["binary_macs"] == 9 * 4 * 4 * 8**2 + 2 * 9 * 8 * 8 * 4**2
        assert run.result["export"]["binary_convolutions"] == 3
    assert not (folder / "genotype.json").exists()
    assert "residual" in (folder / "report.html").read_text()


def test_an_entry_gives_the_same_network(folder, entry):
    assert (entry.genotype, entry.variant, entry.verify()) == (None, None, ())
    assert "genotype.json" not in entry.files
    assert entry.description.startswith("residual blocks 1+2 of 4+8 channels for digits, 1 epochs")
    assert "cifar stem; transition blur-conv, block_order sign-conv-act-bn-add" in entry.card
    assert "## Cells" not in entry.card and "genotype" not in entry.card
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    with Run.open(folder) as run:
        expected = run.network()(images)
    np.testing.assert_array_equal(entry.load_model()(images), expected)
    body = entry.load_model(include_top=False, pooling="avg")
    assert body.output_shape == (None, 8)


def test_an_entry_says_whether_it_has_a_genotype(entry, tmp_path):
    """A stranger's entry.json, which contradicts the network beside it."""
    copy = shutil.copytree(entry.folder, tmp_path / "copy")
    values = read_json(copy / "entry.json")
    write_json(copy / "entry.json", {**values, "genotype": "g-000000000000"})
    with pytest.raises(ZooError, match="an object that lists genotype.json"):
        Entry.load(copy)
    write_json(copy / "entry.json", {**values, "variant": "bnas-d"})
    with pytest.raises(ZooError, match="variants are made of cells"):
        Entry.load(copy)
    names, config = entry.class_names, NetworkConfig((8, 8, 3), channels=2, cells=1)
    StoredNetwork(copy, Genotype.published("bnas_cifar"), config, names, {}, {}).save()
    size = (copy / "network.json").stat().st_size
    values["files"]["network.json"] = {"sha256": sha256(copy / "network.json"), "bytes": size}
    write_json(copy / "entry.json", values)
    with pytest.raises(ZooError, match="must belong together. Received: None and g-"):
        Entry.load(copy).network  # noqa: B018


def test_costs_of_a_run(folder, entry):
    counted = target_costs(find_target(str(folder), (Kind.RUN,), "cost"))
    assert counted.size == "residual blocks 1+2 of 4+8 channels, 10 classes"
    with Run.open(folder) as run:
        assert counted.costs.bytes == run.cost["bytes"]
    larger = target_costs(find_target(entry.folder, (Kind.ENTRY,), "cost"), input_size=(16, 16))
    assert larger.costs.binary_macs == 4 * counted.costs.binary_macs
    assert planned_costs(None, entry.network.config).bytes == counted.costs.bytes
    assert lint_target(find_target(str(folder), (Kind.RUN,), "export")).dead == ()


def test_fine_tuning_keeps_the_blocks(entry, tmp_path):
    changes = {"data": {**DATA, "limit": 60}, "train": {"epochs": 1, "batch_size": 32}}
    changes["finetune"] = {"head_epochs": 1}
    recipe = finetune_recipe(entry.folder, changes)
    assert recipe.network.widths == (4, 8)
    with Run.create(recipe, tmp_path / "tuned", stages=("train",)) as run:
        run.train()
        blur = run.network().get_layer("transition1_blur").get_weights()
    np.testing.assert_array_equal(blur, entry.load_model().get_layer("transition1_blur").weights)


def test_what_needs_cells_is_refused(folder, tmp_path):
    recipe = parse_recipe(VALUES)
    with pytest.raises(RecipeError, match="Only networks of cells are searched. Received: network"):
        Run.create(recipe, tmp_path / "x", stages=("search",))
    with pytest.raises(RecipeError, match="genotype bnas_cifar. A residual network has no cells"):
        Run.create(recipe, tmp_path / "x", overrides={"genotype": "bnas_cifar"})
    with pytest.raises(RecipeError, match="network.cells 3. A residual network has no cells"):
        Run.create(recipe, tmp_path / "x", overrides={"network.cells": 3})
    with pytest.raises(RecipeError, match="network.widths .*Cells have no such blocks"):
        Run.create(recipe, tmp_path / "x", overrides={"network.kind": "cells"})
    with pytest.raises(ZooError, match="made of cells. Received: --variant bnas-d for residual"):
        publish_run(folder, "chain", variant="bnas-d", out=tmp_path)
    with pytest.raises(ZooError, match="A factory builds networks of cells. Received: residual"):
        BNASD(weights=folder)
    target = find_target(str(folder), (Kind.RUN,), "cost")
    with pytest.raises(BnasLarqError, match="Only networks made of cells .*, residual blocks"):
        cell_network(target)
    with pytest.raises(BnasLarqError, match="Only networks made of cells have cells"):
        target_costs(target, cells=3)
    with pytest.raises(RecipeError, match="A comparison trains networks of cells. Received: netw"):
        load_budget("compare-cifar10", ["network.kind=residual"])
