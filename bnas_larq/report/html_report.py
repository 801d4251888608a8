"""The report of a run: one HTML file that holds everything and loads nothing, to be kept."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import read_json, read_lines, write_atomic
from bnas_larq.genotype import Genotype
from bnas_larq.report import markup
from bnas_larq.report.pictures import save_pictures

NAME = "report.html"
#: Figures that stand in large type, if a result has them: (end of the key, caption).
_HEADLINES = (
    ("test_accuracy", "test accuracy"),
    ("test_top5_accuracy", "test accuracy, top 5"),
    ("val_accuracy", "validation accuracy"),
    ("validation_accuracy", "validation accuracy"),
    ("ops_paper", "operations (papers' convention)"),
    ("ops_honest", "operations (shortcuts in full precision)"),
    ("wall_seconds", "wall time"),
    ("seconds", "wall time"),
)


def write_report(run_path: str | Path) -> Path:
    """Write `report.html` into a run folder, from the files that are there, finished or not.

    The pictures in `pictures/` are drawn again first.

    Args:
        run_path: the run folder.

    Returns:
        The file written.

    Raises:
        RunError: the folder does not exist, or the report cannot be written.
    """
    run = Path(run_path)
    if not run.is_dir():
        raise RunError(
            f"A report is written for a run folder. Received: {run}, which is none. "
            "Give the folder that `bnas-larq run` wrote."
        )
    save_pictures(run)
    sources = {
        name: _json(run / f"{name}.json")
        for name in ("result", "state", "network", "export", "environment")
    }
    result = sources["result"]
    genotype, text = _genotype(run)
    title = f"Run {run.resolve().name}"
    body = [
        f"<h1>{markup.text(title)}</h1>\n",
        f'<p class="lead">{markup.text(_status(result, sources["state"], genotype))}</p>\n',
        _cards(result),
        markup.section("Cells", *_cells(run)),
        markup.section("Genotype", text),
        markup.section(
            "Search",
            _alarms(run),
            _image(run, "search_curves", "loss, accuracy, entropy and shares over the search"),
            _image(run, "pareto", "accuracy and cost of all trials, with their Pareto front"),
        ),
        markup.section(
            "Architecture weights α", _image(run, "alphas", "softmax of the architecture weights")
        ),
        markup.section(
            "Training",
            _image(run, "train_curves", "loss, accuracy and learning rate over training"),
        ),
        markup.section(
            "Confusion", _image(run, "confusion", "confusion matrix of the test images")
        ),
        markup.section("Result", markup.pairs(_without(result, "cost", "files")) if result else ""),
        markup.section("Cost for one image", _cost(result)),
        markup.section("Exported file", _export(sources["export"])),
        markup.section("Network", markup.pairs(sources["network"]) if sources["network"] else ""),
        markup.section("Recipe", _preformatted(run / "recipe.yaml")),
        markup.section(
            "Environment", markup.pairs(sources["environment"]) if sources["environment"] else ""
        ),
        markup.section("Files", _files(run)),
    ]
    return write_atomic(run / NAME, markup.page(title, "".join(body)))


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of the run folder; empty when it is absent, damaged or something else."""
    if not path.is_file():
        return {}
    try:
        values = read_json(path)
    except RunError as error:
        return {"unreadable": str(error)}
    return values if isinstance(values, dict) else {}


def _without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _status(result: Mapping[str, Any], state: Mapping[str, Any], genotype: Genotype | None) -> str:
    """One line under the title: which genotype, and how far the run came."""
    done = [
        stage for stage, facts in state.items() if isinstance(facts, Mapping) and facts.get("done")
    ]
    # Single steps write a result.json too, which says whether all of the recipe is done.
    finished = result.get("finished", bool(result))
    progress = "finished" if finished else f"unfinished; stages done: {', '.join(done) or 'none'}"
    return f"genotype {genotype.id} · {progress}" if genotype else progress


def _cards(result: Mapping[str, Any]) -> str:
    """The headline figures."""
    figures = {key.rsplit(".", 1)[-1]: (key, v) for key, v in markup.flatten(result).items()}
    cards: dict[str, str] = {}
    for ending, caption in _HEADLINES:
        key, value = figures.get(ending, ("", None))
        if isinstance(value, (int, float)) and caption not in cards:
            shown = f"{value:.3g}" if ending.startswith("ops") else markup.number(key, value)
            cards[caption] = markup.card(shown, caption)
    return f'<div class="cards">{"".join(cards.values())}</div>\n' if cards else ""


def _genotype(run: Path) -> tuple[Genotype | None, str]:
    """The genotype and its text; a damaged file gives its error as the text."""
    path = run / "genotype.json"
    if not path.is_file():
        return None, ""
    try:
        genotype = Genotype.load(path)
    except BnasLarqError as error:
        return None, f'<p class="note">{markup.text(error)}</p>'
    origin = (
        markup.folded("provenance", markup.pairs(genotype.provenance))
        if genotype.provenance
        else ""
    )
    return genotype, f"<pre>{markup.text(genotype.pretty())}</pre>{origin}"


def _image(run: Path, name: str, description: str) -> str:
    return markup.picture(run / "pictures" / f"{name}.png", description)


def _alarms(run: Path) -> str:
    """One line for each alarm of the search."""
    found = alarm_epochs(read_lines(run / "search" / "alarms.jsonl"))
    lines = (f"Alarm {name} in epoch {spans(epochs)}" for name, epochs in found.items())
    return "".join(f'<p class="note">{markup.text(line)}</p>' for line in lines)


def _cells(run: Path) -> list[str]:
    return [
        markup.picture(run / "pictures" / f"cell_{kind}.svg", f"the {kind} cell as a graph")
        for kind in ("normal", "reduce")
    ]


def _cost(result: Mapping[str, Any]) -> str:
    """Totals, and the layers where they are listed."""
    cost = result.get("cost")
    if not isinstance(cost, Mapping):
        return ""
    layers = cost.get("layers")
    parts = markup.pairs(_without(cost, "layers"))
    if isinstance(layers, list) and layers and all(isinstance(layer, Mapping) for layer in layers):
        columns = list(layers[0])
        rows = ([markup.flatten(layer).get(column) for column in columns] for layer in layers)
        parts += markup.folded(f"{len(layers)} layers", markup.table(columns, rows))
    return parts


def _export(export: Mapping[str, Any]) -> str:
    """Summary and comparison, and every convolution with its precision in the file."""
    if not export:
        return ""
    reasons = export.get("not_binary_because") or {}
    convolutions = [row for row in export.get("convolutions") or [] if isinstance(row, Mapping)]
    rows = [
        (
            row.get("name"),
            "1 bit" if row.get("binary") else "float",
            row.get("kind"),
            " × ".join(map(str, row.get("kernel") or [])),
            row.get("bytes"),
            "" if row.get("binary") else reasons.get(row.get("name"), ""),
        )
        for row in convolutions
    ]
    parts = markup.pairs(_without(export, "convolutions", "not_binary_because"))
    if rows:
        columns = ("layer", "in the file", "kind", "kernel", "bytes", "why not 1 bit")
        parts += markup.folded(
            f"{len(rows)} convolutions and dense layers", markup.table(columns, rows)
        )
    return parts


def _preformatted(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"<pre>{markup.text(content)}</pre>"


def _files(run: Path) -> str:
    """Every file of the run folder with its size; hidden ones and the report itself left out."""
    rows = []
    for parent, _, names in os.walk(run):
        for path in (Path(parent) / name for name in names):
            relative = path.relative_to(run)
            if path == run / NAME or any(part.startswith(".") for part in relative.parts):
                continue
            # A run that still goes on may have removed the file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                rows.append((relative.as_posix(), path.stat().st_size))
    rows.sort()
    return markup.table(("file", "bytes"), rows) if rows else ""


def alarm_epochs(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Epochs, counted from 1, in which an alarm was raised.

    Args:
        rows: of `search/alarms.jsonl`.

    Returns:
        Name of the alarm → epochs in their order.
    """
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for name in row.get("alarms") or ():
            found.setdefault(name, []).append(row.get("epoch", number) + 1)
    return found


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers as people write them: `3–7, 12`."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
