"""Recipes: YAML there and back, inheritance, overrides, and one sentence for whatever is wrong."""

from __future__ import annotations

import re

import pytest
import yaml

from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.errors import RecipeError
from bnas_larq.recipe import (
    Recipe,
    known_keys,
    load_recipe,
    override_recipe,
    parse_recipe,
)
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.resources import recipe_names
from bnas_larq.settings import CostTermSettings, SearchSettings
from bnas_larq.study_settings import AblationSettings, FacesSettings, LayerStudySettings
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import (
    FINE_TUNING,
    FineTuneSettings,
    TrainSettings,
    WeightDecay,
    training_plan,
)


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


# -- overrides -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("search.epochs=3", "search.epochs", 3),
        ("search.learning_rate=1e-3", "search.learning_rate", 0.001),
        ("search.learning_rate=.5", "search.learning_rate", 0.5),
        ("search.epochs=1e2", "search.epochs", 100),
        ("data.augmentation.flip=true", "data.augmentation.flip", True),
        ("data.augmentation.color_jitter=[0.4, 0.4, 0.4, 0.2]", None, (0.4, 0.4, 0.4, 0.2)),
        ("search.clip_norm=null", "search.clip_norm", None),
        ("search.clip_norm=", "search.clip_norm", None),
        ("seed=12", "seed", 12),
        ("genotype=random:3", "genotype", "random:3"),
        ("data.data_dir=/a=b", "data.data_dir", "/a=b"),
        (" search.epochs =3", "search.epochs", 3),
    ],
)
def test_overrides(override, key, value):
    place = load_recipe("quickstart", [override])
    for part in (key or "data.augmentation.color_jitter").split("."):
        place = getattr(place, part)
    assert place == value


def test_the_last_override_wins_and_others_stay():
    recipe = load_recipe("quickstart", ["search.epochs=3", "search.cells=2", "search.epochs=4"])
    assert (recipe.search.epochs, recipe.search.cells) == (4, 2)
    assert recipe.search.channels == load_recipe("quickstart").search.channels


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.epochs", "KEY=VALUE, such as search.epochs=3. Received: 'search.epochs'"),
        ("=3", "KEY=VALUE.* Received: '=3'"),
        ("", "KEY=VALUE.* Received: ''"),
        ("seed.x=3", r"a key inside a section. Received: 'seed.x=3'; 'seed' is a value"),
        ("seed=[1", r"value must be YAML. Received: 'seed=\[1'"),
        ("search.epoch=3", "Received: 'search.epoch'; did you mean 'epochs'"),
        ("serach.epochs=3", "Received: 'serach'; did you mean 'search'"),
        ("search.epochs=many", "'search.epochs' must be valid: .*integer.* Received: 'many'"),
        ("search=3", "'search' must be valid: .* Received: 3"),
        ("genotype=!!python/object/apply:os.getcwd []", "value must be YAML"),
    ],
)
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(RecipeError, match=message) as error:
        load_recipe("quickstart", ["seed=1", override])
    assert "\n" not in str(error.value)


def test_a_section_that_may_be_absent_is_made_by_an_override():
    assert Recipe().finetune is None
    recipe = override_recipe({"train": FINE_TUNING}, ["finetune.entry=x", "train.epochs=3"])
    assert recipe.finetune == FineTuneSettings(entry="x") and recipe.train.epochs == 3
    assert FINE_TUNING["epochs"] == 10, "overrides change a copy"


# -- refused ---------------------------------------------------------------------------------------


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
