"""Searches by keras-tuner within bounds of operations."""

from __future__ import annotations

import pydantic
import pytest

from bnas_larq.errors import TrainingStopped
from bnas_larq.files import read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.search.tuning import Encoding, TunerSearch
from bnas_larq.search.tuning.records import TRIALS
from bnas_larq.settings import TunerSettings
from bnas_larq.spaces import SearchSpace

SPACE = SearchSpace("small", *[("none", "max_pool_3x3", "bin_conv_3x3")] * 2, nodes=2)
ORACLES = {
    "random": {"trials": 12},
    "bayesian": {"trials": 6},
    "hyperband": {"trials": 12, "epochs": 4, "hyperband_factor": 2},
    "evolution": {"trials": 12, "population": 4, "sample": 2},
}


def convolutions(genotype: Genotype) -> float:
    return float(genotype.count("bin_conv_3x3"))


@pytest.mark.parametrize("oracle", ORACLES)
def test_no_network_outside_of_them_is_trained(oracle, planted, tmp_path):
    settings = TunerSettings(oracle=oracle, minimum_ops=2, maximum_ops=3, **ORACLES[oracle])
    search = TunerSearch(settings, SPACE, planted, ops=convolutions, seed=0)
    result = search.run(folder=tmp_path, provenance={})
    rows = read_lines(tmp_path / TRIALS)
    assert len(rows) > 5
    cells = [Genotype(row["normal"], row["reduce"]) for row in rows]
    assert {convolutions(genotype) for genotype in cells} <= {2, 3}
    # The accuracy that is planted is the share of convolutions.
    assert convolutions(result.genotype) == 3


def test_draws_that_few_genotypes_meet_are_found(planted, tmp_path):
    """One in some sixty draws: keras-tuner itself would give up after 20."""
    settings = TunerSettings(oracle="random", trials=3, minimum_ops=6)
    search = TunerSearch(settings, SPACE, planted, ops=convolutions, seed=0)
    search.run(folder=tmp_path, provenance={})
    assert len(planted.calls) == 3


def test_bounds_that_nothing_meets_end_the_search(planted, tmp_path):
    settings = TunerSettings(oracle="random", trials=3, minimum_ops=9)
    search = TunerSearch(settings, SPACE, planted, ops=convolutions, seed=0)
    with pytest.raises(
        TrainingStopped, match=r"no trial was run\). Widen search.tuner.minimum_ops"
    ):
        search.run(folder=tmp_path, provenance={})
    assert not planted.calls


def test_only_allowed_genotypes_are_sensible():
    encoding = Encoding(SPACE, allowed=lambda genotype: convolutions(genotype) == 0)
    drawn = [Genotype.random(SPACE, seed) for seed in range(100)]
    sensible = [genotype for genotype in drawn if encoding.sensible(encoding.values(genotype))]
    assert sensible and not any(map(convolutions, sensible))


def test_the_least_is_at_most_the_most():
    with pytest.raises(pydantic.ValidationError, match="minimum_ops is at most maximum_ops; they"):
        TunerSettings(minimum_ops=3, maximum_ops=2)
    assert not TunerSettings().bounded and TunerSettings(minimum_ops=3).bounded
