"""Numbered checkpoints, each with a manifest of SHA-256 sums, so that damage shows before use."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pydantic

from bnas_larq.errors import CheckpointError, RunError, one_line
from bnas_larq.files import sha256, write_json
from bnas_larq.setting_types import PlainName
from bnas_larq.text_files import check_numbers, read_text

MANIFEST = "manifest.json"
#: Kept for each stage: the newest checkpoint, and the one before it in case the newest is damaged.
KEPT_CHECKPOINTS = 2


class _Manifest(pydantic.BaseModel):
    epoch: int
    sha256: dict[PlainName, str]


_FOLDER = re.compile(r"epoch-(\d+)(?:-step-(\d+))?", re.ASCII)


class Checkpoints:
    """Numbered checkpoints of one stage, each a folder `epoch-00012/`, or inside the epoch after it
    `epoch-00012-step-0003450/`, complete or absent."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def _numbered(self) -> list[tuple[int, Path]]:
        folders = [
            (int(match[1]), int(match[2] or 0), path)
            for path in self.folder.glob("epoch-*")
            if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()
        ]
        return [(epoch, path) for epoch, _, path in sorted(folders)]

    def save(self, epoch: int, write: Callable[[Path], None], step: int = 0) -> Path:
        """Have `write(folder)` fill a new folder, add the manifest, and rename it to its number:
        the epochs done, and the steps of the next one."""
        inside = f"-step-{step:07d}" if step else ""
        target = self.folder / f"epoch-{epoch:05d}{inside}"
        temporary = self.folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
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
        """(epochs done, folder) of intact checkpoints, newest first; warns of damaged ones, and
        raises CheckpointError if there are no others.
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
                f"{self.folder}. Delete its folders epoch-* to start this stage again; "
                "other stages are kept."
            )
        return intact

    def numbers(self) -> list[int]:
        """Epochs of the checkpoints that there are, intact or not."""
        return [number for number, _ in self._numbered()]

    def clear(self) -> None:
        """Remove all checkpoints of the stage."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = _Manifest.model_validate_json(check_numbers(read_text(path / MANIFEST)))
        for name, expected in manifest.sha256.items():
            if sha256(path / Path(name).name) != expected:
                return f"{name} does not match its SHA-256"
    except ValueError:
        return f"{MANIFEST} holds no sums"
    except OSError as error:
        return one_line(error)
    return None
