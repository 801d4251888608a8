"""Genotypes and training settings as hyperparameters, and back."""

from __future__ import annotations

import itertools
import random

import pytest

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.search.tuning import Encoding
from bnas_larq.spaces import SearchSpace

BINARY = ("none", "bin_conv_3x3")
TINY = SearchSpace("tiny", BINARY, BINARY, nodes=2)
TRAIN = {
    "learning_rate": {"min": 1e-4, "max": 1e-2, "log": True},
    "batch_size": {"min": 16, "max": 64, "log": False},
    "optimizer": ["sgd", "adam"],
    "clip_norm": [None, 5.0],
}


def test_names_are_stable():
    names = list(Encoding(TINY, {"optimizer": ["sgd", "adam"]}).hyperparameters().values)
    # The first node has two states for its two edges: nothing to choose among.
    assert names == [
        "normal/node0/operation0",
        "normal/node0/operation1",
        "normal/node1/inputs",
        "normal/node1/operation0",
        "normal/node1/operation1",
        "reduce/node0/operation0",
        "reduce/node0/operation1",
        "reduce/node1/inputs",
        "reduce/node1/operation0",
        "reduce/node1/operation1",
        "train/optimizer",
    ]


@pytest.mark.parametrize("edges", [1, 2])
def test_every_combination_is_another_genotype_of_the_space(edges):
    encoding = Encoding(SearchSpace("x", BINARY, BINARY, nodes=2, edges_per_node=edges))
    space = encoding.hyperparameters().space
    names = [hp.name for hp in space]
    ids = set()
    combinations = list(itertools.product(*(hp.values for hp in space)))
    for combination in combinations:
        values = dict(zip(names, combination, strict=True))
        genotype = encoding.genotype(values)
        assert encoding.values(genotype) == values
        ids.add(genotype.id)
    # A cell: node 0 with 1 pair of states or 2 single ones, node 1 with 3; operations of each edge.
    cell = {1: (2 * 2) * (3 * 2), 2: (1 * 2**2) * (3 * 2**2)}[edges]
    assert len(ids) == len(combinations) == cell**2


@pytest.mark.parametrize("edges", [1, 2])
def test_random_genotypes_come_back(edges):
    space = SearchSpace("b", SearchSpace.bnas().normal, BINARY, edges_per_node=edges)
    encoding = Encoding(space)
    for seed in range(30):
        genotype = Genotype.random(space, seed)
        assert encoding.genotype(encoding.values(genotype)).id == genotype.id


def test_the_order_of_a_nodes_edges_does_not_matter():
    node = (Edge("none", 1), Edge("bin_conv_3x3", 0))
    cells = [((n,), (n,)) for n in (node, node[::-1])]
    encoding = Encoding(SearchSpace("one", BINARY, BINARY, nodes=1))
    first, second = (encoding.values(Genotype(*cell)) for cell in cells)
    assert first == second
    assert first["normal/node0/operation0"] == "bin_conv_3x3"


def test_training_settings_come_back_with_their_types():
    encoding = Encoding(TINY, TRAIN)
    genotype = Genotype.random(TINY, 1)
    overrides = {"learning_rate": 0.002, "batch_size": 32, "optimizer": "adam", "clip_norm": None}
    values = encoding.values(genotype, overrides)
    back = encoding.overrides(values)
    assert back == overrides
    assert {key: type(value) for key, value in back.items()} == {
        key: type(value) for key, value in overrides.items()
    }
    assert encoding.genotype(values).id == genotype.id


def test_training_settings_are_drawn_within_their_limits():
    space = {hp.name: hp for hp in Encoding(TINY, TRAIN).hyperparameters().space}
    rate, batch = space["train/learning_rate"], space["train/batch_size"]
    draws = random.Random(0)
    rates = [rate.prob_to_value(draws.random()) for _ in range(200)]
    assert 1e-4 <= min(rates) and max(rates) <= 1e-2
    # Logarithmic: half of them below the geometric mean.
    assert 70 < sum(value < 1e-3 for value in rates) < 130
    assert {batch.prob_to_value(p) for p in (0.0, 0.9999)} == {16, 64}


def test_values_that_hyperband_adds_are_left_out():
    encoding = Encoding(TINY)
    genotype = Genotype.random(TINY, 3)
    values = {**encoding.values(genotype), "tuner/epochs": 3, "tuner/trial_id": "0001"}
    assert encoding.genotype(values).id == genotype.id


def test_a_cell_without_a_signal_is_not_sensible():
    encoding = Encoding(TINY)
    values = encoding.values(Genotype.random(TINY, 0))
    assert encoding.sensible(values)
    nothing = {k: "none" if k.startswith("reduce") and "op" in k else v for k, v in values.items()}
    assert not encoding.sensible(nothing)


@pytest.mark.parametrize(
    "other",
    [
        SearchSpace("nodes", BINARY, BINARY, nodes=3),
        SearchSpace("edges", BINARY, BINARY, nodes=2, edges_per_node=1),
        SearchSpace("operations", ("max_pool_3x3", "avg_pool_3x3"), BINARY, nodes=2),
    ],
    ids=lambda space: space.name,
)
def test_genotypes_of_other_spaces_are_refused(other):
    with pytest.raises(GenotypeError, match="one of the search space 'tiny'. Received: g-"):
        Encoding(TINY).values(Genotype.random(other, 0))
