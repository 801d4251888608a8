"""All pictures of a run, drawn from the files that its folder has so far."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import read_json, read_record, read_rows
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.report import curves
from bnas_larq.report.cell_picture import save_cell_pictures
from bnas_larq.report.figure_style import Rows
from bnas_larq.report.pareto_picture import save_pareto
from bnas_larq.run_records import AlarmRow, Alphas, Epoch, Front, TrialRow
from bnas_larq.spaces import NO_SHORTCUT
from bnas_larq.text_files import read_text

#: Edges of the largest cell whose α are drawn.
_MAX_EDGES = 70


def save_pictures(run_path: str | Path, problems: list[str] | None = None) -> list[Path]:
    """Draw cells, curves, α, Pareto front and confusion matrix into `pictures/`, each where the run
    folder has intact data for it; returns the files, or raises RunError if one cannot be written.

    Args:
        problems: gets what is damaged, a sentence each.
    """
    run = Path(run_path)
    search, folder = run / "search", run / "pictures"
    problems = [] if problems is None else problems
    intact = partial(intact_or_empty, problems)

    metrics = intact(read_rows, search / "metrics.jsonl", Epoch)
    operations = [
        key.removeprefix("share_") for row in metrics[:1] for key in row if key.startswith("share_")
    ]
    alphas = intact(_read_alphas, search / "alphas.jsonl", operations)
    alarms = intact(read_rows, search / "alarms.jsonl", AlarmRow)
    training = intact(read_rows, run / "train" / "metrics.jsonl", Epoch)
    written = [
        curves.save_search_curves(metrics, folder, alarms, _cost_target(run / "recipe.yaml")),
        curves.save_alpha_history(alphas, operations, folder),
        curves.save_training_curves(training, folder),
    ]
    front = search / "pareto.json"
    if front.exists() and intact(read_record, front, Front):
        intact(read_rows, search / "trials.jsonl", TrialRow)
        written += save_pareto(search, folder)
    genotype, problem = genotype_or_error(run / "genotype.json")
    if genotype is not None:
        try:
            shortcut = _has_shortcut(run / "network.json")
            written += save_cell_pictures(genotype, folder, shortcut=shortcut)
        except RunError:  # the disk
            raise
        except BnasLarqError as error:
            problem = str(error)
    table = read_confusion(run / "confusion.csv")
    if table is not None:
        written.append(curves.save_confusion(*table, folder))
    elif (run / "confusion.csv").exists():
        problems.append(
            "A confusion matrix is a table of counts, as many rows as columns. "
            f"Received: {run / 'confusion.csv'}. Restore it, or evaluate again."
        )
    problems += [problem] if problem else []
    return [path for path in written if path is not None]


def intact_or_empty(problems: list[str], read: Callable, *arguments: Any) -> Any:
    """What `read` returns; if it raises a BnasLarqError, [], and the error joins `problems`."""
    try:
        return read(*arguments)
    except BnasLarqError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return []


def _read_alphas(path: Path, operations: list[str]) -> Rows:
    """Rows of alphas.jsonl for a picture; none if a cell's α are not of these operations."""
    rows = read_rows(path, Alphas)
    cells = [(row["normal"], row["reduce"]) for row in rows]
    edges = {len(cell) for pair in cells for cell in pair}
    operations_of_rows = {tuple(len(cell[0]) for cell in pair) for pair in cells}
    if len(edges) > 1 or max(edges, default=0) > _MAX_EDGES or len(operations_of_rows) > 1:
        raise RunError(
            f"α are drawn of at most {_MAX_EDGES} edges, as many in each cell and on each line, "
            f"with the same operations. Received: {path}, which has others. Restore the file."
        )
    return rows if operations_of_rows <= {(len(operations), len(operations))} else []


def read_confusion(path: str | Path) -> tuple[list[list[int]], list[str]] | None:
    """Counts [classes, classes] and class names of a `confusion.csv`; None if absent or damaged.

    The first row, the first column or both hold the class names; without them classes are numbered.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
        both = len(rows) == len(rows[0]) and not rows[0][0].strip().isdigit()
        header = both or len(rows) == len(rows[0]) + 1
        first = both or len(rows[0]) == len(rows) + 1
        names = rows[0][int(both) :] if header else [row[0] for row in rows] if first else []
        counts = [[int(float(cell)) for cell in row[int(first) :]] for row in rows[int(header) :]]
    except (OSError, ValueError, IndexError, OverflowError, csv.Error):
        return None
    if any(len(row) != len(counts) for row in counts) or len(names) not in (0, len(counts)):
        return None
    if not counts or any(not 0 <= count < 10**12 for row in counts for count in row):
        return None
    return counts, names or [str(number) for number in range(len(counts))]


def genotype_or_error(path: Path) -> tuple[Genotype | None, str]:
    """The genotype of a file and "", or None and why it cannot be read ("" if absent)."""
    try:
        return (Genotype.load(path) if path.exists() else None), ""
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
        return read_json(path)["config"]["shortcut"] not in (False, NO_SHORTCUT)
    except (BnasLarqError, LookupError, TypeError):
        return True
