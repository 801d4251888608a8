"""Single-path one-shot search: a supernet trained on uniformly drawn paths, and an evolution that
measures paths on it."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.console import say
from bnas_larq.costs.expected_cost import network_of
from bnas_larq.costs.genotype_ops import ops_counter
from bnas_larq.errors import TrainingStopped
from bnas_larq.files import append_line, keep_lines_before, read_rows_to_resume
from bnas_larq.fitting.callbacks import Progress
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.run_records import PathRow
from bnas_larq.search.calibrated_path import CalibratedAccuracy
from bnas_larq.search.gradient_search import make_supernet, search_space, weight_optimizer
from bnas_larq.search.path_evolution import PathEvolution, genotype_of
from bnas_larq.search.searcher import SearchData, SearchResult, SupernetSearcher, running
from bnas_larq.search.tuning.records import TRIALS, best_row, cell_lists, write_front
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import ZEROISE, SearchSpace
from bnas_larq.strategies import scope_of
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.path_training import DrawPaths, PathTraining


@dataclasses.dataclass(eq=False)
class OneShotSearch(SupernetSearcher):
    """Single-path one-shot search: SPOS (Guo et al., arXiv 1904.00420).

    1. Each step trains the path of one genotype, a uniform draw from the space as `Genotype.random`
       makes it: of every node two edges with one operation each. So a path has the same edges as
       the final network; no α is trained.
    2. An evolution (`PathEvolution`) looks for the genotype whose path is most accurate on held-out
       images, with BatchNorm's statistics of its own (`CalibratedAccuracy`). Operations of the
       final network, counted honestly, may be bounded.

    Args:
        settings, num_classes, input_shape, seed, network, strategy: see `SupernetSearcher`.
            Settings of α are not read.
    """

    def __post_init__(self) -> None:
        self.path = FixedPath()
        data = self.num_classes, self.input_shape
        with scope_of(self.strategy):
            self.supernet = make_supernet(self.settings, self.path, *data, self.seed)
        network = self.network or network_of(self.supernet)
        self.evolution = make_evolution(self.settings, network, self.seed)

    def draw(self, step: int) -> Genotype:
        """The genotype whose path a step trains, a function of the seed and the step's number."""
        generator = random.Random(f"path {self.seed} {step}")
        return Genotype.random(self.evolution.space, generator.getrandbits(62))

    def run(
        self,
        data: SearchData,
        *,
        folder: Path,
        provenance: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """See `Searcher.run`; also writes trials.jsonl, a line per measured genotype, and
        pareto.json. `data.credit` are the held-out images.

        Raises:
            TrainingStopped: the loss is not finite, or no genotype within the bounds is found.
            RunError, BnasLarqError: trials.jsonl is damaged, or of another space.
        """
        with scope_of(self.strategy):
            done = self._fit(data, folder, callbacks)
        if done < self.settings.epochs:
            # What was measured on other weights.
            keep_lines_before(folder / TRIALS, 0, key="trial")
        return self._choose(self._evolve(data, folder), provenance)

    def _fit(
        self, data: SearchData, folder: Path, callbacks: Sequence[keras.callbacks.Callback]
    ) -> int:
        """Train the supernet to the last epoch; the number of epochs that were done before."""
        supernet, epochs = self.supernet, self.settings.epochs
        steps = data.weights.steps_per_epoch
        supernet.compile(optimizer=weight_optimizer(self.settings, epochs * steps))
        return resumable_fit(
            PathTraining(supernet),
            data.weights.dataset,
            steps_per_epoch=steps,
            epochs=epochs,
            checkpoints=Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            optimizers={"optimizer": (supernet.optimizer, supernet.network_variables)},
            checkpoint_minutes=self.settings.checkpoint_minutes,
            callbacks=[
                DrawPaths(self.path, self.draw, steps),
                Progress("search", epochs, steps, ("loss", "accuracy")),
                *callbacks,
            ],
        )

    def _evolve(self, data: SearchData, folder: Path) -> list[dict[str, Any]]:
        """Measure genotypes, after those that are recorded; the rows of trials.jsonl."""
        log, settings = folder / TRIALS, self.settings.one_shot
        rows = read_rows_to_resume(log, PathRow, key="trial")
        for row in rows:  # raises if one is of another space
            self.path.assign_genotype(genotype_of(row), self.supernet.space)
        done = len(rows)
        measure = CalibratedAccuracy(self.supernet, data, self.strategy)
        size, planned = settings.population, settings.population * settings.generations
        progress = Progress("search", settings.generations, size, ("best",), unit="generation")
        with running(progress):
            while len(rows) < planned:
                number = len(rows)
                generation, place = divmod(number, size)
                if place == 0 or number == done:
                    progress.on_epoch_begin(generation)
                begin = time.monotonic()
                genotype = self.evolution.propose(rows)
                if genotype is None:
                    say(f"search: no other cells within the bounds after {number}")
                    break
                self.path.assign_genotype(genotype, self.supernet.space)
                accuracy = measure.accuracy()
                row = {
                    "trial": number,
                    "generation": generation,
                    "genotype": genotype.id,
                    "accuracy": accuracy,
                    "cost": self.evolution.ops(genotype),
                    "seconds": round(time.monotonic() - begin, 3),
                    **cell_lists(genotype),
                }
                append_line(log, row)
                rows.append(row)
                progress.on_train_batch_end(place)
                if place == size - 1:
                    progress.on_epoch_end(generation, {"best": best_row(rows)["accuracy"]})
        write_front(folder, rows, "ops_honest")
        return rows

    def _choose(self, rows: list[dict[str, Any]], provenance: dict[str, Any]) -> SearchResult:
        best = best_row(rows)
        if best is None:
            raise TrainingStopped(
                "A one-shot search needs cells within its bounds. Received: none in "
                "random draws. Raise search.one_shot.maximum_ops, or lower minimum_ops."
            )
        facts = {"space": self.evolution.space.name, "measured": len(rows), "trial": best["trial"]}
        found = {**provenance, **facts, "ops_honest": best["cost"]}
        genotype = dataclasses.replace(genotype_of(best), provenance=found)
        return SearchResult(genotype, self.settings.epochs, best["accuracy"])


def drawn_space(settings: SearchSettings) -> SearchSpace:
    """The space that genotypes are drawn from: without Zeroise where it may not be chosen."""
    space = search_space(settings)
    if settings.zeroise_competes or ZEROISE not in {*space.normal, *space.reduce}:
        return space
    return space.without_operations([ZEROISE])


def make_evolution(settings: SearchSettings, network: NetworkConfig, seed: int) -> PathEvolution:
    """The evolution of a `OneShotSearch`, for final networks of a size."""
    return PathEvolution(settings.one_shot, drawn_space(settings), ops_counter(network), seed)
