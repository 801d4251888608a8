"""The processes that carry out one run under a strategy of several workers.

The chief works in the run's folder, which all of them see. Every other worker does the same in a
temporary copy of it: TensorFlow has all workers take part in writing a checkpoint, and the copy's
checkpoints are thrown away.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bnas_larq.backend import tf
from bnas_larq.errors import RecipeError, RunError
from bnas_larq.precision import RECORD
from bnas_larq.recipe import Recipe
from bnas_larq.run.creation import needs_search
from bnas_larq.run.inputs import RunInputs
from bnas_larq.settings import SearchSettings
from bnas_larq.strategies import (
    Strategy,
    check_batch,
    is_chief,
    make_strategy,
    scope_of,
    wait_for_all,
)
from bnas_larq.train_settings import TrainStage

Found = TypeVar("Found")

#: Errors of a cluster's remaining processes when one is lost.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
)


class Team:
    """The strategy of a run, and this process' place in it.

    Args:
        strategy: None for one device.
    """

    def __init__(self, strategy: Strategy | None = None) -> None:
        self.strategy = strategy
        self.is_chief = is_chief(strategy)
        self._path: Path | None = None
        self._home: Path | None = None
        self._copy: tempfile.TemporaryDirectory | None = None

    @classmethod
    def of(cls, strategy: str | Strategy | None, recipe: Recipe, stages: Collection[str]) -> Team:
        """The team of a strategy, or of its name, see `make_strategy`.

        Args:
            recipe, stages: what it will do: the recipe's `search`, its `train`, or both.

        Raises:
            RecipeError: what does not run under a strategy.
            BnasLarqError: as of `make_strategy` and `check_batch`.
        """
        if strategy is None:
            return cls()
        _check_recipe(recipe, stages)
        team = cls(make_strategy(strategy) if isinstance(strategy, str) else strategy)
        team.check(recipe, stages)
        return team

    def check(self, recipe: Recipe, stages: Collection[str]) -> None:
        """Raise what `of` raises for a recipe, if there is a strategy."""
        if self.strategy is None:
            return
        _check_recipe(recipe, stages)
        for section in _sections(recipe, stages):
            check_batch(section.batch_size, self.strategy)

    def of_network(self, recipe: Recipe) -> Team:
        """As the team of a study: that of one of its networks, whose folder is in the study's;
        errors as of `check`."""
        self.check(recipe, ("train",))
        return Team(self.strategy)

    def home(self, path: Path) -> Path:
        """Where this process works on the run in a folder: there, or in a copy of its own."""
        return path if self.is_chief else self._copy_of(path)

    def share(self) -> None:
        """As the chief, once the run's folder is ready: let the others copy it."""
        if self.is_chief:
            self.wait()
            self.wait()

    def _copy_of(self, path: Path) -> Path:
        """As another worker: a temporary copy of the run's folder, once the chief shares it.

        Raises:
            RunError: this machine does not see the folder.
        """
        self.wait()
        if not (path / "recipe.yaml").is_file():
            raise RunError(
                "All workers see the folder of their run. "
                f"Received: {path}, which is not here. Put --out on a shared disk."
            )
        self._path, self._copy = path, tempfile.TemporaryDirectory(prefix="bnas-larq-worker-")
        self._home = Path(self._copy.name) / path.name
        shutil.copytree(path, self._home, ignore=shutil.ignore_patterns(".lock", "tensorboard"))
        self.wait()
        return self._home

    def with_precision(self, inputs: RunInputs, stage: str, settings: Any) -> Any:
        """As of `RunInputs`, see `with_record`."""
        choose = partial(inputs.with_precision, stage, settings)
        return self.with_record(inputs.folder / stage, choose)

    def with_record(self, folder: Path, choose: Callable[[], Found]) -> Found:
        """What `choose` returns, which reads what the precision `auto` means from the record in a
        folder of the run, or measures it: the chief measures for all."""
        if self.is_chief:
            chosen = choose()
            self.wait()
            return chosen
        self.wait()
        # A study's networks measure nothing.
        if self._home is not None:
            measured = self._path / folder.relative_to(self._home) / RECORD
            if measured.is_file():
                folder.mkdir(exist_ok=True)
                shutil.copyfile(measured, folder / RECORD)
        return choose()

    def wait(self) -> None:
        """Wait for the others: a cluster fails when one of its processes ends."""
        with self._together():
            wait_for_all(self.strategy)

    def close(self) -> None:
        """Remove the temporary copy, if there is one."""
        if self._copy is not None:
            self._copy.cleanup()

    @contextlib.contextmanager
    def working(self, scope: bool = False) -> Iterator[None]:
        """Around search and training, with `scope` in the strategy's: RunError if another process
        is lost."""
        with self._together(), scope_of(self.strategy if scope else None):
            yield

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except _LOST as error:
            if not isinstance(self.strategy, tf.distribute.MultiWorkerMirroredStrategy):
                raise
            raise RunError(
                "A run needs all its workers. "
                f"Received: one of them ended ({type(error).__name__}). "
                "Start all of them again with --resume."
            ) from error


def _sections(recipe: Recipe, stages: Collection[str]) -> list[SearchSettings | TrainStage]:
    """The settings of what will be done: of the search, and of each stage of the training."""
    searches = "search" in stages and needs_search(recipe)
    trains = "train" in stages or "study" in stages
    return [recipe.search] * searches + [*recipe.plan] * trains


def _check_recipe(recipe: Recipe, stages: Collection[str]) -> None:
    """Raise RecipeError for what does not run under a strategy."""
    sections = _sections(recipe, stages)
    if any(getattr(section, "accumulate", 1) > 1 for section in sections):
        raise RecipeError(
            "Replicas share a batch already. Received: train.accumulate above 1 under a "
            "strategy. Set it to 1, or omit --strategy."
        )
    minutes = max(section.checkpoint_minutes for section in sections) if sections else 0
    if minutes:
        raise RecipeError(
            "Under a strategy, checkpoints are written between epochs. "
            f"Received: checkpoint_minutes {minutes:g}. Set it to 0, or omit --strategy."
        )
    if recipe.search in sections and recipe.search.searcher == "tuner":
        raise RecipeError(
            "Trials of keras-tuner run on one device each, in several workers. "
            "Received: search.searcher tuner. Omit --strategy."
        )
