"""The plan of a comparison: one budget for all, and methods' own settings scaled to it."""

from __future__ import annotations

import pytest

from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import GenotypeError, RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.run.comparison import table_notes
from bnas_larq.run.comparison_plan import (
    BUDGET_KEYS,
    TEMPLATE_KEYS,
    load_budget,
    plan,
    plan_text,
)
from bnas_larq.run_records import Plan
from bnas_larq.spaces import SearchSpace

BUDGET = """\
data: {name: digits, limit: 200}
search: {cells: 3, channels: 8, epochs: 5, batch_size: 64}
network: {cells: 2, channels: 6}
train: {epochs: 3, optimizer: adam, schedule: cosine}
export: {enabled: false}
"""
#: PC-DARTS' own numbers (arXiv 1907.05737): 50 epochs, α from epoch 15 on, batch 256, rate 0.1.
PC_DARTS = """\
data: {name: folder, data_dir: /elsewhere}
search: {epochs: 50, batch_size: 256, learning_rate: 0.1, minimum_learning_rate: 0.0,
  alpha_learning_rate: 6.0e-4, alpha_start_epoch: 15, entropy_weight: 0.0, channel_proportion: 4,
  cells: 8, channels: 16}
network: {cells: 20}
train: {epochs: 600}
"""


@pytest.fixture
def write(tmp_path):
    """Write a recipe file; returns its path as text."""

    def write(name, text):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def budget(write):
    return write("small", BUDGET)


# -- runs ------------------------------------------------------------------------------------------


def test_the_budget_is_every_runs_and_the_rest_the_methods(write, budget):
    shared, runs = plan([write("pc", PC_DARTS)], budget, [0, 7], 1)
    assert [run.name for run in runs] == ["pc-seed0", "random-bnas-0", "pc-seed7"]
    recipe = runs[2].recipe
    for key in ("data", "network", "train", "export"):
        assert getattr(recipe, key) == getattr(shared, key), key
    assert recipe.seed == 7 and recipe.data.name == "digits" and recipe.train.epochs == 3
    search = recipe.search
    assert (search.cells, search.channels, search.epochs, search.batch_size) == (3, 8, 5, 64)
    assert (search.channel_proportion, search.entropy_weight) == (4, 0.0)
    assert (search.alpha_start_epoch, search.learning_rate) == (2, 0.025)


def test_the_budget_gives_all_its_keys_also_those_it_leaves_at_their_defaults(write, budget):
    method = write("m", "search: {limit: 100, mixed_precision: bfloat16, order: 2}\n")
    shared, runs = plan([method], budget, [0], 1)
    search = runs[0].recipe.search
    for key in BUDGET_KEYS:
        assert getattr(search, key) == getattr(shared.search, key), key
    assert search.limit is None and search.mixed_precision == "float32" and search.order == 2
    _, runs = plan([method], budget, [0], 1, ["search.limit=50"])
    assert runs[0].recipe.search.limit == 50


def test_a_runs_recipe_can_be_read_again(write, budget, tmp_path):
    _, runs = plan([write("pc", PC_DARTS)], budget, [3], 1)
    for run in runs:
        path = tmp_path / "again.yaml"
        path.write_text(run.recipe.to_yaml())
        assert load_recipe(path) == run.recipe


def test_random_genotypes_of_every_space_that_is_searched(write, budget):
    methods = [
        write("one", "search: {space: bnas}\n"),
        write("two", "search: {space: bnas-ucb}\n"),
        write("again", "search: {space: bnas-ucb, scheme: xnor}\n"),
        write("given", "genotype: bnas_cifar\n"),
    ]
    _, runs = plan(methods, budget, [4, 5], 3)
    randoms = [run for run in runs if run.method.startswith("random")]
    assert [run.recipe.genotype for run in randoms] == [
        f"random:{space}:{draw}" for draw in range(3) for space in ("bnas", "bnas-ucb")
    ]
    assert [run.seed for run in randoms] == [4, 4, 5, 5, 4, 4]
    assert {run.method for run in randoms} == {"random (bnas)", "random (bnas-ucb)"}
    # Seed by seed: an unfinished comparison has something of every method.
    assert [run.name for run in runs][:6] == [
        "one-seed4",
        "two-seed4",
        "again-seed4",
        "given-seed4",
        "random-bnas-0",
        "random-bnas-ucb-0",
    ]


def test_a_given_genotype_is_not_searched_and_its_search_not_adapted(write, budget):
    _, runs = plan([write("given", "genotype: bnas_cifar\n")], budget, [0], 1)
    assert runs[0].recipe.genotype == "bnas_cifar" and runs[0].adaptations == ()
    assert runs[1].recipe.genotype == "random:bnas:0"


def test_overrides_are_every_runs_and_win_over_the_scaling(write, budget):
    overrides = ("search.alpha_learning_rate=0.5", "train.epochs=9", "search.space=bnas-ucb")
    shared, runs = plan([write("pc", PC_DARTS)], budget, [0], 1, overrides)
    assert shared.train.epochs == 9 and all(run.recipe.train.epochs == 9 for run in runs)
    assert runs[0].recipe.search.alpha_learning_rate == 0.5
    assert "alpha_learning_rate" not in {entry.key for entry in runs[0].adaptations}
    assert runs[1].recipe.genotype == "random:bnas-ucb:0"


def test_the_plan_as_text_states_every_adapted_key(write, budget):
    text = plan_text(*plan([write("pc", PC_DARTS)], budget, [0], 1))
    assert "search.alpha_start_epoch 15 -> 2 (the same share of the epochs, rounded)" in text
    assert "search.learning_rate 0.1 -> 0.025" in text
    assert "random (bnas): no search; genotype random:bnas:0" in text


def test_the_plan_as_text_lists_what_of_a_method_is_not_used(write, budget):
    """Only what the recipe or one that it extends says, and where the budget says otherwise."""
    write("base", PC_DARTS.replace("{cells: 20}", "{cells: 20, scheme: xnor, channels: 6}"))
    text = "extends: base.yaml\ndata: {augmentation: {flip: true, crop_padding: 0}}\n"
    method, plain = write("m", text), write("plain", "{}\n")
    shared, runs = plan([method, plain], budget, [0], 1)
    expected = (
        "data.name folder",
        "data.data_dir /elsewhere",
        "data.augmentation.flip True",
        "network.cells 20",
        "network.scheme xnor",
        "train.epochs 600",
    )
    assert runs[0].unused == expected and runs[1].unused == ()
    lines = plan_text(shared, runs).splitlines()
    assert [line for line in lines if "not used" in line] == [
        f"  not used, the budget's count: {', '.join(expected)}"
    ]
    # What --set gives to all is the budget's.
    _, runs = plan([method], budget, [0], 1, ["network.scheme=xnor"])
    assert "network.scheme xnor" not in runs[0].unused


def test_random_genotypes_within_bounds_of_operations(write, budget):
    """The first draws of each space whose final networks have so many operations."""
    given = [write("given", "genotype: bnas_cifar\n")]
    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=10, cells=2, channels=6)
    drawn = [Genotype.random(SearchSpace.bnas(), seed) for seed in range(6)]
    costs = [planned_costs(genotype, config).ops_honest for genotype in drawn]
    bounds = sorted(costs)[1], sorted(costs)[3]
    within = [draw for draw, cost in enumerate(costs) if bounds[0] <= cost <= bounds[1]]
    _, runs = plan(given, budget, [4, 5], 2, random_ops=bounds)
    randoms = [run for run in runs if run.method.startswith("random")]
    assert [run.recipe.genotype for run in randoms] == [f"random:bnas:{n}" for n in within[:2]]
    assert [run.seed for run in randoms] == [4, 5]
    with pytest.raises(RecipeError, match=r"1 to 2 OPs, which 0 of bnas have, not 2; the draws"):
        plan(given, budget, [4], 2, random_ops=(1.0, 2.0))


def test_random_genotypes_follow_each_methods_rule_for_zeroise(write, budget):
    """A method that may not choose Zeroise is not measured against cells that have it."""
    methods = [
        write("bnas", "search: {space: bnas}\n"),
        write("darts", "search: {space: bnas, zeroise_competes: false}\n"),
    ]
    _, runs = plan(methods, budget, [0], 20)
    drawn = {run.name: Genotype.load(run.recipe.genotype) for run in runs if run.recipe.genotype}
    assert len(drawn) == 40
    with_zeroise = {name for name, genotype in drawn.items() if genotype.count("none")}
    assert with_zeroise and all("none" not in name for name in with_zeroise)
    assert {run.method for run in runs[2:]} == {"random (bnas)", "random (bnas-none)"}
    tuner = "{searcher: tuner, space: bnas, zeroise_competes: false}"
    _, runs = plan([write("tuner", f"search: {tuner}\n")], budget, [0], 1)
    assert runs[1].method == "random (bnas-none)"


def test_supernets_have_the_template_of_the_networks_that_are_trained(write, budget):
    """Unlike in DARTS' own space, which has no shortcut."""
    method = write("m", "search: {space: darts-binary, scheme: xnor}\n")
    overrides = ["network.shortcut=true", "network.scheme=pcnn", "network.stem=imagenet"]
    for given in ([], overrides):
        shared, runs = plan([method], budget, [0], 1, given)
        for key in TEMPLATE_KEYS:
            assert getattr(runs[0].recipe.search, key) == getattr(shared.network, key), key
    assert runs[0].recipe.search.scheme == "pcnn"
    assert "Supernets had the same stem, shortcuts and scheme" in " ".join(table_notes(shared))


def test_an_override_is_for_the_methods_that_read_it(write, budget):
    softmax, gumbel = write("a", "{}\n"), write("b", "search: {relaxation: gumbel-hard}\n")
    _, runs = plan([softmax, gumbel], budget, [0], 1, ["search.temperature=[5.0,1.0]"])
    assert [run.recipe.search.temperature for run in runs[:2]] == [(10.0, 0.1), (5.0, 1.0)]
    # Nor is it to random genotypes, and to methods that have none of the budget's keys.
    methods = [
        write("c", TUNER % "evolution"),
        write("d", "search: {searcher: one-shot}\n"),
        softmax,
    ]
    overrides = [
        "search.alarms.action=stop",
        "search.one_shot.examples=9",
        "search.tuner.workers=2",
    ]
    _, runs = plan(methods, budget, [0], 1, overrides)
    for run in runs:
        check_keys_are_read(run.recipe)
    searches = [run.recipe.search for run in runs]
    assert [search.alarms.action for search in searches[:3]] == ["warn", "warn", "stop"]
    assert [search.one_shot.examples for search in searches] == [None, 9, None, None]
    assert [search.tuner.workers for search in searches] == [2, 1, 1, 1]
    assert [search.cells for search in searches[:3]] == [8, 3, 3]


TUNER = "search: {searcher: tuner, tuner: {oracle: %s, trials: 70, epochs: 4}}\n"


@pytest.mark.parametrize(
    ("oracle", "part"),
    [
        ("evolution", "trains 70 networks for 4 epochs each"),
        ("hyperband", "trains at most 70 networks for up to 4 epochs each"),
    ],
)
def test_a_tuners_own_numbers_are_told(write, budget, oracle, part):
    shared, runs = plan([write("m", TUNER % oracle), write("plain", "{}\n")], budget, [0, 1], 1)
    told = f"m is searched by keras-tuner ({oracle}): it {part}"
    for text in (
        plan_text(shared, runs),
        "\n".join(table_notes(shared, [r.describe() for r in runs])),
    ):
        assert text.count("keras-tuner") == text.count(told) == 1
        assert "on the whole training part" in text and "search.limit and the" in text
    assert "keras-tuner" not in " ".join(table_notes(shared))


def test_what_a_one_shot_search_trains_and_measures_is_told(write, budget):
    values = "{searcher: one-shot, one_shot: {population: 8, generations: 3, parents: 2}}"
    methods = [write("shots", f"search: {values}\n"), write("plain", "{}\n")]
    for changes, images in ([], "all images"), (["search.one_shot.examples=90"], "at most 90 im"):
        shared, runs = plan(methods, budget, [0, 1], 1, changes)
        planned = [run.describe() for run in runs]
        assert Plan.model_validate(planned)
        told = "shots is a one-shot search: an epoch trains its weights on all images"
        for text in plan_text(shared, runs), "\n".join(table_notes(shared, planned)):
            assert text.count(told) == text.count("one-shot search") == 1
            assert f"the best of up to 24 that were measured on {images}" in text


def test_a_tuner_may_not_tune_the_training(write, budget):
    method = write(
        "m",
        TUNER.replace("epochs: 4", "epochs: 4, hyperparameters: %s")
        % ("random", "{learning_rate: [0.1, 0.2]}"),
    )
    with pytest.raises(RecipeError, match="'m', whose search.tuner.hyperparameters has learning_r"):
        plan([method], budget, [0], 1)
    plan([method], budget, [0], 1, ["search.tuner.hyperparameters={}"])
    plan([method], budget, [0], 1, ["search.searcher=gradient"])


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("search: {epochs: 5, cells: 3, channels: 8}", "search.batch_size. Add them"),
        ("train: {epochs: 5}", "search.cells, search.channels"),
        (BUDGET.replace("epochs: 5", "epochs: 5, order: 2"), "Received: 'search.order'"),
        (BUDGET.replace("epochs: 5", "epochz: 5"), "did you mean 'epochs'"),
        (BUDGET + "genotype: bnas_cifar\n", "Received: 'genotype'"),
        (BUDGET + "seed: 3\n", "Received: 'seed'"),
    ],
)
def test_a_budget_is_what_all_methods_share(write, text, part):
    with pytest.raises(RecipeError, match=part.replace(".", r"\.")):
        load_budget(write("budget", text))


@pytest.mark.parametrize(
    ("methods", "overrides", "error", "part"),
    [
        (["name: a\n", "name: a\n"], (), RecipeError, "'a' twice"),
        (["name: random\n"], (), RecipeError, "other than 'random'"),
        (["layer_study: {}\n"], (), RecipeError, "whose recipe has layer_study"),
        (["search: {space: bnsa}\n"], (), GenotypeError, "did you mean 'bnas'"),
        (["search: {epochz: 1}\n"], (), RecipeError, "did you mean 'epochs'"),
        (["{}\n"], ("seed=3",), RecipeError, "Received: --set seed"),
        (["{}\n"], ("search.epochs=0",), RecipeError, "search.epochs"),
        (["{}\n"], ("search.momentun=0",), RecipeError, "did you mean 'momentum'"),
        (["{}\n"], ("serach.momentum=0",), RecipeError, "did you mean 'search'"),
    ],
)
def test_methods_that_cannot_be_compared(
    write, budget, methods, overrides, error, part, monkeypatch
):
    """And that before any image is counted."""
    monkeypatch.setattr("bnas_larq.run.comparison_plan._described", None)
    paths = [write(f"m{number}", text) for number, text in enumerate(methods)]
    with pytest.raises(error, match=part):
        plan(paths, budget, [0], 1, overrides)


def test_the_shipped_budget_is_one():
    budget = load_budget("compare-cifar10")
    assert isinstance(budget, Recipe) and budget.data.name == "cifar10"
    # PC-DARTS passes a quarter of the channels on.
    assert budget.search.channels % 8 == 0


def test_a_one_shot_search_is_a_method(write, budget):
    """Its own population; random cells follow its rule for Zeroise."""
    values = "{searcher: one-shot, zeroise_competes: false, one_shot: {population: 8, parents: 2}}"
    overrides = ["search.alpha_learning_rate=0.1"]
    _, runs = plan([write("shots", f"search: {values}\n")], budget, [0], 1, overrides)
    assert [run.name for run in runs] == ["shots-seed0", "random-bnas-none-0"]
    search = runs[0].recipe.search
    assert (search.searcher, search.epochs, search.one_shot.population) == ("one-shot", 5, 8)
    assert search.alpha_learning_rate == 3e-4
    assert {entry.key for entry in runs[0].adaptations} <= {"learning_rate"}
