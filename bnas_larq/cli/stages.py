"""Which stages of a run are done, and how each one is done once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bnas_larq.cli.console import say
from bnas_larq.runs import RunFolder, read_lines

STAGES = ("search", "train", "evaluate", "export")
#: Files without which a stage does not count as done: when one is lost, the stage is done again.
RESULTS = {"train": ("network.json", "weights.h5"), "export": ("export.json", "model.tflite")}


class Stages:
    """The stages of one run folder.

    Args:
        folder: the run's folder.
        seed: what every stage starts from.
    """

    def __init__(self, folder: RunFolder, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def is_done(self, name: str) -> bool:
        """Whether a stage is marked done and its files are there."""
        files = RESULTS.get(name, ())
        return self.folder.stage_done(name) and all((self.folder / f).is_file() for f in files)

    def do(self, name: str, work: Callable[[], dict[str, Any] | None], again: bool = False) -> None:
        """Do a stage unless it is done (or `again`); mark it done with its time and facts."""
        if self.is_done(name) and not again:
            say(f"{name}: already done")
        else:
            self._do(name, work)
        # Not before the stage is marked: a process killed in between would have to begin again.
        self.folder.checkpoints(name).clear()

    def _do(self, name: str, work: Callable[[], dict[str, Any] | None]) -> None:
        from bnas_larq.backend import keras, make_deterministic
        from bnas_larq.data import data_errors

        if self.folder.stage_done(name) and not self.is_done(name):
            # Its files were lost: what came from them must come from the new ones.
            for stage in STAGES[STAGES.index(name) :]:
                self.folder.mark_undone(stage)
        # Every stage starts from the seed: it does not matter which ones ran in this process.
        keras.backend.clear_session()
        make_deterministic(self.seed)
        start = time.monotonic()
        with data_errors():
            facts = work() or {}
        earlier = facts.pop("earlier_seconds", 0.0)
        seconds = time.monotonic() - start + earlier
        self.folder.mark_done(name, seconds=round(seconds, 2), **facts)

    def recorded_seconds(self, name: str, workers: int = 1) -> float:
        """Time of what earlier processes did of a stage: epochs, draws, and trials, of which
        `workers` ran at a time."""
        folder = self.folder / name
        shares = {"metrics.jsonl": 1, "draws.jsonl": 1, "trials.jsonl": workers}
        return sum(
            row["seconds"] / share
            for file, share in shares.items()
            for row in read_lines(folder / file)
        )
