"""A stage on smaller crops, from the recipe to the network that is stored."""

from __future__ import annotations

import pytest

from bnas_larq import Run
from bnas_larq.data import evaluation_dataset, load_dataset
from bnas_larq.errors import BnasLarqError, DataError, RecipeError
from bnas_larq.files import read_lines
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import parse_recipe
from bnas_larq.training.recipe_training import stage_config


def recipe_of(*stages, **sections):
    values = {
        "name": "crops",
        "data": {"name": "digits", "limit": 80},
        "network": {"kind": "residual", "widths": [4, 8], "blocks": [1, 1]},
        "train": {"epochs": 1, "batch_size": 16, "drop_path": 0.0, "stages": stages},
        "export": {"parity_images": 4},
    }
    return parse_recipe({**values, **sections})


def test_a_run_trains_on_crops_first_and_stores_a_network_of_whole_images(tmp_path):
    with Run.create(recipe_of({"name": "small", "crop_size": 6}, {}), tmp_path / "run") as run:
        run.run()
        assert run.network().input_shape == (None, 8, 8, 3)
        assert run.result["export"]["binary_convolutions"] == 2
    rows = read_lines(tmp_path / "run" / "train" / "metrics.jsonl")
    assert [row["stage"] for row in rows] == ["small", "stage2"]
    assert all(0 <= row["val_accuracy"] <= 1 for row in rows)


def test_its_network_is_the_same_but_for_the_images():
    recipe = recipe_of({"crop_size": 6}, {})
    whole = ResidualConfig(input_shape=(128, 128, 3), widths=(4, 8), blocks=(1, 1))
    small = stage_config(recipe.plan[0].model_copy(update={"crop_size": 64}), whole)
    assert small.input_shape == (64, 64, 3)
    # A stem chosen by the size of whole images stays, or weights would not pass on.
    assert whole.stem == small.stem == "imagenet"


def test_validation_looks_at_the_middle():
    data = load_dataset("digits", limit=80)
    images, _ = next(iter(evaluation_dataset(data.validation, 8, data.normalization())))
    middle, _ = next(
        iter(evaluation_dataset(data.validation, 8, data.normalization(), crop_size=4))
    )
    assert middle.shape == (8, 4, 4, 3)
    assert (middle.numpy() == images.numpy()[:, 2:6, 2:6]).all()


def test_impossible_crops_are_refused(tmp_path):
    teacher = {"teacher": {"model": "x"}, "crop_size": 6}
    with pytest.raises(RecipeError, match="looks at whole images. Received: teacher with crop_siz"):
        check_plan(recipe_of(teacher, {}))
    for stages, error, message in (
        (({"crop_size": 9}, {}), DataError, "crop_size 9 for 8×8"),
        (({}, {"crop_size": 6}), RecipeError, "{'crop_size': 6} in its stage 'stage2'"),
        (({"crop_size": 1}, {}), BnasLarqError, "Received: widths"),
    ):
        with (
            pytest.raises(error, match=message),
            Run.create(recipe_of(*stages), tmp_path / "x") as r,
        ):
            r.run()
