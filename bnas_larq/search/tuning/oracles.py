"""The oracles of recipes, which propose trials. Imports keras-tuner: import it lazily."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from bnas_larq.search.tuning.durable import DurableOracle
from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.evolution import EvolutionOracle
from bnas_larq.settings import TunerSettings


class RandomOracle(DurableOracle, RandomSearchOracle):
    """keras-tuner's random search."""


class HyperOracle(DurableOracle, HyperbandOracle):
    """keras-tuner's Hyperband (Li et al., arXiv 1603.06560), run once over all its brackets."""


class BayesianOracle(DurableOracle, BayesianOptimizationOracle):
    """keras-tuner's Bayesian optimisation: a Gaussian process with a Matérn kernel, UCB.

    It treats choices as numbers in the order of their list. A proposal that was tried before is
    replaced by a random one.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Values of the next trial; see `keras_tuner.Oracle.populate_space`."""
        # keras-tuner does not save this generator.
        self._random_state = np.random.RandomState((self.seed + len(self.trials)) % 2**32)
        # The matrices are tiny: threads cost more than they gain (half of the time on two cores).
        with threadpool_limits(1), warnings.catch_warnings():
            # The kernel's length scale at a bound of its range: nothing that a user could fix.
            warnings.filterwarnings("ignore", module="sklearn")
            proposal = super().populate_space(trial_id)
        if proposal["status"] == "RUNNING" and self._duplicate(proposal["values"]):
            return self._random_populate_space()
        return proposal


def make_oracle(
    settings: TunerSettings, encoding: Encoding, seed: int, on_end: Callable[[list[Any]], None]
) -> DurableOracle:
    """The settings' oracle; for the other arguments see `DurableOracle`."""
    shared = {"encoding": encoding, "on_end": on_end, "max_trials": settings.trials}
    shared["seed"] = spread(seed)
    if settings.oracle == "random":
        return RandomOracle(**shared)
    if settings.oracle == "bayesian":
        # keras-tuner's default, three times the number of hyperparameters, is 72 for a genotype.
        points = min(3 * len(encoding.hyperparameters().space), max(2, settings.trials // 3))
        return BayesianOracle(num_initial_points=points, **shared)
    if settings.oracle == "hyperband":
        return HyperOracle(max_epochs=settings.epochs, factor=settings.hyperband_factor, **shared)
    return EvolutionOracle(
        population_size=settings.population, sample_size=settings.sample, **shared
    )


def spread(seed: int) -> int:
    """A seed for keras-tuner, never 0 and far from those of neighbouring seeds.

    keras-tuner treats 0 as no seed, and increments its seed with each value that it draws: searches
    with seeds 1 and 2 would draw the same values, shifted by one.
    """
    digest = hashlib.sha256(f"tuner {seed}".encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") % (2**31 - 1)
