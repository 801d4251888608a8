"""A search by keras-tuner that really trains: tiny networks on the digits."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil

import pytest

from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.genotype_ops import ops_counter
from bnas_larq.errors import DataError, RecipeError
from bnas_larq.files import read_json, read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.recipe import parse_recipe
from bnas_larq.report.pictures import save_pictures
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.recipe_run import Run
from bnas_larq.run.searchers import NetworkTrial, check_inputs, tuner_search
from bnas_larq.run_folder import RunFolder
from bnas_larq.search.tuning import TunerSearch
from bnas_larq.spaces import SearchSpace

#: One node only: graphs that are built quickly.
SPACE = SearchSpace("quick", *[("none", "max_pool_3x3", "bin_conv_3x3")] * 2, nodes=1)
TINY = {
    "data": {"name": "digits", "limit": 160, "validation_fraction": 0.25},
    "network": {"cells": 1, "channels": 4},
    "train": {"batch_size": 40, "optimizer": "adam", "schedule": "cosine", "drop_path": 0.2},
    "search": {
        "searcher": "tuner",
        "tuner": {
            "trials": 3,
            "epochs": 1,
            "population": 2,
            "sample": 2,
            "hyperparameters": {"learning_rate": {"min": "1e-3", "max": 1e-2, "log": True}},
        },
    },
}


@pytest.fixture
def make_run(tmp_path):
    """Makes an unchecked run that searches with keras-tuner; sections may be changed."""

    def make(**changes):
        recipe = parse_recipe({**TINY, **changes})
        return Run(RunInputs(RunFolder.create(tmp_path / "run", recipe.to_yaml()), recipe))

    return make


def test_three_trials_from_images_to_the_front(make_run, tmp_path):
    run = make_run()
    # No trial touches the test part: there is none.
    inputs = run.inputs
    inputs.data = dataclasses.replace(inputs.data, test=None)
    trained = []

    def trial(*args):
        trained.append(args[3])
        return NetworkTrial(inputs)(*args)

    search = TunerSearch(run.recipe.search.tuner, SPACE, trial, seed=run.recipe.seed)
    folder = tmp_path / "run" / "search"
    result = search.run(folder=folder, provenance={})
    rows = read_lines(folder / "trials.jsonl")
    assert len(trained) == len(rows) == 3
    for row, work in zip(rows, trained, strict=True):
        genotype = Genotype(row["normal"], row["reduce"])
        assert genotype.id == row["genotype"]
        costs = count_costs(build_network(genotype, inputs.network_config))
        assert row["cost"] == costs.ops_paper
        # Of 40 held-out images.
        assert row["accuracy"] * 40 == pytest.approx(round(row["accuracy"] * 40))
        assert 1e-3 <= row["hyperparameters"]["learning_rate"] <= 1e-2
        (epoch,) = read_lines(work / "metrics.jsonl")
        # The last of the epoch's three steps: (1 + cos(2/3 · π)) / 2 of the trial's own rate.
        assert epoch["lr"] == pytest.approx(row["hyperparameters"]["learning_rate"] / 4)
        assert not (work / "checkpoints").exists()
    assert result.validation_accuracy == max(row["accuracy"] for row in rows)
    front = read_json(folder / "pareto.json")["front"]
    assert result.genotype.id in {point["genotype"] for point in front}
    drawn = {path.name for path in save_pictures(tmp_path / "run")}
    assert {"pareto.png", "pareto.svg"} <= drawn


def test_a_trial_that_goes_on_is_one_that_never_stopped(make_run, tmp_path):
    tuner = {**TINY["search"]["tuner"], "oracle": "hyperband", "epochs": 2}
    trial = NetworkTrial(make_run(search={"searcher": "tuner", "tuner": tuner}).inputs)
    genotype = Genotype.random(SPACE, 0)

    def metrics(name, *epochs):
        for number in epochs:
            result = trial(genotype, {"learning_rate": 0.005}, number, tmp_path / name, 3)
        rows = read_lines(tmp_path / name / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == [0, 1]
        return result.accuracy, [(row["loss"], row["lr"]) for row in rows]

    assert metrics("pieces", 1, 2) == metrics("whole", 2)


def test_what_would_stop_every_trial_is_found_before(make_run):
    without = NetworkTrial(make_run(data={**TINY["data"], "validation_fraction": 0}).inputs)
    with pytest.raises(RecipeError, match="Received: data.validation_fraction 0. Use 0.1."):
        without.check()


def test_bounds_reach_the_search_and_are_refused_if_no_random_cell_meets_them(make_run, tmp_path):
    def run(**bounds):
        tuner = {**TINY["search"]["tuner"], **bounds}
        return make_run(search={"searcher": "tuner", "space": "bnas-residual", "tuner": tuner})

    met = run(maximum_ops=22100)
    check_inputs(met.inputs, ("search",))
    ops, allowed = ops_counter(met.inputs.network_config), tuner_search(met.inputs).encoding.allowed
    drawn = [Genotype.random(SearchSpace.bnas_residual(), seed) for seed in range(30)]
    assert {allowed(genotype) for genotype in drawn} == {True, False}
    assert all(allowed(genotype) == (ops(genotype) <= 22100) for genotype in drawn)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RecipeError, match=r"maximum_ops 10.0, which none of 100 random cells"):
        check_inputs(run(maximum_ops=10).inputs, ("search",))


def test_where_zeroise_may_not_be_chosen_no_trial_has_it(make_run):
    search = {**TINY["search"], "space": "bnas", "zeroise_competes": False}
    assert tuner_search(make_run(search=search).inputs).encoding.space.name == "bnas-none"


@pytest.mark.parametrize(
    ("train", "hyperparameters"),
    [
        ({"batch_size": 121}, {}),
        ({"batch_size": 121, "on": "all"}, {}),
        ({}, {"batch_size": [40, 121]}),
        ({}, {"batch_size": {"min": 40, "max": 121}}),
    ],
)
def test_the_largest_batch_must_fit(make_run, train, hyperparameters):
    tuner = {**TINY["search"]["tuner"], "hyperparameters": hyperparameters}
    run = make_run(train={**TINY["train"], **train}, search={"searcher": "tuner", "tuner": tuner})
    with pytest.raises(DataError, match="batch size 121 for 120 examples"):
        NetworkTrial(run.inputs).check()


def test_the_network_is_trained_as_the_best_trial_was(make_run, caplog):
    caplog.set_level(logging.INFO, "bnas_larq")
    run = make_run(train={**TINY["train"], "epochs": 1})
    genotype = Genotype.random(SPACE, 0)
    Genotype(
        genotype.normal,
        genotype.reduce,
        provenance={"train": {"learning_rate": 0.004, "batch_size": 30}},
    ).save(run.folder / "genotype.json")
    run.train()
    assert "train: as its trial: learning_rate 0.004, batch_size 30" in caplog.messages
    (epoch,) = read_lines(run.folder / "train" / "metrics.jsonl")
    # The last of four steps: (1 + cos(3/4 · π)) / 2 of the rate.
    assert epoch["lr"] == pytest.approx(0.004 * (1 + math.cos(0.75 * math.pi)) / 2)
