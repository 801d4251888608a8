"""Regularised evolution: who lives, who is a parent, what a child is."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import pytest

from bnas_larq.errors import RunError
from bnas_larq.files import read_lines
from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.evolution import EvolutionOracle, mutate
from bnas_larq.search.tuning.records import TRIALS
from bnas_larq.spaces import SearchSpace


@pytest.fixture
def oracle(tmp_path):
    """An oracle with a population of 3 in the space bnas."""

    def make(**settings):
        sizes = {"population_size": 3, "sample_size": 2, "max_trials": 100, "seed": 7}
        made = EvolutionOracle(
            encoding=Encoding(SearchSpace.bnas()),
            on_end=lambda ended: None,
            **{**sizes, **settings},
        )
        made._set_project_dir(str(tmp_path), "tuner")
        return made

    return make


def tried(oracle, accuracy=None, status="COMPLETED"):
    """One trial from its proposal to its end."""
    trial = oracle.create_trial("tuner0")
    assert trial.status == "RUNNING"
    if status == "COMPLETED":
        oracle.update_trial(trial.trial_id, {"accuracy": accuracy})
    trial.status = status
    oracle.end_trial(trial)
    return trial


def ids(oracle):
    return [int(trial.trial_id) for trial in oracle.population()]


def test_the_oldest_dies_however_good_it_is(oracle):
    oracle = oracle()
    for accuracy in (0.9, 0.1, 0.2):
        tried(oracle, accuracy)
    assert ids(oracle) == [0, 1, 2]
    tried(oracle, 0.3)
    assert ids(oracle) == [1, 2, 3]
    tried(oracle, 0.0)
    assert ids(oracle) == [2, 3, 4]


def test_failed_trials_never_live(oracle):
    oracle = oracle()
    tried(oracle, 0.5)
    tried(oracle, status="FAILED")
    tried(oracle, 0.6)
    assert ids(oracle) == [0, 2]
    tried(oracle, 0.7)  # still at random: the population was not full
    assert ids(oracle) == [0, 2, 3]


def test_the_parent_is_the_best_of_the_sample_and_the_child_one_mutation_away(oracle):
    oracle = oracle()
    for accuracy in (0.1, 0.5, 0.3):
        tried(oracle, accuracy)
    for cycle in range(12):
        living = oracle.population()
        seed = oracle._seed_state
        child = tried(oracle, random.Random(cycle).random())
        # The paper's algorithm 1, again: sample with replacement, take the best, mutate it.
        generator = random.Random(seed)
        sample = generator.choices(living, k=2)
        parent = sorted(sample, key=lambda trial: trial.score)[-1]
        expected = mutate(parent.hyperparameters.values, oracle.encoding, generator)
        assert child.hyperparameters.values == expected


def test_workers_share_the_living_and_wait_only_if_there_are_none(oracle):
    oracle = oracle()
    running = [oracle.create_trial(f"worker-{number}") for number in range(3)]
    assert [trial.status for trial in running] == ["RUNNING"] * 3
    # Three are under way, which is the population; none has ended yet.
    assert oracle.create_trial("worker-3").status == "IDLE"
    oracle.update_trial(running[1].trial_id, {"accuracy": 0.5})
    running[1].status = "COMPLETED"
    oracle.end_trial(running[1])
    child = oracle.create_trial("worker-3")
    assert child.status == "RUNNING" and ids(oracle) == [1]
    same = [
        name
        for name, value in running[1].hyperparameters.values.items()
        if child.hyperparameters.values[name] == value
    ]
    # Moving an edge behind its neighbour's state exchanges both operations: up to three values.
    assert len(same) >= len(child.hyperparameters.values) - 3


def test_state_survives(oracle):
    first = oracle()
    for accuracy in (0.1, 0.5, 0.3, 0.4):
        tried(first, accuracy)
    second = oracle(population_size=9, sample_size=9)
    second.reload()
    assert (second.population_size, second.sample_size) == (3, 2)
    assert ids(second) == ids(first) == [1, 2, 3]
    assert tried(second, 0.2).hyperparameters.values == tried(first, 0.2).hyperparameters.values


def test_a_trial_that_ends_twice_counts_once(oracle):
    """As when a chief is started again while a worker still runs what it hands out anew."""
    oracle = oracle()
    trial = tried(oracle, 0.5)
    oracle.ongoing_trials["worker-2"] = trial
    oracle.end_trial(SimpleNamespace(trial_id=trial.trial_id))
    assert oracle.end_order == [trial.trial_id] and not oracle.ongoing_trials


def test_the_population_improves_and_beats_random_search(found, tmp_path):
    means = {}
    for name in ("evolution", "random"):
        folder = tmp_path / name
        found(folder, oracle=name, trials=60, population=10, sample=4)
        rows = read_lines(folder / TRIALS)
        accuracies = [row["accuracy"] for row in rows]
        means[name] = sum(accuracies[:10]) / 10, sum(accuracies[-10:]) / 10
        assert len({row["genotype"] for row in rows}) == 60, "no network is tried twice"
    first, last = means["evolution"]
    # An edge in four is the wanted one by chance.
    assert first < 0.4 and means["random"][1] < 0.4
    assert last > 0.6


def test_a_small_space_is_tried_out_and_then_the_search_ends(found, tmp_path):
    both = ("none", "bin_conv_3x3")
    space = SearchSpace("one", both, both, nodes=1, edges_per_node=1)
    result = found(tmp_path, oracle="evolution", trials=50, population=3, sample=2, space=space)
    # Per cell 2 states, and a convolution, because Zeroise alone carries no signal.
    assert result.epoch <= 4 and result.genotype.count("bin_conv_3x3") == 2


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[" * 100_000, '{"trials": 3}', None])
@pytest.mark.parametrize("name", ["oracle.json", "trial_00/trial.json"])
def test_a_damaged_state_is_a_sentence(oracle, tmp_path, name, content):
    tried(oracle(max_trials=10), 0.5)
    path = tmp_path / "tuner" / name.replace("00", f"{0:02d}")
    assert path.is_file()
    path.unlink()
    os.mkfifo(path) if content is None else path.write_text(content)
    with pytest.raises(RunError, match="Received: .*tuner"):
        oracle(max_trials=10).reload()
