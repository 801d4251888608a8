"""Training plans: what stages say, what they share, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from bnas_larq.errors import RecipeError
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import load_recipe, override_recipe, parse_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.run.creation import override_texts
from bnas_larq.train_settings import FineTuneSettings, TrainSettings, TrainStage, training_plan


def plan_of(stages, **train):
    return parse_recipe({"train": {**train, "stages": stages}})


def test_stages_override_what_they_share():
    recipe = plan_of([{"kernels": "real", "epochs": 3}, {"learning_rate": 0.2}], epochs=9)
    first, second = recipe.plan
    assert (first.kernels, first.epochs, first.learning_rate) == ("real", 3, 0.05)
    assert (second.kernels, second.epochs, second.learning_rate) == (None, 9, 0.2)
    assert (first.start, second.start) == ("random", "previous")
    assert (first.name, second.name) == ("stage1", "stage2")


def test_a_stage_may_set_what_is_the_default():
    recipe = plan_of([{"clip_norm": None, "epochs": 600}], epochs=9, clip_norm=5.0)
    assert (recipe.plan[0].clip_norm, recipe.plan[0].epochs) == (None, 600)
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again.plan == recipe.plan and again == recipe
    assert yaml.safe_load(recipe.to_yaml())["train"]["stages"] == [
        {"epochs": 600, "clip_norm": None}
    ]


def test_stages_in_python_are_overrides():
    stages = [TrainStage(kernels="real", epochs=3), TrainStage(weight_decay={"head": 1e-4})]
    recipe = load_recipe("quickstart", override_texts({"train.stages": stages}))
    assert recipe.train.stages == tuple(stages)
    assert [stage.own_keys for stage in recipe.train.stages] == [
        {"kernels", "epochs"},
        {"weight_decay"},
    ]


def test_an_override_may_name_a_stage():
    recipe = plan_of([{"epochs": 3}, {"teacher": {"model": "x"}}])
    overrides = ["train.stages.0.epochs=4", "train.stages.1.teacher.weight=0.5"]
    first, second = override_recipe(recipe.model_dump(), overrides).plan
    assert (first.epochs, second.teacher.weight) == (4, 0.5)
    for wrong in ("train.stages.2.epochs=4", "train.stages.x.epochs=4", "train.stages.0=4"):
        with pytest.raises(RecipeError, match="name a key inside a section. Received:"):
            override_recipe(recipe.model_dump(), [wrong])


def test_a_recipe_without_stages_has_one():
    (stage,) = training_plan(TrainSettings(epochs=4))
    assert (stage.name, stage.start, stage.epochs, stage.freeze) == ("train", "random", 4, ())


def test_a_fine_tuning_is_a_plan_of_two_stages():
    train = TrainSettings(epochs=4, weight_decay=0.1)
    tuning = FineTuneSettings(entry="x", head_epochs=2, binary_multiplier=0.5)
    head, whole = training_plan(train, tuning)
    assert (head.name, head.start, head.epochs, head.optimizer) == ("head", "x", 2, "adam")
    assert head.freeze == ("*", "!classifier")
    assert (whole.name, whole.start, whole.epochs) == ("train", "previous", 4)
    assert (head.weight_decay, whole.binary_multiplier) == (0.1, 0.5)
    (only,) = training_plan(train, FineTuneSettings(entry="x", head_epochs=0))
    assert (only.start, only.epochs) == ("x", 4)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"start": "previous"}], "'train.stages' must be valid: .*the first stage has none"),
        ([{"name": "a"}, {"name": "a"}], "each stage needs a name of its own"),
        ([{"name": "stage2"}, {}], "each stage needs a name of its own"),
        ([{"name": "a"}, {"name": "epoch-1"}], "'train.stages.1.name' must be valid"),
        ([{"name": "../a"}], "'train.stages.0.name' must be valid"),
        ([{"epochs": 0}], "'train.stages.0.epochs' must be valid"),
        ([{"on": "all"}], "fixed keys. Received: 'train.stages.0.on'"),
        (
            [{"weight_decay": {"biases": 1}}],
            "Received: 'train.stages.0.weight_decay.biases'; did",
        ),
    ],
)
def test_stages_that_make_no_plan_are_refused(stages, message):
    with pytest.raises(RecipeError, match=message):
        plan_of(stages)


@pytest.mark.parametrize(
    ("stages", "train", "key"),
    [
        ([{}, {"momentum": 0.5}], {}, "train.stages.1.momentum 0.5"),
        ([{"restart_epochs": 5}, {"schedule": "cosine"}], {}, "train.stages.0.restart_epochs 5"),
        ([{"warmup": 0.1}], {}, "train.stages.0.warmup 0.1"),
        ([{}, {"schedule": "constant"}], {"restart_epochs": 5}, "train.restart_epochs 5"),
    ],
)
def test_a_key_that_its_stage_does_not_read_is_refused(stages, train, key):
    with pytest.raises(RecipeError, match=f"Received: {key}"):
        check_keys_are_read(plan_of(stages, **train))


@pytest.mark.parametrize(
    ("kernels", "stages", "train", "key"),
    [
        ("real", [], {"binary_multiplier": 0.5}, "train.binary_multiplier 0.5"),
        ("real", [{}, {"kernels": "real"}], {"binary_multiplier": 0.5}, "train.binary_multip"),
        ("binary", [{"kernels": "real"}], {"binary_multiplier": 0.5}, "train.binary_multiplier"),
        ("real", [{"binary_multiplier": 0.5}], {}, "train.stages.0.binary_multiplier 0.5"),
        (
            "binary",
            [{"kernels": "real", "binary_multiplier": 0.5}, {}],
            {},
            "train.stages.0.binary_multiplier 0.5",
        ),
    ],
)
def test_real_kernels_have_no_rate_of_binary_ones(kernels, stages, train, key):
    values = {"network": {"kernels": kernels}, "train": {**train, "stages": stages}}
    with pytest.raises(RecipeError, match=f"Received: {key}"):
        check_keys_are_read(parse_recipe(values))


@pytest.mark.parametrize(
    ("kernels", "stages"),
    [("binary", []), ("real", [{}, {"kernels": "binary"}]), ("binary", [{"kernels": "real"}, {}])],
)
def test_binary_kernels_of_one_stage_have_it(kernels, stages):
    train = {"binary_multiplier": 0.5, "stages": stages}
    check_keys_are_read(parse_recipe({"network": {"kernels": kernels}, "train": train}))


def test_a_fine_tuning_has_a_rate_of_its_own():
    values = {"train": {"binary_multiplier": 0.5}, "finetune": {"entry": "x"}}
    with pytest.raises(RecipeError, match="train.binary_multiplier 0.5. A fine-tuning has its"):
        check_keys_are_read(parse_recipe(values))


def test_a_shared_key_is_read_if_one_stage_reads_it():
    check_keys_are_read(plan_of([{}, {"schedule": "cosine"}], restart_epochs=5))


@pytest.mark.parametrize(
    "section",
    [
        {"finetune": {"entry": "x"}},
        {"layer_study": {}},
        {"search": {"searcher": "tuner"}},
    ],
)
def test_sections_that_train_otherwise_take_no_stages(section):
    with pytest.raises(RecipeError, match=f"train.stages and {next(iter(section))}"):
        check_plan(parse_recipe({"train": {"stages": [{}]}, **section}))
    check_plan(parse_recipe(section))


def test_a_tuner_draws_numbers():
    tuner = {"hyperparameters": {"weight_decay": [0.0, {"head": 0.1}]}}
    with pytest.raises(RecipeError, match="train.weight_decay is tuned as a number"):
        parse_recipe({"search": {"tuner": tuner}})
