"""Regularised evolution as a keras-tuner oracle, and its mutations. Imports keras-tuner: import it
lazily.
"""

from __future__ import annotations

import random
from typing import Any

from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.search.tuning.durable import DurableOracle
from bnas_larq.search.tuning.encoding import KINDS, Encoding, Values
from bnas_larq.spaces import SearchSpace


class EvolutionOracle(DurableOracle):
    """Regularised (ageing) evolution: Real, Aggarwal, Huang, Le, arXiv 1802.01548, algorithm 1.

    The population starts with random trials. For each later trial, `sample_size` living trials are
    drawn with replacement; the most accurate one is the parent, and the child is a `mutate`d copy.
    Whenever a trial ends, the oldest one dies, however good it is: the last `population_size`
    trials to end are alive, and their order and the next seed are the whole state.

    Unlike in the paper, a child that was tried before is redrawn: here it would have the same
    accuracy. Several workers share the population.

    Args:
        population_size, sample_size: P and S of the paper.
        settings: see `DurableOracle`.
    """

    def __init__(self, *, population_size: int, sample_size: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.population_size = population_size
        self.sample_size = sample_size

    def population(self) -> list[Any]:
        """The living trials, oldest first."""
        completed = [trial for trial in self._ended() if trial.status == "COMPLETED"]
        return completed[-self.population_size :]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Values of the next trial; see `keras_tuner.Oracle.populate_space`."""
        living = self.population()
        if len(living) + len(self.ongoing_trials) < self.population_size:
            return self._answer(self._random_values())
        if not living:  # all trials are still running
            return {"status": "IDLE"}
        generator = random.Random(self._seed_state)
        self._seed_state += 1
        sample = generator.choices(living, k=self.sample_size)
        parent = max(sample, key=lambda trial: trial.score)
        for _ in range(self._max_collisions):
            child = mutate(parent.hyperparameters.values, self.encoding, generator)
            if not self._duplicate(child):
                return self._answer(child)
        return self._answer(self._random_values())

    @staticmethod
    def _answer(values: dict[str, Any] | None) -> dict[str, Any]:
        """Values for a trial, or the end of the search if there are none."""
        return {"status": "STOPPED" if values is None else "RUNNING", "values": values}

    def get_state(self) -> dict[str, Any]:
        sizes = {"population_size": self.population_size, "sample_size": self.sample_size}
        return {**super().get_state(), **sizes}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.population_size = state["population_size"]
        self.sample_size = state["sample_size"]


def mutate(values: Values, encoding: Encoding, generator: random.Random) -> dict[str, Any]:
    """A child of `values`: one edge's operation, one edge's input, or one training setting changed.

    The kinds of mutation are equally likely, as are the two of Real et al. (arXiv 1802.01548); so
    are all candidates of a kind, and all of their other values. A setting with a range is redrawn
    from it.
    """
    genotype, overrides = encoding.genotype(values), encoding.overrides(values)
    settings = [hp for hp in encoding.hyperparameters().space if _can_change(hp)]
    settings = [hp for hp in settings if hp.name not in encoding.choices]
    kinds = [_other_operations(genotype, encoding.space), _other_inputs(genotype)]
    kind = generator.choice([candidates for candidates in (*kinds, settings) if candidates])
    mutation = generator.choice(kind)
    child = encoding.values(genotype, overrides)
    if kind is settings:
        while child[mutation.name] == values[mutation.name]:
            child[mutation.name] = mutation.prob_to_value(generator.random())
        return child
    (cell, node, old), alternatives = mutation
    new = generator.choice(alternatives)
    return encoding.values(_replaced(genotype, cell, node, old, new), overrides)


#: (cell, node, edge) and what the edge may become.
Mutation = tuple[tuple[int, int, Edge], list[Edge]]


def _edges(genotype: Genotype) -> list[tuple[int, int, Edge]]:
    """(cell, node, edge) of all edges."""
    return [
        (number, node, edge)
        for number, cell in enumerate(genotype.cells)
        for node, edges in enumerate(cell)
        for edge in edges
    ]


def _other_operations(genotype: Genotype, space: SearchSpace) -> list[Mutation]:
    """Every edge, with each other operation."""
    return [
        (
            (cell, node, edge),
            [Edge(op, edge.state) for op in getattr(space, KINDS[cell]) if op != edge.op],
        )
        for cell, node, edge in _edges(genotype)
    ]


def _other_inputs(genotype: Genotype) -> list[Mutation]:
    """Every edge that could read another state, with each of those."""
    mutations = []
    for cell, node, edge in _edges(genotype):
        used = {sibling.state for sibling in genotype.cells[cell][node]}
        free = [Edge(edge.op, state) for state in range(2 + node) if state not in used]
        if free:
            mutations.append(((cell, node, edge), free))
    return mutations


def _replaced(genotype: Genotype, cell: int, node: int, old: Edge, new: Edge) -> Genotype:
    def changed(number: int, nodes: Cell) -> Cell:
        if number != cell:
            return nodes
        edges = tuple(new if edge == old else edge for edge in nodes[node])
        return (*nodes[:node], edges, *nodes[node + 1 :])

    return Genotype(changed(0, genotype.normal), changed(1, genotype.reduce))


def _can_change(hyperparameter: Any) -> bool:
    low = hyperparameter.prob_to_value(0.0)
    return low != hyperparameter.prob_to_value(1.0 - 1e-9)
