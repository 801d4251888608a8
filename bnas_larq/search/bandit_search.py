"""BNAS-UCB: sampled paths earn credit for their operations, every edge abandons its worst ones, and
a gradient search decides among the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import bilevel_pipeline
from bnas_larq.errors import RecipeError
from bnas_larq.files import append_line, keep_lines_before, read_rows, write_json
from bnas_larq.fitting.callbacks import Progress, stop_unless_finite
from bnas_larq.fitting.resume import TrainingState
from bnas_larq.run_records import Alphas
from bnas_larq.search.gradient_search import RECORD, GradientSearch, search_space
from bnas_larq.search.searcher import SearchData, SearchResult, SupernetSearcher, running
from bnas_larq.search.single_path import SinglePath
from bnas_larq.search.ucb import UcbTable
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import ZEROISE, SearchSpace
from bnas_larq.strategies import of_chief, scope_of
from bnas_larq.supernet.architecture import PRUNED
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.super_net import SuperNet

#: Seconds between checkpoints of the draws: about what a killed search loses.
CHECKPOINT_SECONDS = 30.0


@dataclasses.dataclass(eq=False, kw_only=True)
class BanditSearch(SupernetSearcher):
    """BNAS-UCB (Chen et al., arXiv 2009.04247).

    1. A draw samples one operation per edge without replacement (`UcbTable`), trains that path of
       the supernet, measures its accuracy on the α half, and credits it to every operation of the
       path.
    2. After T rounds of K draws every edge abandons the operation with the smallest upper
       confidence bound, down to the floor.
    3. The finish, a gradient search over the survivors, gives the genotype. Without epochs for it,
       every edge takes the survivor with the best mean credit.

    All paths share the supernet's weights and optimizer, whose learning rate decays over the whole
    search; decay and momentum also move the kernels outside a path. The draws share the steps of
    the epochs before the finish equally (to within one).

    A path is measured with batch statistics, as it was trained, because moving averages mix the
    paths before it; measuring does not change them.

    Args:
        settings, num_classes, input_shape, seed, network, strategy: see `SupernetSearcher`.
            Settings of α apply to the finish, where the entropy term and the temperature start.
        checkpoint_seconds: see `CHECKPOINT_SECONDS`.

    Raises:
        BnasLarqError: see `make_table` and `GradientSearch`.
    """

    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def __post_init__(self) -> None:
        self.space = search_space(self.settings)
        self.table = make_table(self.settings, self.seed)
        self.finish = GradientSearch(
            self.settings,
            self.num_classes,
            self.input_shape,
            self.seed,
            network=self.network,
            first_epoch=_first_epoch(self.settings),
            strategy=self.strategy,
        )

    @property
    def supernet(self) -> SuperNet:
        """The supernet of draws and finish."""
        return self.finish.supernet

    def run(
        self,
        data: SearchData,
        *,
        folder: Path,
        provenance: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """See `Searcher.run`; also writes draws.jsonl, a line per draw, and ucb.json, the table
        after the last complete round. The finish writes metrics.jsonl and alphas.jsonl, and calls
        `callbacks`.

        Raises:
            RecipeError: fewer steps than draws.
            TrainingStopped: the loss is not finite, or the derived normal cell is all Zeroise.
        """
        steps_per_epoch = bilevel_pipeline(data.weights, data.alphas).steps_per_epoch
        first_epoch = self.finish.first_epoch
        check_steps(self.settings, self.table, steps_per_epoch)
        self.finish.compile(steps_per_epoch)
        relaxation, self.supernet.relaxation = self.supernet.relaxation, FixedPath()
        try:
            self._draw(data, first_epoch * steps_per_epoch, folder)
        finally:
            self.supernet.relaxation = relaxation
        self.supernet.prune(*self._by_kind(self.table.alive))
        if self.settings.bandit.finish_epochs:
            self.finish.fit(data, folder=folder, callbacks=callbacks)
            rows = read_rows(folder / RECORD, Alphas)
        else:
            scores = np.where(self.table.alive, self.table.means(), PRUNED)
            normal, reduce = (kind.tolist() for kind in self._by_kind(scores))
            rows = [{"epoch": first_epoch - 1, "normal": normal, "reduce": reduce}]
        return self.finish.choose(rows, provenance)

    def _draw(self, data: SearchData, steps: int, folder: Path) -> None:
        """Make all draws, from the newest checkpoint if there is one."""
        table, supernet = self.table, self.supernet
        log = folder / "draws.jsonl"
        # The finish numbers its checkpoints by epoch.
        checkpoints = Checkpoints(folder / "checkpoints" / "draws")
        with scope_of(self.strategy):
            optimizers = {"optimizer": (supernet.optimizer, supernet.network_variables)}
            state = TrainingState(supernet, optimizers, checkpoints)
            done, record = state.restore()
        if record is not None:
            table.restore(record)
        keep_lines_before(log, done, key="draw")
        if table.done:
            return
        path = SinglePath(supernet, data, self.settings.bandit.credit_examples, self.strategy)
        # The first step of each draw.
        starts = [draw * steps // table.planned for draw in range(table.planned + 1)]
        path.start(starts[done])
        shown = ("loss", "accuracy", "credit")
        progress = Progress("search", table.planned, steps // table.planned, shown, unit="draw")
        saved = time.monotonic()
        with running(progress):
            for draw in range(done, table.planned):
                progress.on_epoch_begin(draw)
                begin, rounds, chosen = time.monotonic(), table.round, table.path()
                with scope_of(self.strategy):
                    supernet.relaxation.assign(*self._by_kind(chosen))
                results = path.train(starts[draw + 1] - starts[draw], progress)
                stop_unless_finite("loss", results["loss"], f"draw {draw + 1}")
                results["credit"] = path.accuracy()
                table.credit(results["credit"])
                seconds = round(time.monotonic() - begin, 3)
                row = {"draw": draw, "round": rounds, **results, **self._named(chosen)}
                append_line(log, {**row, "seconds": seconds})
                if table.round > rounds:
                    self._write_table(folder / "ucb.json", draw + 1)
                # All processes save together, when the chief's clock says so.
                passed = of_chief(self.strategy, lambda since=saved: time.monotonic() - since)
                if table.done or passed >= self.checkpoint_seconds:
                    with scope_of(self.strategy):
                        state.save(draw + 1, table.state())
                    saved = time.monotonic()
                progress.on_epoch_end(draw, results)

    def _by_kind(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The table's rows of normal and reduction edges, in the shapes of α."""
        edges = len(self.space.edges)
        if values.ndim == 1:
            return values[:edges], values[edges:]
        return values[:edges, : len(self.space.normal)], values[edges:, : len(self.space.reduce)]

    def _named(self, chosen: np.ndarray) -> dict[str, list[str]]:
        normal, reduce = self._by_kind(chosen)
        return {
            "normal": [self.space.normal[column] for column in normal],
            "reduce": [self.space.reduce[column] for column in reduce],
        }

    def _write_table(self, path: Path, draws: int) -> None:
        edges = self.space.edges
        names = [self.space.normal] * len(edges) + [self.space.reduce] * len(edges)
        rows = [
            {"node": node, "state": state, "operations": operations}
            for (node, state), operations in zip(edges * 2, self.table.report(names), strict=True)
        ]
        normal, reduce = rows[: len(edges)], rows[len(edges) :]
        counts = {"round": self.table.round, "draws": draws, "planned": self.table.planned}
        write_json(path, {**counts, "normal": normal, "reduce": reduce})


def make_table(settings: SearchSettings, seed: int) -> UcbTable:
    """The initial table of a `BanditSearch`. Errors as of `UcbTable`; RecipeError if Zeroise may be
    the last candidate of an edge, but may not be chosen.
    """
    space, bandit = search_space(settings), settings.bandit
    has_zeroise = ZEROISE in space.normal or ZEROISE in space.reduce
    if bandit.floor == 1 and has_zeroise and not settings.zeroise_competes:
        raise RecipeError(
            "Every edge must keep a candidate that may be chosen. Received: search.bandit.floor 1 "
            f"in space {space.name!r} with search.zeroise_competes false, where the last one may "
            "be Zeroise. Set search.bandit.floor to 2 or more, or search.zeroise_competes to true."
        )
    return UcbTable(
        _candidates(space),
        rounds=bandit.rounds,
        floor=bandit.floor,
        exploration=bandit.exploration,
        seed=seed,
    )


def check_steps(settings: SearchSettings, table: UcbTable, steps_per_epoch: int) -> None:
    """Raise RecipeError if there are fewer steps than draws before the finish."""
    draws, epochs = table.planned, _first_epoch(settings)
    if epochs * steps_per_epoch < draws:
        finish = settings.bandit.finish_epochs
        needed = finish - -draws // steps_per_epoch
        raise RecipeError(
            "Every draw of BNAS-UCB needs at least one training step. "
            f"Received: {draws} draws ({settings.bandit.rounds} rounds for each number of "
            f"candidates) and {epochs} epochs of {steps_per_epoch} steps for them, "
            f"search.epochs {settings.epochs} without the finish. Set search.epochs to "
            f"{needed} or more, or lower search.bandit.rounds or search.bandit.finish_epochs."
        )


def _first_epoch(settings: SearchSettings) -> int:
    """The first epoch of the finish; the draws share those before it."""
    return max(0, settings.epochs - settings.bandit.finish_epochs)


def _candidates(space: SearchSpace) -> np.ndarray:
    """The cells of the table that exist, with rows of normal edges before reduction edges."""
    width = max(len(space.normal), len(space.reduce))
    counts = [len(space.normal)] * len(space.edges) + [len(space.reduce)] * len(space.edges)
    return np.arange(width)[None, :] < np.array(counts)[:, None]
