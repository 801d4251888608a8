"""Numbered checkpoints, each with a manifest of SHA-256 sums: damage is noticed before use."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from bnas_larq.errors import CheckpointError, RunError, one_line
from bnas_larq.files import sha256, write_json

MANIFEST = "manifest.json"


#: Checkpoints kept for each stage: the newest, and the one before it in case the newest is damaged.
KEPT_CHECKPOINTS = 2


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
