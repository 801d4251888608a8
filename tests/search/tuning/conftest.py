"""A small search space and a trial that trains nothing: its accuracy is planted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnas_larq.search.tuning import TrialResult, TunerSearch
from bnas_larq.settings import TunerSettings
from bnas_larq.spaces import SearchSpace

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3", "bin_conv_5x5")
SMALL = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=2)
EDGES = 8  # two cells of two nodes with two edges


class Planted:
    """The share of 3×3 convolutions as accuracy, more with more epochs; convolutions cost."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, genotype, train_overrides, epochs, folder, seed):
        self.calls.append((genotype.id, dict(train_overrides), epochs, folder, seed))
        share = genotype.count("bin_conv_3x3") / EDGES
        cost = 9 * genotype.count("bin_conv_3x3") + 25 * genotype.count("bin_conv_5x5")
        return TrialResult(share * (1 - 0.5**epochs), float(cost))


@pytest.fixture
def planted() -> Planted:
    """A planted trial."""
    return Planted()


@pytest.fixture
def search(planted):
    """Makes a search in the small space with these settings and the planted trial."""

    def make(trial=planted, seed=0, space=SMALL, **settings) -> TunerSearch:
        return TunerSearch(TunerSettings(**settings), space, trial, seed=seed)

    return make


@pytest.fixture
def found(search):
    """Runs such a search in a folder and gives its result."""

    def run(folder: Path, **settings):
        return search(**settings).run(folder=folder, provenance={"data": "planted"})

    return run
