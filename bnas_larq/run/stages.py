"""The stages of a run: which ones are done, how each is done once, and what they found out."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.data import data_errors
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RunError, one_line
from bnas_larq.files import read_record, read_rows, visible_files
from bnas_larq.recipe import Recipe
from bnas_larq.run_folder import RunFolder
from bnas_larq.run_records import Export, Timed

STAGES = ("search", "train", "evaluate", "export")
#: Files without which a stage does not count as done: when one is lost, the stage is done again.
RESULTS = {
    "search": ("genotype.json",),
    "train": ("network.json", "weights.h5"),
    "export": ("export.json", "model.tflite"),
}
#: Series of what a stage did, with the seconds of each row.
_LOGS = ("metrics.jsonl", "draws.jsonl", "perturbation.jsonl", "trials.jsonl")


@contextlib.contextmanager
def stage_errors() -> Iterator[None]:
    """Turn TensorFlow's errors about images into DataErrors, and about memory into a RunError."""
    try:
        with data_errors():
            yield
    except tf.errors.ResourceExhaustedError as error:
        if not re.search("OOM|out of memory|allocat", str(error.message), re.IGNORECASE):
            raise  # such as a full disk
        raise RunError(
            "A batch must fit into the memory of the device. "
            f"Received: {one_line(error.message)[:200]}. Lower batch_size, or use "
            "train.accumulate, in a new run."
        ) from error


class Stages:
    """The stages of one run folder; each starts from `seed`."""

    def __init__(self, folder: RunFolder, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def is_done(self, name: str) -> bool:
        """Whether a stage is marked done and its files are there."""
        files = RESULTS.get(name, ())
        if name == "search" and "genotype" not in self.folder.facts(name):
            files = ()  # of a network without cells
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
        if self.folder.stage_done(name) and not self.is_done(name):
            # Its files were lost: what came from them must come from the new ones.
            for stage in STAGES[STAGES.index(name) :]:
                if not (self.folder / stage / "tuner").exists():  # keras-tuner repeats no trial
                    for log in _LOGS:
                        (self.folder / stage / log).unlink(missing_ok=True)
                self.folder.mark_undone(stage)
        # Every stage starts from the seed: it does not matter which ones ran in this process.
        keras.backend.clear_session()
        make_deterministic(self.seed)
        start = time.monotonic()
        with stage_errors():
            facts = work() or {}
        earlier = facts.pop("earlier_seconds", 0.0)
        seconds = time.monotonic() - start + earlier
        self.folder.mark_done(name, seconds=round(seconds, 2), **facts)

    def recorded_seconds(self, name: str, workers: int = 1) -> float:
        """Time of what earlier processes did of a stage: epochs, draws, decisions, and trials, of
        which `workers` ran at a time."""
        folder = self.folder / name
        return sum(
            (row.get("seconds") or 0.0) / (workers if log == "trials.jsonl" else 1)
            for log in _LOGS
            for row in read_rows(folder / log, Timed)
        )


#: What result.json repeats of export.json.
EXPORT_KEYS = (
    *("file", "bytes", "sha256", "float_storage", "memory"),
    *("binary_convolutions", "float_convolutions", "parity"),
)


def collect_result(
    stages: Stages, recipe: Recipe, cost: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A run's results so far, for its result.json; `cost` is None before a network is trained.
    RunError for the folder of a study or comparison, which has other results."""
    folder = stages.folder
    folder.check_single()
    facts = {stage: folder.facts(stage) for stage in STAGES}
    wanted = STAGES if recipe.export.enabled else STAGES[:-1]
    result: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "finished": all(stages.is_done(stage) for stage in wanted),
        "genotype": facts["search"].get("genotype"),
        "test_accuracy": facts["evaluate"].get("test", {}).get("accuracy"),
        "test": facts["evaluate"].get("test"),
        "validation_accuracy": facts["train"].get("validation_accuracy"),
        "supernet_validation_accuracy": facts["search"].get("supernet_validation_accuracy"),
        "seconds": {stage: fact.get("seconds") for stage, fact in facts.items()},
        "wall_seconds": round(sum(fact.get("seconds", 0.0) for fact in facts.values()), 2),
    }
    if recipe.finetune is not None:
        result["finetuned_from"] = recipe.finetune.entry
    if cost is not None:
        result["cost"] = dict(cost)
    if (folder / "export.json").exists():
        report = read_record(folder / "export.json", Export)
        result["export"] = {key: report[key] for key in EXPORT_KEYS if key in report}
    result["files"] = [name for name in visible_files(folder.path) if name != "result.json"]
    return result
