"""`bnas-larq run` of an ablation on the digits: rows changed step by step at equal operations."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import pytest

from bnas_larq.backend import keras
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError, DataError, GenotypeError, RecipeError
from bnas_larq.files import read_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import config_of_kind
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.run.ablation import Ablation, row_recipes
from bnas_larq.run.face_study import FaceStudy

ABLATION = """\
data: {name: digits, limit: 100, validation_fraction: 0.0}
genotype: random:two-nodes:8
network: {cells: 1, channels: 4}
train: {epochs: 1, batch_size: 50, optimizer: adam, schedule: cosine, drop_path: 0.1,
        mixed_precision: auto}
export: {enabled: false}
ablation:
  seeds: [0, 1]
  tolerance: 0.2
  rows:
    - name: base
    - name: no-reg
      changes: {train: {drop_path: 0.0, weight_decay: 0.0}}
    - name: linear
      operations: {bin_dil_conv_3x3: bin_conv_3x3_linear}
"""
NAMES = [f"{row}-seed{seed}" for seed in (0, 1) for row in ("base", "no-reg", "linear")]


def values(**changes):
    return {
        "genotype": "bnas_cifar",
        "ablation": {"rows": [{"name": "a"}, {"name": "b"}]},
    } | changes


@pytest.fixture(scope="module")
def ablation(in_one_process, tmp_path_factory):
    """The folder of a finished ablation, and how its second run ended."""
    root = tmp_path_factory.mktemp("ablation")
    (root / "ablation.yaml").write_text(ABLATION)
    arguments = ("run", root / "ablation.yaml", "--out", root / "out")
    first, again = in_one_process([arguments, [*arguments, "--resume"]])
    assert first.code == 0, first.err
    return root / "out", again


def test_rows_keep_the_changes_of_those_before(ablation):
    folder, again = ablation
    assert sorted(path.name for path in (folder / "networks").iterdir()) == sorted(NAMES)
    linear = load_recipe(folder / "networks" / "linear-seed1" / "recipe.yaml")
    assert (linear.seed, linear.train.drop_path, linear.train.weight_decay) == (1, 0.0, 0.0)
    assert load_recipe(folder / "networks" / "base-seed1" / "recipe.yaml").train.drop_path == 0.1
    operations = Genotype.load(linear.genotype).operations
    assert "bin_conv_3x3_linear" in operations and "bin_dil_conv_3x3" not in operations
    assert all(
        f"network {n}/6, {name}: already done" in again.err for n, name in enumerate(NAMES, 1)
    )


def test_all_networks_compute_in_the_precision_that_was_measured_once(ablation):
    folder, _ = ablation
    recipes = [load_recipe(folder / "networks" / name / "recipe.yaml") for name in NAMES]
    taken = {recipe.train.mixed_precision for recipe in recipes}
    assert taken == {read_json(folder / "precision.json")["name"]}


def test_all_rows_have_equal_operations(ablation):
    ops = {}
    for name in NAMES[:3]:
        stored = StoredNetwork.load(ablation[0] / "networks" / name)
        ops[name] = planned_costs(stored.genotype, stored.config).ops_honest
    assert ops["no-reg-seed0"] == ops["base-seed0"]
    assert abs(ops["linear-seed0"] / ops["base-seed0"] - 1) <= 0.2


def test_the_table_has_a_line_for_each_row(ablation):
    folder, again = ablation
    assert again.out.splitlines()[-1] == str(folder / "ablation.json")
    table = read_json(folder / "ablation.json")
    assert table["finished"] and [row["method"] for row in table["rows"]] == [
        "base",
        "no-reg",
        "linear",
    ]
    assert all(row["test_accuracy"]["n"] == 2 for row in table["rows"])
    with open(folder / "ablation.csv", newline="") as stream:
        assert [row["finished"] for row in csv.DictReader(stream)] == ["2", "2", "2"]
    assert "no-reg: train.drop_path 0.0; train.weight_decay 0.0. 4 channels." in table["notes"]
    assert (
        "search time" not in again.out and "search time" not in (folder / "ablation.md").read_text()
    )
    for picture in ("ablation.png", "ablation_curves.png"):
        assert (folder / picture).stat().st_size > 5000


def test_no_width_with_equal_operations(tmp_path):
    """At the smallest sizes a channel more or less is a large step."""
    recipe = parse_recipe(
        {
            "data": {"name": "digits", "limit": 100},
            "genotype": "bnas_imagenet",
            "network": {"cells": 1, "channels": 4},
            "train": {"batch_size": 10},
            "ablation": {
                "tolerance": 1e-6,
                "rows": [
                    {"name": "a"},
                    {"name": "b", "operations": {"bin_conv_3x3": "bin_conv_5x5"}},
                ],
            },
        }
    )
    with pytest.raises(BnasLarqError, match="have equal operations.*Raise ablation.tolerance"):
        Ablation.create(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_row_is_checked_before_the_first_one_trains(tmp_path):
    rows = [{"name": "a"}, {"name": "b", "changes": {"train": {"batch_size": 100_000}}}]
    recipe = parse_recipe(
        {
            "data": {"name": "digits", "limit": 100},
            "genotype": "bnas_imagenet",
            "network": {"cells": 1, "channels": 4},
            "train": {"batch_size": 10},
            "ablation": {"rows": rows},
        }
    )
    with pytest.raises(DataError, match="batch size 100000"):
        Ablation.create(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_callbacks_are_those_of_each_network(tmp_path):
    """A study of faces, whose networks `fit` does not train, refuses them."""
    recipe = parse_recipe(
        {
            "data": {"name": "digits", "limit": 100},
            "genotype": "bnas_imagenet",
            "network": {"cells": 1, "channels": 4},
            "train": {"batch_size": 10},
            "ablation": {"rows": [{"name": "a"}, {"name": "b"}]},
        }
    )
    callback = keras.callbacks.Callback()
    with contextlib.closing(Ablation.create(recipe, tmp_path, callbacks=[callback])) as ablation:
        for _ in range(2):
            with ablation._open("b-seed0") as run:
                assert run.callbacks == (callback,)
    with pytest.raises(RecipeError, match="Received: callbacks. Omit it."):
        FaceStudy.create(load_recipe("faces-orl"), tmp_path / "faces", callbacks=[callback])


def test_residual_networks_keep_their_proportions(tmp_path):
    """Two convolutions a block cost more: at equal operations all widths shrink alike."""
    recipe = parse_recipe(
        {
            "data": {"name": "digits", "limit": 100},
            "network": {"kind": "residual", "widths": [30, 60], "blocks": [2, 2]},
            "train": {"batch_size": 10},
            "ablation": {
                "tolerance": 0.1,
                "rows": [
                    {"name": "a", "changes": {"network": {"scheme": "react"}}},
                    {"name": "b", "changes": {"network": {"block_convolutions": 2}}},
                ],
            },
        }
    )
    ablation = Ablation.create(recipe, tmp_path / "out")
    first, second = (ablation.recipe_of(f"{row}-seed0").network for row in "ab")
    assert first.widths == (30, 60) and first.scheme == second.scheme == "react"
    narrow, wide = second.widths
    assert wide == 2 * narrow < 2 * 30
    data = ablation.study.inputs.data
    images = {"input_shape": data.image_shape, "num_classes": data.num_classes}
    one, two = (
        planned_costs(None, config_of_kind("residual", {**part.model_dump(), **images})).ops_honest
        for part in (first, second)
    )
    assert two == pytest.approx(one, rel=0.1)
    ablation.close()


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        (
            {
                "train": {"batch_size": 50, "teacher": {"model": "runs/not-there"}},
                "ablation": {"rows": [{"name": "a"}, {"name": "b"}]},
            },
            BnasLarqError,
            "runs/not-there",
        ),
        ({"genotype": None}, RecipeError, "no genotype"),
        ({"ablation": {"rows": [{"name": "a"}] * 2}}, RecipeError, "named once"),
        ({"ablation": {"rows": [{"name": "a"}]}}, RecipeError, "at least 2"),
        (
            {"ablation": {"rows": [{"name": "a", "changes": {"data": {}}}, {"name": "b"}]}},
            RecipeError,
            "share data",
        ),
        (
            {"ablation": {"rows": [{"name": "a", "changes": {"trian": {}}}, {"name": "b"}]}},
            RecipeError,
            "did you mean 'train'",
        ),
        (
            {
                "ablation": {
                    "rows": [
                        {"name": "a", "changes": {"network": {"kind": "residual"}}},
                        {"name": "b"},
                    ]
                }
            },
            RecipeError,
            "networks of cells, or none has",
        ),
        (
            {
                "genotype": None,
                "network": {"kind": "residual"},
                "ablation": {"rows": [{"name": "a", "operations": {"none": "x"}}, {"name": "b"}]},
            },
            RecipeError,
            "no operations to replace",
        ),
        (
            {
                "ablation": {
                    "rows": [{"name": "a", "operations": {"identity": "none"}}] + [{"name": "b"}]
                }
            },
            RecipeError,
            "not in g-",
        ),
        (
            {
                "ablation": {
                    "rows": [{"name": "a", "operations": {"none": "nothing"}}] + [{"name": "b"}]
                }
            },
            GenotypeError,
            "'nothing'",
        ),
    ],
)
def test_an_ablation_that_cannot_be_built(changes, error, part):
    with pytest.raises(error, match=part):
        row_recipes(parse_recipe(values(**changes)), Path("runs/ablation"))
