"""The run folder: everything that one run writes, so that it can be killed and resumed.

Nothing here knows TensorFlow. Files are written under a temporary name and renamed; checkpoints are
folders with a manifest of SHA-256 sums, so that a half-written one is never taken for a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bnas_larq.errors import CheckpointError, RunError, one_line

MANIFEST = "manifest.json"
#: Checkpoints kept for each stage: the newest, and the one before it in case the newest is damaged.
KEPT_CHECKPOINTS = 2
_DAY = 24 * 60 * 60


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a whole file or nothing: under a temporary name beside it, flushed, then renamed.

    Raises:
        RunError: it cannot be written (full disk, no permission); an earlier file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(
            f"A result must be written to disk. Received: {one_line(error)}. "
            "Free space or choose another folder, then resume; what was reached is kept."
        ) from error
    return path


def temporary_folder(target: Path) -> Path:
    """A new empty folder beside `target`, to be filled and given to `replace_folder`.

    What a killed process left there is mended first: an earlier `target` that it had moved away
    comes back, and its half-filled folders go once they are a day old (until then they may be
    another machine's, on a shared disk).

    Raises:
        OSError: it cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+\.tmp(\.old)?")
    for left in sorted(target.parent.iterdir()):
        match = pattern.fullmatch(left.name)
        if match and match[1] and not os.path.lexists(target):
            os.replace(left, target)
        elif match and time.time() - left.stat().st_mtime > _DAY:
            shutil.rmtree(left, ignore_errors=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new`, made by `temporary_folder(target)`, to `target`.

    What was there is deleted last, and put back if the rename fails: at no moment is `target` half
    a folder.

    Raises:
        OSError: it cannot be renamed.
    """
    old = target.with_name(f"{new.name}.old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_json(path: str | Path) -> Any:
    """Read a JSON file, or raise RunError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"A run folder's {Path(path).name} must be readable JSON. "
            f"Received: {path} ({one_line(error)}). Restore the file or start a new run."
        ) from error


def write_json(path: str | Path, values: Any) -> Path:
    """Write indented JSON atomically."""
    return write_atomic(path, json.dumps(values, indent=1, allow_nan=True) + "\n")


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a kill cut off is left out."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def append_line(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one object to a JSON-lines file and flush it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def keep_lines_before(path: str | Path, number: int, key: str = "epoch") -> None:
    """Drop the lines of epoch `number` and later: a resumed run writes them again.

    Args:
        key: what the lines are numbered by.
    """
    rows = [row for row in read_lines(path) if row[key] < number]
    if Path(path).exists():
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


class Checkpoints:
    """Numbered checkpoints of one stage, each a folder `epoch-00012/`, whole or not there."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _numbered(self) -> list[tuple[int, Path]]:
        found = []
        for path in self.folder.glob("epoch-*"):
            digits = path.name.removeprefix("epoch-")
            if digits.isdigit() and path.is_dir():
                found.append((int(digits), path))
        return sorted(found)

    def save(self, epoch: int, write: Callable[[Path], None]) -> Path:
        """Let `write(folder)` fill a new folder, add the manifest, and rename it to its number."""
        target = self.folder / f"epoch-{epoch:05d}"
        temporary = self.folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            files = {p.name: sha256(p) for p in sorted(temporary.iterdir())}
            write_json(temporary / MANIFEST, {"epoch": epoch, "sha256": files})
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except OSError as error:
            raise RunError(
                f"A checkpoint must be written to disk. Received: {one_line(error)}. "
                "Free space, then resume with --resume; the checkpoint before it is kept."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already unless something failed
        for _, old in self._numbered()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def candidates(self) -> list[tuple[int, Path]]:
        """(epochs done, folder) of intact checkpoints, newest first; damaged ones are reported.

        Raises:
            CheckpointError: there are checkpoints, and none is intact.
        """
        numbered = self._numbered()
        intact = []
        for epoch, path in reversed(numbered):
            problem = _damage(path)
            if problem is None:
                intact.append((epoch, path))
            else:
                warnings.warn(
                    f"Checkpoint {path} is damaged ({problem}); using the one before it.",
                    stacklevel=2,
                )
        if numbered and not intact:
            raise CheckpointError(
                "A resumed run needs one intact checkpoint. Received: only damaged ones in "
                f"{self.folder}. Delete that folder to start this stage again; "
                "other stages are kept."
            )
        return intact

    def clear(self) -> None:
        """Remove all checkpoints of the stage, once its result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _entries(path: Path) -> list[Path]:
    """What a folder holds, but for the lock and what `write_atomic` leaves when it is killed."""
    return [
        entry
        for entry in sorted(path.iterdir())
        if entry.name != ".lock"
        and not (entry.name.startswith(".") and entry.name.endswith(".tmp"))
    ]


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["sha256"].items():
            if sha256(path / name) != expected:
                return f"{name} does not match its SHA-256"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return one_line(error)
    return None


class RunFolder:
    """One run's folder: resolved recipe, environment, stages, metrics, checkpoints, results.

    Args:
        path: the folder.

    Use `RunFolder.create` for a new run and `RunFolder.open` for an existing one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: Any = None

    @classmethod
    def create(cls, path: str | Path, recipe_yaml: str, *, overwrite: bool = False) -> RunFolder:
        """Make the folder of a new run, and lock it.

        Raises:
            RunError: see `check_new`; or another process is at work in the folder, or it cannot be
                made.
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
        folder.lock()
        # Once more, now that no other process can be at work here.
        cls.check_new(path, overwrite=overwrite)
        for entry in _entries(folder.path):
            # The recipe marks the folder as a run's, and so is replaced last and in one go.
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
        """Check that a new run may be made here, without touching anything.

        Raises:
            RunError: the folder exists and is not empty (without `overwrite`), or is no run folder.
        """
        path = Path(path)
        if not path.exists() or (path.is_dir() and not _entries(path)):
            return
        if not overwrite:
            raise RunError(
                f"A new run needs a new or empty folder. Received: {path}, which exists. "
                "Choose another --out, continue it with --resume, or replace it with --overwrite."
            )
        # A recipe.yaml alone may be the user's own, beside the user's own folder `train`.
        marks = (path / ".lock", path / "environment.json")
        if not (path / "recipe.yaml").is_file() or not any(mark.is_file() for mark in marks):
            raise RunError(
                "Only an earlier run's folder is ever replaced. "
                f"Received: {path}, which holds other things. Choose another --out."
            )

    @staticmethod
    def check_outside(path: str | Path, images: str | Path | None) -> None:
        """Check that a run is not written among its images, where its pictures would become some.

        Raises:
            RunError: it would.
        """
        if images is not None and Path(path).resolve().is_relative_to(Path(images).resolve()):
            raise RunError(
                "A run is not written into the folder of its images, which it would change. "
                f"Received: {path}, inside {images}. Choose another --out."
            )

    @classmethod
    def open(cls, path: str | Path, *, lock: bool = False) -> RunFolder:
        """Open an existing run's folder; RunError when it is none."""
        folder = cls(path)
        if not (folder.path / "recipe.yaml").is_file():
            raise RunError(
                f"A run folder holds recipe.yaml. Received: {path}, which does not. "
                "Give the folder that `bnas-larq run`, `search` or `train` wrote."
            )
        if lock:
            folder.lock()
        return folder

    def lock(self) -> None:
        """Refuse a second process in the folder; the system frees the lock when this one ends."""
        try:
            import fcntl
        except ImportError:  # Windows has no such lock: there the user takes care
            return
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 - held until unlock
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            raise RunError(
                "Only one process works in a run folder. "
                f"Received: {self.path}, where another one is at work. "
                "Wait for it or choose another --out."
            ) from error

    def unlock(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

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
        """Let a stage be done again."""
        write_json(self.path / "state.json", {k: v for k, v in self._state().items() if k != stage})

    def facts(self, stage: str) -> dict[str, Any]:
        """What `mark_done` recorded, or an empty dict."""
        return dict(self._state().get(stage) or {})

    def _state(self) -> dict[str, Any]:
        path = self.path / "state.json"
        if not path.exists():
            return {}
        state = read_json(path)
        if not isinstance(state, dict) or not all(
            isinstance(facts or {}, dict) for facts in state.values()
        ):
            raise RunError(
                f"A run's state.json must hold an object for each stage. Received: {path}. "
                "Delete it to check all stages again."
            )
        return state
