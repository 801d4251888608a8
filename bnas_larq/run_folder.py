"""The run folder: everything that one run writes, so that it can be killed and resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import RunError, one_line
from bnas_larq.files import check_plain_tree, read_record, write_atomic, write_json
from bnas_larq.recipe import Recipe, parse_recipe
from bnas_larq.run_records import State
from bnas_larq.text_files import is_text, read_yaml

if TYPE_CHECKING:
    from filelock import BaseFileLock


def _entries(path: Path) -> list[Path]:
    """A folder's entries, without the lock and what `write_atomic` leaves when it is killed."""
    return [
        entry
        for entry in sorted(path.iterdir())
        if entry.name != ".lock"
        and not (entry.name.startswith(".") and entry.name.endswith(".tmp"))
    ]


class RunFolder:
    """One run's folder: resolved recipe, environment, stages, metrics, checkpoints, results.

    Use `RunFolder.create` for a new run and `RunFolder.open` for an existing one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: BaseFileLock | None = None

    @classmethod
    def create(cls, path: str | Path, recipe_yaml: str, *, overwrite: bool = False) -> RunFolder:
        """Make the folder of a new run, and lock it. RunError as of `check_new`, or if another
        process works in the folder, or it cannot be made.
        """
        cls.check_new(path, overwrite=overwrite)
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"A run needs a folder to write to. Received: {one_line(error)}. "
                "Choose another --out."
            ) from error
        check_plain_tree(folder.path)
        folder.lock()
        # Again, now that no other process can work here.
        cls.check_new(path, overwrite=overwrite)
        for entry in _entries(folder.path):
            # The recipe marks the folder as a run's, so it is replaced last and atomically.
            if entry.name == "recipe.yaml":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        write_atomic(folder / "recipe.yaml", recipe_yaml)
        return folder

    @staticmethod
    def check_new(path: str | Path, *, overwrite: bool = False) -> None:
        """Raise RunError if a new run may not be made here: the folder is not empty (without
        `overwrite`), or is no run folder. Changes nothing.
        """
        path = Path(path)
        if not is_text(str(path)):
            raise RunError(
                "A run's folder has a name of Unicode characters. "
                f"Received: {str(path)!a}. Choose another --out."
            )
        if not path.exists() or (path.is_dir() and not _entries(path)):
            return
        if not overwrite:
            raise RunError(
                f"A new run needs a new or empty folder. Received: {path}, which exists. "
                "Choose another --out, continue it with --resume, or replace it with --overwrite."
            )
        # A recipe.yaml alone may be the user's own.
        marks = (path / ".lock", path / "environment.json")
        if not (path / "recipe.yaml").is_file() or not any(mark.is_file() for mark in marks):
            raise RunError(
                "Only an earlier run's folder is ever replaced. "
                f"Received: {path}, which holds other things. Choose another --out."
            )

    @staticmethod
    def check_outside(path: str | Path, images: str | Path | None) -> None:
        """Raise RunError for a run inside its folder of images, which its pictures would join."""
        if images is not None and Path(path).resolve().is_relative_to(Path(images).resolve()):
            raise RunError(
                "A run is not written into the folder of its images, which it would change. "
                f"Received: {path}, inside {images}. Choose another --out."
            )

    @classmethod
    def open(cls, path: str | Path, *, lock: bool = False) -> RunFolder:
        """Open an existing run's folder; RunError if it is none, or holds links or pipes."""
        folder = cls(path)
        if not (folder.path / "recipe.yaml").is_file():
            raise RunError(
                f"A run folder holds recipe.yaml. Received: {path}, which does not. "
                "Give the folder that `bnas-larq run`, `search` or `train` wrote."
            )
        check_plain_tree(folder.path)
        if lock:
            folder.lock()
        return folder

    def lock(self) -> None:
        """Refuse a second process in the folder; the system frees the lock when this one ends."""
        import filelock  # slow to import

        self._lock = filelock.FileLock(self / ".lock", timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise RunError(
                f"Only one process works in a run folder. Received: {self.path}, where another one "
                "is at work. Wait for it or choose another --out."
            ) from error

    def unlock(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def check_single(self) -> None:
        """Raise RunError for the folder of a study or comparison, which has several networks."""
        recipe = (self / "recipe.yaml").is_file() and recipe_of(self)
        if (recipe and recipe.study) or (self / "plan.json").exists():
            raise RunError(
                "Network, results and report are of one network's run. "
                f"Received: {self.path}, a study or comparison. Name one of the runs inside it."
            )

    def checkpoints(self, stage: str) -> Checkpoints:
        """Checkpoints of the stage `search` or `train`."""
        return Checkpoints(self.path / stage / "checkpoints")

    def stage_done(self, stage: str) -> bool:
        """Whether a stage has written its result."""
        return bool(self._state().get(stage))

    def mark_done(self, stage: str, **facts: Any) -> None:
        """Record that a stage is complete, with facts such as its wall time in seconds."""
        write_json(self.path / "state.json", {**self._state(), stage: {"done": True, **facts}})

    def mark_undone(self, stage: str) -> None:
        """Have a stage done again."""
        write_json(self.path / "state.json", {k: v for k, v in self._state().items() if k != stage})

    def facts(self, stage: str) -> dict[str, Any]:
        """The facts that `mark_done` recorded, or an empty dict."""
        return self._state().get(stage) or {}

    def _state(self) -> dict[str, Any]:
        path = self.path / "state.json"
        return read_record(path, State) if path.exists() else {}


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe that a run began with; RunError or RecipeError when it cannot be read."""
    path = folder / "recipe.yaml"
    try:
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise ValueError(values)  # such as an empty file's None
    except (OSError, ValueError) as error:
        raise RunError(
            f"A run's recipe.yaml must be readable. Received: {path}. "
            "Restore it or start a new run."
        ) from error
    return parse_recipe(values)
