"""All pictures of a run, from the files in its folder, as far as they are there."""

from __future__ import annotations

import csv
from pathlib import Path

from bnas_larq.errors import BnasLarqError
from bnas_larq.files import read_json, read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.report.cell_picture import save_cell_pictures
from bnas_larq.report.curves import (
    save_alpha_history,
    save_confusion,
    save_search_curves,
    save_training_curves,
)
from bnas_larq.report.pareto_picture import save_pareto

_KINDS = ("normal", "reduce")


def save_pictures(run_path: str | Path) -> list[Path]:
    """Draw into `pictures/` what the run folder has data for: cells, curves, α, Pareto front,
    confusion matrix.

    A file that is absent, or that a kill left damaged, leaves its picture out.

    Returns:
        The files written.

    Raises:
        RunError: a picture cannot be written.
    """
    run = Path(run_path)
    folder = run / "pictures"
    search = read_lines(run / "search" / "metrics.jsonl")
    operations = (
        [key.removeprefix("share_") for key in search[0] if key.startswith("share_")]
        if search
        else []
    )
    alphas = [row for row in read_lines(run / "search" / "alphas.jsonl") if _fits(row, operations)]
    written = [
        save_search_curves(
            search,
            folder,
            read_lines(run / "search" / "alarms.jsonl"),
            _target(run / "recipe.yaml"),
        ),
        save_alpha_history(alphas, operations, folder),
        save_training_curves(read_lines(run / "train" / "metrics.jsonl"), folder),
    ]
    written += save_pareto(run / "search", folder)
    genotype = _genotype(run / "genotype.json")
    if genotype is not None:
        written += save_cell_pictures(
            genotype, folder, shortcut=_has_shortcut(run / "network.json")
        )
    table = read_confusion(run / "confusion.csv")
    if table is not None:
        written.append(save_confusion(*table, folder))
    return [path for path in written if path is not None]


def read_confusion(path: str | Path) -> tuple[list[list[int]], list[str]] | None:
    """Counts [classes, classes] and class names of a `confusion.csv`, or None if it is absent or
    damaged.

    The class names stand in the first row, in the first column, or in both; otherwise classes are
    numbered.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
        both = len(rows) == len(rows[0]) and not rows[0][0].strip().isdigit()
        header = both or len(rows) == len(rows[0]) + 1
        first = both or len(rows[0]) == len(rows) + 1
        names = rows[0][int(both) :] if header else [row[0] for row in rows] if first else []
        counts = [[int(float(cell)) for cell in row[int(first) :]] for row in rows[int(header) :]]
    except (OSError, ValueError, IndexError):
        return None
    if any(len(row) != len(counts) for row in counts):
        return None
    return counts, names or [str(number) for number in range(len(counts))]


def _target(path: Path) -> tuple[float, str] | None:
    """Target and measure of a recipe's cost term."""
    try:
        cost = load_recipe(path).search.cost
    except BnasLarqError:
        return None
    return None if cost is None else (cost.target, cost.measure)


def _fits(row: dict, operations: list[str]) -> bool:
    """Whether a row of α has a column for each operation, in both kinds of cell."""
    return all(row.get(kind) and len(row[kind][0]) == len(operations) for kind in _KINDS)


def _genotype(path: Path) -> Genotype | None:
    if not path.is_file():
        return None
    try:
        return Genotype.load(path)
    except BnasLarqError:
        return None


def _has_shortcut(path: Path) -> bool:
    """Whether the network has inter-cell shortcuts; the template of BNAS, and so the default,
    has."""
    try:
        values = read_json(path)
    except BnasLarqError:
        return True
    for settings in (
        (values, values.get("network"), values.get("config")) if isinstance(values, dict) else ()
    ):
        if isinstance(settings, dict) and "shortcut" in settings:
            return bool(settings["shortcut"])
    return True
