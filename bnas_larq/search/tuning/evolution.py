"""Regularised evolution as an oracle of keras-tuner. Imports keras-tuner: import it lazily."""

from __future__ import annotations

import random
from typing import Any

from bnas_larq.search.tuning.durable import DurableOracle
from bnas_larq.search.tuning.mutation import mutate


class EvolutionOracle(DurableOracle):
    """Regularised (ageing) evolution: Real, Aggarwal, Huang, Le, arXiv 1802.01548, algorithm 1.

    The population begins with random trials. Then, again and again, `sample_size` of the living are
    drawn with replacement, the most accurate of them is the parent, and its child differs from it
    in one thing (`bnas_larq.search.tuning.mutation`). With each trial that ends, the oldest dies,
    however good it is. The living therefore are the last `population_size` trials that ended, and
    the order of the ends is all the state that there is, besides the next seed.

    A child that was tried before is drawn again, unlike in the paper: here the same trial would
    give the same accuracy.

    Several workers share the population: a child is born from those that live at that moment.

    Args:
        population_size: P of the paper.
        sample_size: S of the paper.
        settings: as of `DurableOracle`.
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
        if not living:  # all that there are still run
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
        """Values for a trial, or the end because there are no new ones."""
        return {"status": "STOPPED" if values is None else "RUNNING", "values": values}

    def get_state(self) -> dict[str, Any]:
        sizes = {"population_size": self.population_size, "sample_size": self.sample_size}
        return {**super().get_state(), **sizes}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.population_size = state["population_size"]
        self.sample_size = state["sample_size"]
