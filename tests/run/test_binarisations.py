"""Each row of the study of binarisations trains by its own procedure, here for two steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bnas_larq.data.dataset import ImageDataset
from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.data.geometry import Geometry
from bnas_larq.files import read_lines
from bnas_larq.recipe import load_recipe
from bnas_larq.run.ablation import row_recipes, sized_rows
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.recipe_run import Run
from bnas_larq.run_folder import RunFolder

SMALL = (
    *("data.name=digits", "data.limit=16", "data.validation_fraction=0.0"),
    *("network.widths=[4, 8, 16]", "network.blocks=[1, 1, 1]", "train.batch_size=8"),
    *("train.epochs=1", "train.mixed_precision=float32", "train.reestimate_batch_norm=0"),
)
RECIPE = load_recipe("binarisations-cifar10", SMALL)


@pytest.fixture(scope="module")
def rows():
    """The recipe of each row."""
    return {name: recipe for name, recipe, _ in row_recipes(RECIPE, Path("runs"))}


@pytest.mark.parametrize(
    # The others train a scheme of these with another optimizer or rate.
    "name",
    [row.name for row in RECIPE.ablation.rows if not row.name.endswith(("-sgd", "-slow"))],
)
def test_two_steps_of_every_row(rows, name, tmp_path):
    """Some seconds each, most of them the graph of another training."""
    recipe = rows[name]
    stages = [stage.model_copy(update={"epochs": 1}) for stage in recipe.train.stages]
    train = recipe.train.model_copy(update={"stages": tuple(stages)})
    recipe = recipe.model_copy(update={"train": train})
    with Run.create(recipe, tmp_path / "run", stages=("train",)) as run:
        run.train()
        assert run.cost["binary_macs"] > 0
    epochs = read_lines(tmp_path / "run" / "train" / "metrics.jsonl")
    assert len(epochs) == len(recipe.plan)


@pytest.mark.parametrize("name", ["binarisations-cifar10", "gap-cifar10"])
def test_the_rows_of_shipped_studies_find_their_sizes(name, tmp_path):
    """In images of CIFAR-10's size."""
    part = InMemoryExamples(np.zeros((256, 32, 32, 3), np.uint8), np.arange(256) % 10)
    data = ImageDataset(
        "toys", tuple("abcdefghij"), (32, 32, 3), part, None, part, Geometry((32, 32))
    )
    recipe = load_recipe(name)
    sized = sized_rows(RunInputs(RunFolder(tmp_path), recipe, data))
    assert [name for name, _, _ in sized] == [row.name for row in recipe.ablation.rows]


def test_the_rows_of_procedures_have_their_stages(rows):
    starts = {name: [stage.start for stage in recipe.plan] for name, recipe in rows.items()}
    assert {name: own for name, own in starts.items() if own != ["random"]} == {
        "react-two-stages": ["random", "previous"],
        "real-to-binary-stages": ["random", "previous", "previous"],
        "bi-real-stages": ["random", *["previous"] * 5],
        "abc-net-two-stages": ["random", "previous"],
        "binary-duo": ["random", "decoupled"],
    }


def test_every_row_sees_the_images_equally_often():
    """Of the study as it ships, whose epochs the other tests shorten."""
    rows = row_recipes(load_recipe("binarisations-cifar10"), Path("runs"))
    assert {sum(stage.epochs for stage in recipe.plan) for _, recipe, _ in rows} == {20}
