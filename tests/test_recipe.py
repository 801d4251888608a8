"""Recipes: YAML there and back, inheritance, and one sentence for a file that is none."""

from __future__ import annotations

import pytest
import yaml

from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.errors import RecipeError
from bnas_larq.recipe import Recipe, known_keys, load_recipe, parse_recipe
from bnas_larq.resources import recipe_names
from bnas_larq.settings import CostTermSettings, SearchSettings
from bnas_larq.study_settings import AblationSettings, FacesSettings, LayerStudySettings
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import FineTuneSettings, TrainSettings, WeightDecay, training_plan


@pytest.fixture
def write(tmp_path):
    """Write a recipe file; returns its path."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


# -- values ----------------------------------------------------------------------------------------


def test_defaults_are_the_papers_settings():
    """FACTS §1: the search setting and the CIFAR-10 training of arXiv 2002.06963."""
    search, train = Recipe().search, Recipe().train
    assert (search.epochs, search.batch_size, search.cells, search.channels) == (50, 64, 8, 16)
    assert (search.learning_rate, search.minimum_learning_rate) == (0.025, 0.001)
    assert (search.momentum, search.weight_decay) == (0.9, 3e-4)
    assert (search.alpha_learning_rate, search.alpha_betas) == (3e-4, (0.5, 0.999))
    assert search.alpha_weight_decay == 1e-3
    assert (search.entropy_weight, search.entropy_tau, search.gamma) == (1.0, 7.7, 1.0)
    assert (train.epochs, train.batch_size, train.learning_rate) == (600, 256, 0.05)
    assert (train.optimizer, train.schedule, train.weight_decay) == ("sgd", "one-cycle", 3e-6)
    assert (train.drop_path, train.label_smoothing) == (0.2, 0.0)
    assert (Recipe().network.cells, Recipe().network.channels) == (20, 36)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name, write):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.strip().endswith(".") and "\n" not in recipe.description
    again = load_recipe(write(recipe.to_yaml()))
    assert again == recipe


def test_round_trip_of_a_recipe_with_every_kind_of_value(write):
    recipe = parse_recipe(
        {
            "name": "mine",
            "description": "grün: α, 'quotes' # and a hash",
            "seed": 7,
            "genotype": "random:3",
            "data": {
                "name": "folder",
                "data_dir": "/a b/c",
                "image_size": [32, 48],
                "augmentation": {"flip": True, "color_jitter": [0.4, 0.4, 0.4, 0.2]},
            },
            "search": {"learning_rate": 1e-9, "clip_norm": None, "select": "final"},
            "train": {"optimizer": "adam", "restart_epochs": 50},
            "finetune": {"entry": "an-entry", "sha256": "0a" * 32, "head_epochs": 0},
            "export": {"enabled": False},
        }
    )
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert recipe.data.image_size == (32, 48)
    assert recipe.data.augmentation.color_jitter == (0.4, 0.4, 0.4, 0.2)


def test_a_resolved_recipe_names_every_setting():
    train = TrainSettings(weight_decay=WeightDecay(), teacher=TeacherSettings(model="other"))
    stage = training_plan(train)[0].model_copy(update={"augmentation": AugmentationSettings()})
    whole = Recipe(
        train=train.model_copy(update={"stages": (stage,)}),
        search=SearchSettings(cost=CostTermSettings(target=1)),
        finetune=FineTuneSettings(entry="other"),
        layer_study=LayerStudySettings(),
        ablation=AblationSettings(rows=[{"name": "a"}, {"name": "b"}]),
        faces=FacesSettings(),
    )
    values = yaml.safe_load(whole.to_yaml())
    for key in known_keys():
        place = values
        for part in key.split("."):
            place = (place[0] if isinstance(place, list) else place)[part]


def test_known_keys_reach_into_sections():
    keys = known_keys()
    assert {"seed", "search.epochs", "data.augmentation.color_jitter"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_a_misspelt_key_in_a_list_of_sections():
    rows = [{"name": "a"}, {"name": "b", "chnages": {}}]
    with pytest.raises(RecipeError, match="'ablation.rows.1.chnages'; did you mean 'changes'"):
        parse_recipe({"ablation": {"rows": rows}})


def test_whatever_crops_originals_is_found():
    augmentation = {"augmentation": {"random_resized_crop": True}}
    stages = {"train": {"stages": [{}, augmentation]}}
    rows = {"rows": [{"name": "a"}, {"name": "b", "changes": stages}]}
    for values in ({"data": augmentation}, stages, {"ablation": rows}):
        assert parse_recipe(values).crops_originals
    rows["rows"][1]["changes"] = {"train": {"stages": [{"augmentation": {"flip": True}}]}}
    for values in ({}, {"data": {"augmentation": {"flip": True}}}, {"ablation": rows}):
        assert not parse_recipe(values).crops_originals


def test_recipes_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3


def test_a_number_without_a_point_is_a_number_in_a_file_too(write):
    path = write("search:\n  learning_rate: 1e-3\n  alpha_learning_rate: 3E-4\n")
    assert load_recipe(path).search.learning_rate == 0.001
    assert load_recipe(path).search.alpha_learning_rate == 0.0003


def test_a_file_is_named_after_itself(write):
    assert load_recipe(write("seed: 1\n", "birds.yaml")).name == "birds"
    assert load_recipe(write("name: owls\n", "birds.yml")).name == "owls"


# -- extends ---------------------------------------------------------------------------------------


def test_a_recipe_extends_a_shipped_one(write):
    base = load_recipe("quickstart")
    recipe = load_recipe(write("extends: quickstart\nsearch:\n  epochs: 1\n"))
    assert recipe.name == "mine"
    assert recipe.search == base.search.model_copy(update={"epochs": 1})
    assert recipe.train == base.train and recipe.description == base.description


def test_extends_reaches_through_files_beside_it_and_merges_deeply(write):
    write("seed: 5\ndata:\n  name: a\n  augmentation:\n    flip: true\n", "deep/oldest.yaml")
    write(
        "extends: oldest.yaml\ndata:\n  augmentation:\n    crop_padding: 4\nsearch:\n  cells: 3\n",
        "deep/older.yaml",
    )
    recipe = load_recipe(write("extends: deep/older.yaml\nsearch:\n  channels: 4\n"))
    assert recipe.seed == 5
    assert recipe.data.name == "a"
    assert (recipe.data.augmentation.flip, recipe.data.augmentation.crop_padding) == (True, 4)
    assert (recipe.search.cells, recipe.search.channels) == (3, 4)


def test_a_list_is_replaced_and_not_merged(write):
    write("name: base\nsearch:\n  alpha_betas: [0.1, 0.2]\n", "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\nsearch:\n  alpha_betas: [0.3, 0.4]\n"))
    assert recipe.search.alpha_betas == (0.3, 0.4)
    assert recipe.name == "mine"  # a name is never inherited


def test_a_circle_is_refused(write):
    own = write("extends: mine.yaml\n")
    write("extends: b.yaml\n", "a.yaml")
    path = write("extends: a.yaml\n", "b.yaml")
    for source in (own, path):
        with pytest.raises(
            RecipeError, match=r"cannot extend itself. Received: a cycle through .*yaml"
        ):
            load_recipe(source)


@pytest.mark.parametrize("parent", ["quickstrat", "gone.yaml", "3", "[a]", "{a: 1}"])
def test_a_parent_that_is_missing_is_refused(write, parent):
    with pytest.raises(RecipeError, match="Received: .*"):
        load_recipe(write(f"extends: {parent}\n"))


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["search: [", "a: b: c", "\t- x", "'", "&a [*b]", "search:\n  epochs: 1\n bad: 2", "\x00"],
)
def test_damaged_yaml_is_refused(write, text):
    with pytest.raises(
        RecipeError, match=r"must be readable YAML. Received: .*mine.yaml \("
    ) as error:
        load_recipe(write(text))
    assert "\n" not in str(error.value) and "Repair the file." in str(error.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [("seed: 1\ndata: {}\nseed: 2", "seed"), ("search:\n  epochs: 1\n  epochs: 2", "epochs")],
)
def test_a_key_that_stands_twice_is_refused(write, text, key):
    with pytest.raises(RecipeError, match=rf"the key '{key}' is repeated.*line 3.*Repair"):
        load_recipe(write(text))


def test_merged_keys_may_be_overridden(write):
    base = "search: &base\n  epochs: 1\n  cells: 3\n"
    text = "train:\n  <<: {epochs: 4, batch_size: 8}\n  epochs: 2\n"
    assert load_recipe(write(base + text)).train.epochs == 2


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecipeError, match="must be readable YAML"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a", "list"), ("3", "int")])
def test_yaml_of_something_else_is_refused(write, text, kind):
    message = f"YAML mapping of sections. Received: .*, which holds {kind}. See `bnas-larq recipes"
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(text))


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch [{path}]",
        "!!python/object/apply:os.system ['touch {path}']",
        "!!python/object/new:os.system ['touch {path}']",
        "!!python/name:os.system",
        "!!python/module:this",
        "!user-tag x",
    ],
)
def test_python_tags_are_refused_and_never_run(write, tmp_path, tag):
    target = tmp_path / "touched"
    path = write(f"name: {tag.format(path=target)}\n")
    with pytest.raises(
        RecipeError, match="must be readable YAML.*could not determine a constructor"
    ):
        load_recipe(path)
    assert not target.exists()


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="Received: 'quickstrat'; did you mean 'quickstart'"):
        load_recipe("quickstrat")


def test_a_missing_file_is_refused(tmp_path):
    message = "YAML file or a shipped name. Received: .*gone.yaml', which does not exist"
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "gone.yaml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="must be readable YAML"):
        load_recipe(tmp_path)
