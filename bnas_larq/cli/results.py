"""result.json: what a run has found out so far, for programs to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.cli.stages import STAGES, Stages
from bnas_larq.errors import RunError
from bnas_larq.runs import read_json, write_json

if TYPE_CHECKING:
    from bnas_larq.recipe import Recipe

#: What result.json repeats of export.json.
EXPORT_KEYS = (
    "file",
    "bytes",
    "sha256",
    "binary_convolutions",
    "float_convolutions",
    "parity",
)


def write_result(stages: Stages, recipe: Recipe, cost: Mapping[str, Any] | None) -> dict[str, Any]:
    """Collect a run's results so far in its result.json.

    Args:
        cost: of the trained network; None before there is one.
    """
    folder = stages.folder
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
        report = read_json(folder / "export.json")
        if not isinstance(report, dict) or not all(key in report for key in EXPORT_KEYS):
            raise RunError(
                "A run's export.json must hold the whole report. "
                f"Received: {folder / 'export.json'}. Delete it to export again."
            )
        result["export"] = {key: report[key] for key in EXPORT_KEYS}
    result["files"] = [name for name in _files(folder.path) if name != "result.json"]
    write_json(folder / "result.json", result)
    return result


def _files(root: Path) -> list[str]:
    """All files of a run but hidden ones. `os.walk` bears that some vanish meanwhile."""
    return sorted(
        (Path(parent) / name).relative_to(root).as_posix()
        for parent, _, names in os.walk(root)
        for name in names
        if not name.startswith(".")
    )
