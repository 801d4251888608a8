"""Keys of a recipe: what is misspelt or out of range, and what nothing would read."""

from __future__ import annotations

import re

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.recipe import known_keys, load_recipe, parse_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.resources import recipe_names


@pytest.mark.parametrize("key", known_keys())
def test_every_misspelt_key_is_answered_with_the_nearest(key):
    """Each known key with its second letter doubled, at its own level."""
    section, _, last = key.rpartition(".")
    wrong = last[:2] + last[1:]
    values = {wrong: 1}
    for part in reversed(section.split(".") if section else []):
        values = {part: [values] if part in ("stages", "rows") else values}
    full = re.sub("[.](stages|rows)[.]", r".\1.0.", f"{section}.{wrong}") if section else wrong
    message = f"fixed keys. Received: '{full}'; did you mean '{last}'"
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values)


def test_keys_of_another_section_are_no_hint():
    with pytest.raises(RecipeError) as error:
        parse_recipe({"export": {"epochs": 3}})
    known = "enabled, float_storage, parity_images"
    assert f"Received: 'export.epochs'; known: {known}." in str(error.value)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"search": {"epochs": 0}}, "search.epochs"),
        ({"search": {"epochs": 1.5}}, "search.epochs"),
        ({"search": {"learning_rate": -1}}, "search.learning_rate"),
        ({"search": {"learning_rate": float("nan")}}, "search.learning_rate"),
        ({"search": {"learning_rate": float("inf")}}, "search.learning_rate"),
        ({"search": {"channels": 1}}, "search.channels"),
        ({"search": {"select": "worst"}}, "search.select"),
        ({"search": {"alpha_betas": [0.5]}}, "search.alpha_betas"),
        ({"data": {"image_size": "big"}}, "data.image_size"),
        ({"data": {"image_size": [32, "x"]}}, "data.image_size"),
        ({"data": {"evaluation": "zoom"}}, "data.evaluation"),
        ({"data": {"crop_share": 0.5}}, "data"),
        ({"data": {"evaluation": "center-crop"}}, "data"),
        ({"data": {"validation_fraction": 1.0}}, "data.validation_fraction"),
        ({"data": {"augmentation": {"flip": 3}}}, "data.augmentation.flip"),
        ({"data": {"augmentation": {"color_jitter": [0.1]}}}, "data.augmentation.color_jitter"),
        ({"train": {"optimizer": "lion"}}, "train.optimizer"),
        ({"train": {"drop_path": 1}}, "train.drop_path"),
        ({"train": None}, "train"),
        ({"finetune": {}}, "finetune.entry"),
        ({"finetune": {"entry": "x", "sha256": "0a"}}, "finetune.sha256"),
        ({"finetune": {"entry": "x", "head_epochs": -1}}, "finetune.head_epochs"),
        ({"finetune": {"entry": "x", "binary_multiplier": -0.1}}, "finetune.binary_multiplier"),
        ({"seed": -1}, "seed"),
        ({"name": 3}, "name"),
    ],
)
def test_impossible_values_are_refused_by_their_key(values, key):
    with pytest.raises(
        RecipeError, match=rf"A recipe's '{key}(\.\d)?' must be valid: .* Received: "
    ):
        parse_recipe(values)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["train.momentum=0.8"], "train.momentum"),
        (["train.momentum=0.8", "train.schedule=cosine", "train.optimizer=adam"], "train.momentum"),
        (["train.restart_epochs=5"], "train.restart_epochs"),
        (
            ["network.activations=clip", "network.activation_gradient=approx"],
            "network.activation_gradient",
        ),
        (["network.activations=relu", "network.activation_clip=2"], "network.activation_clip"),
        (["search.temperature=[5.0,1.0]"], "search.temperature"),
        (["search.temperature_decay=exponential"], "search.temperature_decay"),
        (["search.entropy_weight=0", "search.entropy_tau=3"], "search.entropy_tau"),
        (["search.gamma=3", "search.zeroise_competes=false"], "search.gamma"),
        (["layer_study={}", "export.float_storage=int8"], "export.float_storage"),
        (["search.bandit.rounds=1"], "search.bandit.rounds"),
        (["search.one_shot.population=20"], "search.one_shot.population"),
        (["search.choice_examples=100"], "search.choice_examples"),
        (["search.choice=perturbation", "search.select=final"], "search.select"),
        (["search.choice=perturbation", "search.gamma=3"], "search.gamma"),
        (["search.searcher=bandit", "search.choice=perturbation"], "search.choice"),
        *(
            (["search.searcher=one-shot", f"search.{key}={value}"], f"search.{key}")
            for key, value in (
                ("alpha_learning_rate", 0.1),
                ("relaxation", "concrete"),
                ("entropy_tau", 3),
                ("gamma", 3),
                ("channel_proportion", 2),
                ("alarms", "{action: stop}"),
                ("cost", "{target: 1}"),
            )
        ),
        (["search.searcher=bandit", "search.bandit.exploration=2"], "search.bandit.exploration"),
        (["search.tuner.trials=9", "search.tuner.population=3"], "search.tuner.trials"),
        (["search.searcher=one-shot", "search.tuner.workers=2"], "search.tuner.workers"),
        (["search.tuner.hyperparameters={momentum: [0.8, 0.9]}"], "search.tuner.hyperparameters"),
        (
            ["search.searcher=tuner", "search.tuner.oracle=random", "search.tuner.sample=3"],
            "search.tuner.sample",
        ),
        *(
            (["search.searcher=tuner", f"search.{key}={value}"], f"search.{key}")
            for key, value in (
                *(("epochs", 3), ("cells", 3), ("learning_rate", 0.1), ("momentum", 0.5)),
                *(("order", 2), ("relaxation", "concrete"), ("entropy_weight", 0)),
                *(("shortcut", "none"), ("channel_proportion", 2), ("select", "final")),
            )
        ),
        *(
            (
                [
                    "search.searcher=bandit",
                    "search.bandit.finish_epochs=0",
                    f"search.{key}={value}",
                ],
                f"search.{key}",
            )
            for key, value in (
                *(("relaxation", "concrete"), ("alpha_learning_rate", 0.1), ("order", 2)),
                *(("entropy_weight", 0), ("entropy_tau", 3), ("select", "final")),
            )
        ),
        (
            ["search.searcher=tuner", "search.tuner.hyperparameters={momentum: [0.8, 0.9]}"],
            "train.momentum",
        ),
    ],
)
def test_a_key_that_would_change_nothing_is_refused(overrides, key):
    recipe = load_recipe("bnas", overrides)
    with pytest.raises(RecipeError, match=re.escape(f"only what its run reads. Received: {key} ")):
        check_keys_are_read(recipe)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"layer_study": {}, "ablation": {"rows": [{"name": "a"}, {"name": "b"}]}}, "ablation"),
        ({"layer_study": {}, "faces": {}}, "faces"),
        ({"faces": {}, "export": {"enabled": False}}, "export.enabled"),
    ],
)
def test_a_recipe_is_one_study(values, key):
    with pytest.raises(RecipeError, match=f"what its run reads. Received: {key} "):
        check_keys_are_read(parse_recipe(values))


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.momentum=0.8", "train.schedule=cosine", "train.restart_epochs=50"],
        ["network.activation_gradient=annealed", "network.activation_clip=2"],
        ["network.activations=clip", "network.activation_clip=2"],
        [
            *("network.activations=relu", "network.activation_gradient=approx"),
            *("network.activation_clip=2", "train.stages=[{epochs: 3}, {activations: sign}]"),
        ],
        ["search.relaxation=concrete", "search.temperature=[5.0,1.0]"],
        ["search.gamma=3", "search.entropy_tau=3"],
        ["search.searcher=bandit", "search.bandit.rounds=1"],
        ["search.searcher=one-shot", "search.one_shot.maximum_ops=1e7"],
        ["search.searcher=bandit", "search.bandit.finish_epochs=0", "search.gamma=3"],
        ["search.searcher=bandit", "search.relaxation=concrete", "search.channel_proportion=2"],
        [
            *("search.searcher=tuner", "search.zeroise_competes=false", "search.tuner.trials=30"),
            *("search.tuner.sample=3", "search.tuner.workers=2"),
        ],
    ],
)
def test_keys_that_are_read_are_accepted(overrides):
    check_keys_are_read(load_recipe("bnas", overrides))


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_set_only_what_they_read(name):
    check_keys_are_read(load_recipe(name))


def test_published_recipes_do_what_their_papers_do():
    """BNAS' networks train on all images, and cells for ImageNet are derived with γ = 3."""
    bnas, transfer = load_recipe("bnas"), load_recipe("bnas-transfer")
    assert bnas.train.on == transfer.train.on == "all"
    assert (bnas.search.gamma, transfer.search.gamma) == (1.0, 3.0)
    assert load_recipe("darts").data.validation_fraction == 0.0
