"""All pictures of a run, drawn from the files that its folder has so far."""

from __future__ import annotations

import csv
from pathlib import Path

from bnas_larq.errors import BnasLarqError
from bnas_larq.files import read_json, read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.report import curves
from bnas_larq.report.cell_picture import save_cell_pictures
from bnas_larq.report.pareto_picture import save_pareto


def save_pictures(run_path: str | Path) -> list[Path]:
    """Draw cells, curves, α, Pareto front and confusion matrix into `pictures/`, each where the run
    folder has intact data for it; returns the files, or raises RunError if one cannot be written.
    """
    run = Path(run_path)
    folder = run / "pictures"
    search = read_lines(run / "search" / "metrics.jsonl")
    operations = [
        key.removeprefix("share_") for row in search[:1] for key in row if key.startswith("share_")
    ]
    alphas = [
        row
        for row in read_lines(run / "search" / "alphas.jsonl")
        if all(
            row.get(kind) and len(row[kind][0]) == len(operations) for kind in ("normal", "reduce")
        )
    ]
    alarms = read_lines(run / "search" / "alarms.jsonl")
    written = [
        curves.save_search_curves(search, folder, alarms, _cost_target(run / "recipe.yaml")),
        curves.save_alpha_history(alphas, operations, folder),
        curves.save_training_curves(read_lines(run / "train" / "metrics.jsonl"), folder),
        *save_pareto(run / "search", folder),
    ]
    genotype, _ = genotype_or_error(run / "genotype.json")
    if genotype is not None:
        shortcut = _has_shortcut(run / "network.json")
        written += save_cell_pictures(genotype, folder, shortcut=shortcut)
    table = read_confusion(run / "confusion.csv")
    if table is not None:
        written.append(curves.save_confusion(*table, folder))
    return [path for path in written if path is not None]


def read_confusion(path: str | Path) -> tuple[list[list[int]], list[str]] | None:
    """Counts [classes, classes] and class names of a `confusion.csv`; None if absent or damaged.

    The first row, the first column or both hold the class names; without them classes are numbered.
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


def genotype_or_error(path: Path) -> tuple[Genotype | None, str]:
    """The genotype of a file and "", or None and why it cannot be read ("" if absent)."""
    try:
        return (Genotype.load(path) if path.is_file() else None), ""
    except BnasLarqError as error:
        return None, str(error)


def _cost_target(path: Path) -> tuple[float, str] | None:
    """Target and measure of a recipe's cost term."""
    try:
        cost = load_recipe(path).search.cost
    except BnasLarqError:
        return None
    return None if cost is None else (cost.target, cost.measure)


def _has_shortcut(path: Path) -> bool:
    """Whether the network of a network.json has inter-cell shortcuts; by default it has."""
    try:
        return bool(read_json(path)["config"]["shortcut"])
    except (BnasLarqError, LookupError, TypeError):
        return True
