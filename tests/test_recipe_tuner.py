"""What a recipe may let keras-tuner vary."""

from __future__ import annotations

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.recipe import Recipe, parse_recipe


def tuned(hyperparameters) -> Recipe:
    return parse_recipe({"search": {"tuner": {"hyperparameters": hyperparameters}}})


def test_values_get_the_types_of_the_section_train():
    # YAML 1.1 reads 1e-4 as text.
    recipe = tuned(
        {
            "learning_rate": {"min": "1e-4", "max": 1, "log": True},
            "batch_size": {"min": 16, "max": 64},
            "weight_decay": [0, "1e-5"],
            "clip_norm": [None, 5],
            "optimizer": ["sgd", "adam"],
        }
    )
    found = recipe.search.tuner.hyperparameters
    assert found == {
        "learning_rate": {"min": 1e-4, "max": 1.0, "log": True},
        "batch_size": {"min": 16, "max": 64, "log": False},
        "weight_decay": [0.0, 1e-5],
        "clip_norm": [None, 5.0],
        "optimizer": ["sgd", "adam"],
    }
    assert type(found["batch_size"]["min"]) is int and type(found["learning_rate"]["max"]) is float
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"learning_rat": [0.1]}, "'learning_rat' cannot be tuned.*did you mean 'learning_rate'"),
        ({"epochs": [1, 2]}, "'epochs' cannot be tuned, only keys of train except epochs"),
        ({"optimizer": ["sgd", "lion"]}, "train.optimizer cannot be 'lion'"),
        ({"optimizer": []}, "'optimizer' needs choices without repetition"),
        ({"batch_size": [32, 32]}, "'batch_size' needs choices without repetition"),
        ({"batch_size": {"min": 32}}, "needs choices or a range {min: …, max: …, log: true|false}"),
        ({"batch_size": {"min": 16, "max": 64, "step": 16}}, "needs choices or a range {min: …"),
        ({"batch_size": {"min": 0, "max": 64}}, "train.batch_size cannot be 0"),
        ({"learning_rate": {"min": 0.1, "max": 0.01}}, "min below max"),
        ({"weight_decay": {"min": 0, "max": 1, "log": True}}, "min above 0 if log is true"),
    ],
)
def test_what_cannot_be_tuned_is_refused(hyperparameters, message):
    with pytest.raises(RecipeError, match=message) as caught:
        tuned(hyperparameters)
    assert "'search.tuner.hyperparameters' must be valid" in str(caught.value)


@pytest.mark.parametrize("trials", [10, 20])
def test_an_evolution_has_more_trials_than_its_population(trials):
    with pytest.raises(RecipeError, match=f"trials is {trials}, population 20"):
        parse_recipe({"search": {"tuner": {"oracle": "evolution", "trials": trials}}})
    parse_recipe({"search": {"tuner": {"oracle": "random", "trials": trials}}})
