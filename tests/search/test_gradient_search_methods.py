"""The methods that search by gradient: what their settings become, and the same seed twice."""

from __future__ import annotations

import pytest

from bnas_larq.backend import keras
from bnas_larq.determinism import make_deterministic
from bnas_larq.files import read_lines
from bnas_larq.search.gradient_search import GradientSearch, make_relaxation
from bnas_larq.settings import SearchSettings
from bnas_larq.supernet.alpha_gradients import FirstOrder, SecondOrder, SingleLevel
from bnas_larq.supernet.relaxations import Concrete, GumbelHard, Softmax

pytestmark = pytest.mark.usefixtures("small_spaces")

#: What the published methods differ in.
METHODS = {
    "bnas": {},
    "darts-second-order": {"order": 2, "zeroise_competes": False},
    "snas": {"relaxation": "concrete", "temperature": (2.0, 0.1), "order": "single-level"},
    "gdas": {"relaxation": "gumbel-hard", "zeroise_competes": False},
    "pc-darts": {
        "channels": 4,
        "channel_proportion": 2,
        "edge_normalization": True,
        "alpha_start_epoch": 1,
        "zeroise_competes": False,
    },
}


def make(**settings) -> GradientSearch:
    keras.utils.set_random_seed(1)
    values = {"cells": 1, "channels": 2, "epochs": 3, "alarms": {"action": "off"}, **settings}
    return GradientSearch(SearchSettings(space="tiny", **values), 2, (8, 8, 3), seed=1)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_finds_the_same_genotype(method, search_data, tmp_path):
    make_deterministic(0)
    settings = {"epochs": 2, "alpha_learning_rate": 0.3, **METHODS[method]}
    results, records = [], []
    for name in ("one", "two"):
        results.append(make(**settings).run(search_data, folder=tmp_path / name, provenance={}))
        records.append(read_lines(tmp_path / name / "alphas.jsonl"))
    assert results[0].genotype.id == results[1].genotype.id
    assert results[0] == results[1] and records[0] == records[1]
    if "zeroise_competes" in settings:
        assert results[0].genotype.count("none") == 0
        assert results[0].genotype.provenance["zeroise_competes"] is False
    names = {"epoch", "val_accuracy", "normal", "reduce"}
    edges = {"betas_normal", "betas_reduce"} if settings.get("edge_normalization") else set()
    assert set(records[0][0]) == names | edges


def test_settings_become_the_objects_of_the_methods():
    first, second, gdas, snas, pc_darts = (
        make(**METHODS.get(name, {}))
        for name in ("darts", "darts-second-order", "gdas", "snas", "pc-darts")
    )
    for searcher in (first, second, gdas, snas, pc_darts):
        searcher.compile(1)
    nets = [searcher.supernet for searcher in (first, second, gdas, snas, pc_darts)]
    kinds = [type(net.alpha_gradient) for net in nets]
    assert kinds == [FirstOrder, SecondOrder, FirstOrder, SingleLevel, FirstOrder]
    kinds = [type(net.relaxation) for net in nets]
    assert kinds == [Softmax, Softmax, GumbelHard, Concrete, Softmax]
    assert [net.alpha_start_epoch for net in nets] == [0, 0, 0, 0, 1]
    temperature = nets[2].relaxation.temperature
    assert [float(temperature(epoch)) for epoch in (0, 1, 2)] == pytest.approx(
        [10.0, 5.05, 0.1], rel=1e-5
    )
    assert nets[4].cells[0].sampling.proportion == 2 and len(nets[4].betas) == 2
    assert make_relaxation(SearchSettings(temperature_decay="exponential")).get_config() == {
        "normal": 1.0,
        "reduce": 1.0,
    }


def test_a_cost_term_of_the_recipe():
    cost = {"measure": "ops", "target": 1e5, "weight": 0.5}
    searcher = make(cost=cost, gamma=3.0, zeroise_competes=False)
    searcher.compile(1)
    term = searcher.supernet.cost
    assert (term.target, term.weight, term.gamma, term.zeroise_competes) == (1e5, 0.5, 3.0, False)
    assert term.network.channels == 2
