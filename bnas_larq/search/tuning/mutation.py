"""Mutations of regularised evolution: exactly one thing of a trial becomes another one."""

from __future__ import annotations

import itertools
import random
from typing import Any

from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.search.tuning.encoding import KINDS, Encoding, Values
from bnas_larq.spaces import SearchSpace


def mutate(values: Values, encoding: Encoding, generator: random.Random) -> dict[str, Any]:
    """A child of `values`: one edge's operation, one edge's input, or one training setting changed.

    The kinds of mutation are equally likely, as the two of Real et al. (arXiv 1802.01548) are, and
    so are then all places of that kind and all other values there. A setting with a range is drawn
    anew from it.

    Args:
        values: of the parent; what is no part of the encoding is left out.
    """
    genotype, overrides = encoding.genotype(values), encoding.overrides(values)
    settings = [hp for hp in encoding.hyperparameters().space if _can_change(hp)]
    settings = [hp for hp in settings if hp.name not in encoding.choices]
    kinds = [_other_operations(genotype, encoding.space), _other_inputs(genotype)]
    kind = generator.choice([places for places in (*kinds, settings) if places])
    place = generator.choice(kind)
    child = encoding.values(genotype, overrides)
    if kind is settings:
        while child[place.name] == values[place.name]:
            child[place.name] = place.prob_to_value(generator.random())
        return child
    (cell, node, old), others = place
    new = generator.choice(others)
    return encoding.values(_replaced(genotype, cell, node, old, new), overrides)


Place = tuple[tuple[int, int, Edge], list[Edge]]


def _edges(genotype: Genotype) -> list[tuple[int, int, Edge]]:
    """(cell, node, edge) of all edges."""
    return [
        (number, node, edge)
        for number, cell in enumerate(genotype.cells)
        for node, edges in enumerate(cell)
        for edge in edges
    ]


def _other_operations(genotype: Genotype, space: SearchSpace) -> list[Place]:
    """Every edge, with what it would be with each other operation."""
    return [
        (
            (cell, node, edge),
            [Edge(op, edge.state) for op in getattr(space, KINDS[cell]) if op != edge.op],
        )
        for cell, node, edge in _edges(genotype)
    ]


def _other_inputs(genotype: Genotype) -> list[Place]:
    """Every edge that could read another state, with what it would be with each of them."""
    places = []
    for cell, node, edge in _edges(genotype):
        used = {other.state for other in genotype.cells[cell][node]}
        free = [Edge(edge.op, state) for state in range(2 + node) if state not in used]
        if free:
            places.append(((cell, node, edge), free))
    return places


def _replaced(genotype: Genotype, cell: int, node: int, old: Edge, new: Edge) -> Genotype:
    def changed(number: int, nodes: Cell) -> Cell:
        if number != cell:
            return nodes
        edges = tuple(new if edge == old else edge for edge in nodes[node])
        return tuple(itertools.chain(nodes[:node], [edges], nodes[node + 1 :]))

    return Genotype(changed(0, genotype.normal), changed(1, genotype.reduce))


def _can_change(hyperparameter: Any) -> bool:
    low = hyperparameter.prob_to_value(0.0)
    return low != hyperparameter.prob_to_value(1.0 - 1e-9)
