"""The evolution over paths: what its generations are made of, bounds, and repetition."""

from __future__ import annotations

import random

import pytest

from bnas_larq.errors import RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.search import path_evolution
from bnas_larq.search.genotype_variation import carries_signal, crossover, mutations
from bnas_larq.search.path_evolution import PathEvolution
from bnas_larq.searcher_settings import OneShotSettings
from bnas_larq.spaces import SearchSpace

SPACE = SearchSpace.bnas()
POPULATION = 20


def ops(genotype):
    """A made-up cost: the sum of its kernels' positions."""
    edges = [edge.op for cell in genotype.cells for node in cell for edge in node]
    return float(sum(25 * ("5x5" in op) + 9 * ("conv_3x3" in op) for op in edges))


def evolve(count, seed=1, space=SPACE, **settings):
    """Rows of `count` genotypes; 3×3 convolutions make them accurate."""
    values = {"population": POPULATION, "parents": 5, **settings}
    evolution, rows = PathEvolution(OneShotSettings(**values), space, ops, seed), []
    while len(rows) < count and (genotype := evolution.propose(rows)):
        row = {"genotype": genotype.id, "cost": ops(genotype)}
        row["accuracy"] = genotype.count("bin_conv_3x3") / 16
        rows.append({**row, "normal": genotype.normal, "reduce": genotype.reduce})
    return rows


def genotype_of(row):
    return Genotype(row["normal"], row["reduce"])


def test_it_finds_what_is_accurate_and_measures_nothing_twice():
    rows = evolve(10 * POPULATION)
    assert len({row["genotype"] for row in rows}) == len(rows)
    assert all(carries_signal(genotype_of(row)) for row in rows)
    best = [max(row["accuracy"] for row in rows[:end]) for end in (POPULATION, len(rows))]
    assert best[1] >= best[0] + 3 / 16


def test_a_generation_is_half_crossovers_and_half_mutations_of_the_best():
    rows = evolve(2 * POPULATION)
    ranked = sorted(rows[:POPULATION], key=lambda row: (-row["accuracy"], row["cost"]))
    parents = [genotype_of(row) for row in ranked[:5]]

    def differences(one, other):
        """Number of nodes that differ."""
        pairs = zip([*one.normal, *one.reduce], [*other.normal, *other.reduce], strict=True)
        return sum(a != b for a, b in pairs)

    for row in rows[POPULATION : POPULATION + POPULATION // 2]:
        child = genotype_of(row)
        nodes = [
            {parent.cells[cell][node] for parent in parents} for cell in (0, 1) for node in range(4)
        ]
        assert all(
            node in of_parents
            for node, of_parents in zip([*child.normal, *child.reduce], nodes, strict=True)
        )
    for row in rows[POPULATION + POPULATION // 2 :]:
        assert min(differences(genotype_of(row), parent) for parent in parents) == 1


def test_bounds_hold_from_the_first_generation_on():
    rows = evolve(5 * POPULATION, minimum_ops=100.0, maximum_ops=150.0)
    assert len(rows) == 5 * POPULATION
    assert all(100 <= row["cost"] <= 150 for row in rows)


def test_a_proposal_follows_from_seed_and_records():
    rows = evolve(3 * POPULATION)
    assert evolve(3 * POPULATION) == rows
    settings = OneShotSettings(population=POPULATION, parents=5)
    for number in (0, 7, 25, 45):
        resumed = PathEvolution(settings, SPACE, ops, 1).propose(rows[:number])
        assert resumed.id == rows[number]["genotype"]
    assert evolve(3, seed=2) != rows[:3]


def test_a_small_space_ends_when_all_of_it_is_measured():
    small = SearchSpace("small", *[("max_pool_3x3", "bin_conv_3x3")] * 2, nodes=1)
    assert len(evolve(100, space=small)) == 2**4


def test_bounds_that_no_cell_meets_are_refused():
    settings = OneShotSettings(maximum_ops=3.0)
    message = (
        "Received: search.one_shot.minimum_ops None, maximum_ops 3.0, which 0 different cells "
        "of 50 were found for; 100 random cells .* OPs"
    )
    with pytest.raises(RecipeError, match=message):
        PathEvolution(settings, SPACE, ops, 0).check()
    PathEvolution(OneShotSettings(maximum_ops=200.0), SPACE, ops, 0).check()


@pytest.mark.parametrize(("share", "draws"), [(100, 5000), (100, 200), (1000, 5000)])
def test_bounds_that_few_cells_meet_are_no_end(share, draws, monkeypatch):
    """One in a hundred or a thousand; with few draws mutants of measured cells are found."""
    monkeypatch.setattr(path_evolution, "DRAWS", draws)
    drawn = sorted(ops(Genotype.random(SPACE, number)) for number in range(5000))
    bound = drawn[len(drawn) // share]
    for seed in range(3):
        rows = evolve(2 * POPULATION, seed=seed, maximum_ops=bound)
        assert len(rows) == 2 * POPULATION
        assert max(row["cost"] for row in rows) <= bound


def test_a_whole_generation_must_be_within_the_bounds():
    """A space of 16 cells, of which 11 have two 3×3 convolutions or less."""
    small = SearchSpace("small", *[("max_pool_3x3", "bin_conv_3x3")] * 2, nodes=1)
    settings = {"maximum_ops": 18.0, "parents": 2}
    PathEvolution(OneShotSettings(population=11, **settings), small, ops, 0).check()
    with pytest.raises(RecipeError, match="which 11 different cells of 12 were found for"):
        PathEvolution(OneShotSettings(population=12, **settings), small, ops, 0).check()


def test_a_crossover_has_each_node_from_a_parent_and_a_mutation_changes_one_edge():
    one, other = (Genotype.random(SPACE, seed) for seed in (0, 1))
    generator = random.Random(0)
    child = crossover(one, other, generator)
    for cells in zip(child.cells, one.cells, other.cells, strict=True):
        assert all(node in (first, second) for node, first, second in zip(*cells, strict=True))
    assert child not in (one, other)
    for kind in mutations(one, SPACE):
        for mutation in kind:
            mutant = mutation(one, generator)
            edges = [
                {
                    (cell, node, edge)
                    for cell in (0, 1)
                    for node in range(4)
                    for edge in g.cells[cell][node]
                }
                for g in (one, mutant)
            ]
            assert len(edges[0] - edges[1]) == 1
