"""Overrides of a recipe's values, `--set KEY=VALUE` on the command line."""

from __future__ import annotations

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.recipe import Recipe, load_recipe, override_recipe
from bnas_larq.train_settings import FINE_TUNING, FineTuneSettings


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


def test_an_override_reaches_the_stages_of_an_ablations_row():
    """As the comment in the recipe says."""
    recipe = load_recipe(
        "v2-ablation", ["ablation.rows.5.changes.train.stages.0.teacher.model=other"]
    )
    stages = recipe.ablation.rows[5].changes["train"]["stages"]
    assert [stage["teacher"]["model"] for stage in stages] == ["other", "teacher-cifar10"]


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
