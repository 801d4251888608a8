"""Regularised evolution as a keras-tuner oracle. Imports keras-tuner: import it lazily."""

from __future__ import annotations

import random
from typing import Any

from bnas_larq.search.genotype_variation import mutations
from bnas_larq.search.tuning.durable import DurableOracle
from bnas_larq.search.tuning.encoding import Encoding, Values


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
    kinds = [*mutations(genotype, encoding.space), settings]
    kind = generator.choice([candidates for candidates in kinds if candidates])
    mutation = generator.choice(kind)
    child = encoding.values(genotype, overrides)
    if kind is settings:
        while child[mutation.name] == values[mutation.name]:
            child[mutation.name] = mutation.prob_to_value(generator.random())
        return child
    return encoding.values(mutation(genotype, generator), overrides)


def _can_change(hyperparameter: Any) -> bool:
    low = hyperparameter.prob_to_value(0.0)
    return low != hyperparameter.prob_to_value(1.0 - 1e-9)
