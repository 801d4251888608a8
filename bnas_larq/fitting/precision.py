"""The precision of a stage: resolved once, and written down so that a resumed run keeps it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bnas_larq.errors import RunError
from bnas_larq.precision import PrecisionChoice, choose_precision
from bnas_larq.runs import read_json, write_json

RECORD = "precision.json"


def recorded_precision(folder: Path, asked: str) -> PrecisionChoice:
    """What a stage computes its binary convolutions in.

    `auto` depends on the machine and on what else it does, so that it is measured once: the choice
    stands in the folder's precision.json from then on, also on another machine. What is asked for
    by name needs no record; the recipe is one.

    Args:
        folder: of the stage, inside the run folder.
        asked: one of `bnas_larq.precision.PRECISIONS`.

    Raises:
        BnasLarqError: an unknown precision.
        RunError: the record is damaged, or cannot be written.
    """
    path = Path(folder) / RECORD
    if asked != "auto":
        return choose_precision(asked)
    if path.exists():
        return _read(path)
    choice = choose_precision(asked)
    write_json(path, dataclasses.asdict(choice))
    return choice


def _read(path: Path) -> PrecisionChoice:
    record = read_json(path)
    if not (
        isinstance(record, dict)
        and record.get("name") in ("float32", "bfloat16")
        and isinstance(record.get("reason"), str)
    ):
        raise RunError(
            "A run goes on in the precision it began with. "
            f"Received: {path}, which does not name one. "
            "Restore the file, or start a new run."
        )
    return PrecisionChoice(record["name"], record["reason"])
