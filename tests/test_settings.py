"""Settings that no run can have are refused by name, before anything is allocated or opened."""

from __future__ import annotations

import os
import random

import pytest

from bnas_larq.costs.latency_tables import LatencyTable
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.spaces import MAX_NODES, SHORTCUTS


@pytest.mark.parametrize(
    "override",
    [
        *("search.cells=1000000000", "search.channels=1000000000", "search.epochs=1000000000"),
        *("network.cells=1000000000", "network.channels=1000000000", "search.batch_size=2000000"),
        *("train.epochs=1000000000", "train.batch_size=1000000000", "data.image_size=1000000000"),
        *("search.bandit.rounds=1000000000", "search.tuner.epochs=1000000000"),
        *("search.tuner.trials=1000000000", "search.tuner.workers=1000000000"),
        *("export.parity_images=1000000000", "data.augmentation.crop_padding=1000000000"),
    ],
)
def test_sizes_have_upper_limits(override):
    key = override.partition("=")[0]
    with pytest.raises(RecipeError, match=f"{key}' must be valid: .*less than or equal"):
        load_recipe("quickstart", [override])


def test_each_side_of_an_image_has_an_upper_limit():
    with pytest.raises(RecipeError, match="data.image_size' must be valid"):
        load_recipe("quickstart", ["data.image_size=[32, 1000000000]"])


@pytest.mark.parametrize(
    "override",
    [
        *("train.epochs=true", "search.cells=yes", "data.limit=true", "seed=true"),
        *("train.learning_rate=true", "search.alpha_betas=[true, 0.9]", "data.image_size=[8, on]"),
        *("search.order=true", "name=true", "train.clip_norm=false"),
    ],
)
def test_true_is_no_number(override):
    with pytest.raises(RecipeError, match=f"{override.partition('=')[0]}' must be valid: .*true"):
        load_recipe("quickstart", [override])


def test_flags_and_numbers_as_yaml_writes_them_stay():
    texts = ["data.augmentation.flip=true", "network.shortcut=no", "search.limit=1e3"]
    recipe = load_recipe("quickstart", [*texts, "train.learning_rate=1e-3", "train.clip_norm=5"])
    assert recipe.data.augmentation.flip and recipe.network.shortcut == "none"
    assert (recipe.search.limit, recipe.train.learning_rate) == (1000, 0.001)


@pytest.mark.parametrize("betas", ["[2, 3]", "[0.5, 1]", "[-0.1, 0.9]", "[.nan, 0.9]"])
def test_betas_are_decay_rates(betas):
    with pytest.raises(RecipeError, match="search.alpha_betas' must be valid"):
        load_recipe("quickstart", [f"search.alpha_betas={betas}"])


@pytest.mark.parametrize(
    "key", ["data.data_dir", "genotype", "data.name", "description", "search.scheme"]
)
@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"'])
def test_text_that_no_file_can_hold_is_refused(key, text):
    with pytest.raises(RecipeError, match=f"'{key}' must be valid: .*Unicode.*NUL"):
        load_recipe("quickstart", [f"{key}={text}"])


@pytest.mark.parametrize("values", [5, None, [], {1: 2}, {"seed": 10**400}, {"search": {2: 3}}])
def test_values_of_other_kinds_are_refused(values):
    with pytest.raises(RecipeError, match="must be valid"):
        parse_recipe(values)


@pytest.mark.parametrize(
    "override", ["search.epochs=2001-99-99", "seed=!!int x", "name.a.a.a.a.a=1", "a\0b", "=", "x=["]
)
def test_damaged_overrides_are_refused(override):
    with pytest.raises(RecipeError, match="An override"):
        load_recipe("quickstart", [override])


# -- files that a recipe names ---------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("parent", ["/dev/zero", "pipe", '"a\\0b"', "[1]", "5", "{a: 1}"])
def test_a_parent_is_a_regular_file_or_a_name(tmp_path, pipe, parent):
    (tmp_path / "child.yaml").write_text(f"extends: {parent}\n")
    with pytest.raises(RecipeError, match="recipe"):
        load_recipe(tmp_path / "child.yaml")


def test_chains_of_parents_end(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="at most 20 in a row. Received: '21.yaml' in"):
        load_recipe(tmp_path / "0.yaml")


def test_genotypes_and_tables_are_regular_files(pipe):
    for path in (pipe, "/dev/zero", "a\0b"):
        with pytest.raises(BnasLarqError, match="A genotype is a readable file"):
            Genotype.load(path)
        with pytest.raises(BnasLarqError, match="A latency table is a readable"):
            LatencyTable.load(path)


def test_a_recipe_of_random_bytes_is_a_sentence(tmp_path):
    generator = random.Random(0)
    for _ in range(50):
        (tmp_path / "r.yaml").write_bytes(generator.randbytes(100))
        with pytest.raises(RecipeError):
            load_recipe(tmp_path / "r.yaml")


# -- genotypes -------------------------------------------------------------------------------------


def chain(nodes):
    return tuple((("bin_conv_3x3", node + 1),) for node in range(nodes))


def test_cells_have_an_upper_limit():
    assert len(Genotype(chain(MAX_NODES), chain(1)).normal) == MAX_NODES
    everything = tuple(
        tuple(("bin_conv_3x3", state) for state in range(2 + node)) for node in range(125)
    )
    for cell in (chain(60), everything):
        with pytest.raises(BnasLarqError, match="at most 32 nodes. Received: "):
            Genotype(cell, cell)


@pytest.mark.parametrize("seed", ["9" * 5000, "²", "-1", ""])
def test_random_genotypes_have_a_plain_seed(seed):
    with pytest.raises(BnasLarqError, match="SEED a number"):
        Genotype.load(f"random:{seed}")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "conv"), (False, "none"), *((kind, kind) for kind in (*SHORTCUTS, None))],
)
def test_shortcuts_have_a_kind_and_earlier_releases_had_switches(value, kind):
    assert parse_recipe({"search": {"shortcut": value}}).search.shortcut == kind
    if value is not None:
        assert parse_recipe({"network": {"shortcut": value}}).network.shortcut == kind


@pytest.mark.parametrize("section", ["search", "network"])
def test_other_shortcuts_are_refused(section):
    with pytest.raises(RecipeError, match="'conv', 'pool', 'depthwise' or 'none'.*'poool'"):
        parse_recipe({section: {"shortcut": "poool"}})
