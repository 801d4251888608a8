"""P-DARTS and BATS: gradient searches in stages, each in a deeper supernet of the candidates that
the one before left on each edge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import bilevel_pipeline
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError, RunError
from bnas_larq.files import read_rows
from bnas_larq.run_records import Alphas
from bnas_larq.search.alarms import RECORD as ALARMS
from bnas_larq.search.alarms import Alarms
from bnas_larq.search.gradient_search import RECORD, GradientSearch, check_sizes, search_space
from bnas_larq.search.searcher import SearchData, SearchResult, SupernetSearcher
from bnas_larq.settings import SearchSettings

#: Booleans [edges, operations] of normal and reduction cells.
Alive = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(eq=False)
class ProgressiveSearch(SupernetSearcher):
    """Search in stages (P-DARTS, arXiv 1904.12760, §3.2; BATS, arXiv 2003.01711, §4.3).

    Every stage is a `GradientSearch` in a new supernet, with new weights, α and optimizers, whose
    learning rate, entropy term and temperature begin anew. Behind each stage but the last, each
    edge keeps the candidates with the largest α. The last stage gives the genotype.

    Args:
        settings, num_classes, input_shape, seed, network, strategy: see `SupernetSearcher`. The
            settings' `progressive` says what the stages are; for the seed of each see `stage_seed`.

    Raises:
        RecipeError: see `check_stages`.
    """

    def __post_init__(self) -> None:
        check_stages(self.settings)

    def run(
        self,
        data: SearchData,
        *,
        folder: Path,
        provenance: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """See `Searcher.run`; the records are those of `GradientSearch`, with the epochs of all
        stages one after the other. A stage that an earlier process finished is not made again: the
        α of its last epoch tell what it left.

        Raises:
            TrainingStopped: see `GradientSearch.run`; also at an alarm of a stage's last epoch.
        """
        steps_per_epoch = bilevel_pipeline(data.weights, data.alphas).steps_per_epoch
        *earlier, last = stage_settings(self.settings)
        begin, alive = 0, None
        for number, (settings, kept) in enumerate(
            zip(earlier, self.settings.progressive.kept, strict=True)
        ):
            # Saved behind everything else of an epoch, so that nothing of the stage is missing.
            if settings.epochs not in _checkpoints(folder, number).numbers():
                self._stage(number, settings, begin, alive).train(
                    steps_per_epoch, data, folder=folder, callbacks=callbacks
                )
            else:
                # A search that an alarm stopped at the end of a stage has not been told to go on.
                Alarms(
                    settings.alarms, epochs=range(begin, settings.epochs), log=folder / ALARMS
                ).check()
            begin = settings.epochs
            logits = _last_logits(folder / RECORD, begin)
            alive = strongest(logits["normal"], kept), strongest(logits["reduce"], kept)
        stage = self._stage(len(earlier), last, begin, alive)
        stage.train(steps_per_epoch, data, folder=folder, callbacks=callbacks)
        rows = [row for row in read_rows(folder / RECORD, Alphas) if row["epoch"] >= begin]
        return stage.choose(rows, provenance)

    def _stage(
        self, number: int, settings: SearchSettings, begin: int, alive: Alive | None
    ) -> _Stage:
        # Each stage is the same whichever ones ran in this process before.
        keras.backend.clear_session()
        seed = stage_seed(self.seed, number)
        make_deterministic(seed)
        return _Stage(
            settings,
            self.num_classes,
            self.input_shape,
            seed,
            network=self.network,
            first_epoch=begin,
            strategy=self.strategy,
            number=number,
            alive=alive,
        )


@dataclasses.dataclass(eq=False, kw_only=True)
class _Stage(GradientSearch):
    """The gradient search of stage `number` over the candidates that are `alive`, or all."""

    number: int
    alive: Alive | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alive is not None:
            self.supernet.prune(*self.alive)

    @property
    def optimizer_epochs(self) -> int:
        return self.settings.epochs - self.first_epoch

    def checkpoints(self, folder: Path) -> Checkpoints:
        return _checkpoints(folder, self.number)

    def train(self, steps_per_epoch: int, data: SearchData, **settings: Any) -> None:
        """Train the stage to its end; errors as of `fit`."""
        self.compile(steps_per_epoch)
        self.fit(data, **settings)


def _checkpoints(folder: Path, stage: int) -> Checkpoints:
    return Checkpoints(folder / "checkpoints" / f"stage{stage}")


def _last_logits(path: Path, epochs: int) -> dict[str, Any]:
    """The line of alphas.jsonl after so many epochs."""
    for row in read_rows(path, Alphas):
        if row["epoch"] == epochs - 1:
            return row
    raise RunError(
        "A finished stage of a search needs its record of α. "
        f"Received: {path} without epoch {epochs - 1}. "
        "Delete the folder search/ and resume to search again."
    )


def strongest(logits: Sequence[Sequence[float]], count: int) -> np.ndarray:
    """Booleans [edges, operations]: the `count` largest logits of each edge, of equal ones the
    first.

    Example:
        >>> strongest([[0.1, 0.3, 0.2], [0.0, 0.0, 0.0]], 2).tolist()
        [[False, True, True], [True, True, False]]
    """
    values = np.asarray(logits)
    order = np.argsort(-values, axis=1, kind="stable")
    kept = np.zeros(values.shape, bool)
    np.put_along_axis(kept, order[:, :count], True, axis=1)
    return kept


def stage_seed(seed: int, number: int) -> int:
    """The seed of a stage, below 2³². Unlike with a sum, no stage of one seed repeats another
    stage of the next.

    Example:
        >>> len({stage_seed(seed, number) for seed in range(9) for number in range(9)})
        81
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def stage_settings(settings: SearchSettings) -> list[SearchSettings]:
    """The settings of each stage's `GradientSearch`: cells, the number of its last epoch, and that
    of the epoch in which its α start to move."""
    cells = settings.progressive.cells
    ends = [(number + 1) * settings.epochs // len(cells) for number in range(len(cells))]
    stages = []
    for count, begin, end in zip(cells, [0, *ends], ends, strict=False):
        start = begin + settings.alpha_start_epoch
        changes = {"cells": count, "epochs": end, "alpha_start_epoch": start}
        stages.append(settings.model_copy(update=changes))
    return stages


def check_stages(settings: SearchSettings) -> None:
    """Raise RecipeError for stages that leave no choice, or have no epoch that trains α;
    BnasLarqError as of `check_sizes`."""
    space, kept = search_space(settings), settings.progressive.kept
    candidates = min(len(space.normal), len(space.reduce))
    if kept and kept[0] >= candidates:
        raise RecipeError(
            "Each stage of a progressive search has fewer candidates than the one before. "
            f"Received: search.progressive.kept {list(kept)} in space {space.name!r}, whose edges "
            f"have {candidates}. Lower it."
        )
    stages = stage_settings(settings)
    for begin, stage in zip([0, *(stage.epochs for stage in stages)], stages, strict=False):
        if stage.epochs <= stage.alpha_start_epoch:
            raise RecipeError(
                "Each stage of a progressive search trains α in at least one epoch. Received: "
                f"search.epochs {settings.epochs} for {len(stages)} stages with "
                f"search.alpha_start_epoch {settings.alpha_start_epoch}: {stage.epochs - begin} in "
                "one of them. Raise the first, or lower the second."
            )
        check_sizes(stage)
