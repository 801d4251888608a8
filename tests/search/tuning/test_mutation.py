"""A mutation changes exactly one thing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bnas_larq.genotype import Edge, Genotype
from bnas_larq.search.tuning import Encoding
from bnas_larq.search.tuning.evolution import mutate
from bnas_larq.spaces import SearchSpace

TRAIN = {"learning_rate": {"min": 1e-4, "max": 1e-2, "log": True}, "optimizer": ["sgd", "adam"]}


def edges(genotype: Genotype) -> Counter[tuple[int, int, Edge]]:
    return Counter(
        (number, node, edge)
        for number, cell in enumerate(genotype.cells)
        for node, node_edges in enumerate(cell)
        for edge in node_edges
    )


def changes(before: Genotype, after: Genotype) -> list[str]:
    """What differs: `operation` or `input` for each edge; both count as two."""
    found = []
    gone, come = list(edges(before) - edges(after)), list(edges(after) - edges(before))
    assert len(gone) == len(come)
    for (cell, node, old), (other_cell, other_node, new) in zip(gone, come, strict=True):
        assert (cell, node) == (other_cell, other_node)
        found += ["operation"] * (old.op != new.op) + ["input"] * (old.state != new.state)
    return found


@pytest.mark.parametrize("edges_per_node", [1, 2])
def test_exactly_one_thing_changes_and_all_things_do(edges_per_node):
    space = SearchSpace("s", SearchSpace.bnas().normal, ("none", "bin_conv_3x3"), 3, edges_per_node)
    encoding = Encoding(space, TRAIN)
    generator = random.Random(0)
    overrides = {"learning_rate": 0.001, "optimizer": "sgd"}
    values = encoding.values(Genotype.random(space, 5), overrides)
    kinds, places = Counter(), set()
    for _ in range(600):
        child = mutate(values, encoding, generator)
        before, after = encoding.genotype(values), encoding.genotype(child)
        settings = [
            key
            for key in TRAIN
            if encoding.overrides(values)[key] != encoding.overrides(child)[key]
        ]
        changed = changes(before, after) + settings
        assert len(changed) == 1, changed
        kinds["training" if settings else changed[0]] += 1
        places.update((cell, node) for cell, node, _ in edges(after) - edges(before))
        values = child
    # Each kind is as likely as the others: 200 of 600, deviation sqrt(600 · 1/3 · 2/3) = 12.
    assert all(150 < count < 250 for count in kinds.values()) and len(kinds) == 3
    assert places == {(cell, node) for cell in range(2) for node in range(3)}


def test_an_operation_goes_along_with_its_edge():
    space = SearchSpace("s", *[("none", "bin_conv_3x3", "max_pool_3x3")] * 2, nodes=2)
    encoding = Encoding(space)
    node0 = (Edge("none", 0), Edge("none", 1))
    cell = (node0, (Edge("bin_conv_3x3", 0), Edge("max_pool_3x3", 1)))
    values = encoding.values(Genotype(cell, cell))
    seen = set()
    for seed in range(200):
        after = encoding.genotype(mutate(values, encoding, random.Random(seed)))
        seen.add(frozenset(after.normal[1]))
    # The convolution moved behind the pool's state: it still is the convolution that moved.
    assert frozenset({Edge("max_pool_3x3", 1), Edge("bin_conv_3x3", 2)}) in seen
    assert frozenset({Edge("bin_conv_3x3", 1), Edge("max_pool_3x3", 2)}) not in seen


def test_what_has_one_value_is_never_chosen():
    encoding = Encoding(
        SearchSpace("s", *[("none", "bin_conv_3x3")] * 2, nodes=1), {"momentum": [0.9]}
    )
    values = encoding.values(Genotype.random(encoding.space, 0), {"momentum": 0.9})
    for seed in range(50):
        child = mutate(values, encoding, random.Random(seed))
        # Two edges from two states: only operations can change.
        assert changes(encoding.genotype(values), encoding.genotype(child)) == ["operation"]
