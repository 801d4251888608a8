"""A one-shot search of a recipe, from images to pictures: tiny cells on the digits."""

from __future__ import annotations

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.files import read_lines
from bnas_larq.recipe import parse_recipe
from bnas_larq.report.pictures import save_pictures
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.recipe_run import Run
from bnas_larq.run.searchers import check_inputs
from bnas_larq.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("small_spaces")
SEARCH = {
    **{"searcher": "one-shot", "space": "tiny", "cells": 1, "channels": 4, "epochs": 1},
    **{"batch_size": 40, "one_shot": {"population": 3, "generations": 1, "parents": 2}},
}
DATA = {"name": "digits", "limit": 440, "validation_fraction": 280 / 440}


def make_inputs(folder, data=(), **one_shot):
    search = {**SEARCH, "one_shot": {**SEARCH["one_shot"], **one_shot}}
    values = {"data": {**DATA, **dict(data)}, "search": search}
    recipe = parse_recipe({**values, "network": {"cells": 1, "channels": 4}})
    return RunInputs(RunFolder.create(folder, recipe.to_yaml()), recipe)


def test_from_images_to_pictures(tmp_path):
    run = Run(make_inputs(tmp_path / "run"))
    run.search()
    rows = read_lines(tmp_path / "run" / "search" / "trials.jsonl")
    assert len(rows) == 3 and all(row["accuracy"] * 280 % 1 == pytest.approx(0) for row in rows)
    assert run.genotype.id in {row["genotype"] for row in rows}
    assert run.genotype.provenance["measured"] == 3
    drawn = {path.name for path in save_pictures(tmp_path / "run")}
    assert {"search_curves.png", "pareto.png", "cell_normal.png"} <= drawn


def test_the_whole_training_part_trains_and_held_out_images_measure(tmp_path):
    inputs = make_inputs(tmp_path / "run")
    data = inputs.search_data()
    assert data.weights.steps_per_epoch == inputs.search_steps_per_epoch() == 160 // 40
    assert data.alphas is None and data.validation is None
    # Two equal batches instead of 250 images and 30, whose statistics would be poor.
    assert [len(labels) for _, labels in data.credit] == [140, 140]
    few = make_inputs(tmp_path / "few", examples=50).search_data()
    assert [len(labels) for _, labels in few.credit] == [50]


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"data": {"validation_fraction": 0}}, "data.validation_fraction 0. Use 0.1"),
        ({"maximum_ops": 10}, "maximum_ops 10.0, which 0 different cells of 3 .* random cells"),
    ],
)
def test_what_would_stop_the_search_is_found_before(tmp_path, changes, received):
    with pytest.raises(RecipeError, match=f"Received: .*{received}"):
        check_inputs(make_inputs(tmp_path / "run", **changes), ("search",))
