"""The report of a run: one HTML file that holds its pictures and loads nothing.

Also the epochs in which a search raised alarms, as reports print them.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import RunError
from bnas_larq.files import read_json, read_record, read_rows, visible_files, write_atomic
from bnas_larq.genotype import Genotype
from bnas_larq.pages import render
from bnas_larq.report.pictures import genotype_or_error, intact_or_empty, save_pictures
from bnas_larq.run_records import AlarmRow, Convolutions, Result, State
from bnas_larq.tables import number_text
from bnas_larq.text_files import read_bytes

if TYPE_CHECKING:
    import pydantic

NAME = "report.html"
#: Pictures of the report, as far as the run has them.
_PICTURES = (
    *("cell_normal.svg", "cell_reduce.svg", "search_curves.png", "pareto.png", "alphas.png"),
    *("train_curves.png", "confusion.png"),
)
_MIME = {".png": "image/png", ".svg": "image/svg+xml"}
#: Figures in large type, if the result has them: dotted key → caption.
_HEADLINES = {
    "test_accuracy": "test accuracy",
    "test.top5_accuracy": "test accuracy, top 5",
    "validation_accuracy": "validation accuracy",
    "cost.ops_paper": "operations (papers' convention)",
    "cost.ops_honest": "operations (shortcuts in full precision)",
    "wall_seconds": "wall time",
}


def write_report(run_path: str | Path) -> Path:
    """Write `report.html` of a run folder, finished or not, and draw its `pictures/` anew.

    Raises:
        RunError: the folder does not exist, or the report cannot be written.
    """
    run = Path(run_path)
    if not run.is_dir():
        raise RunError(
            f"A report needs a run folder. Received: {run}, which is not a folder. "
            "Give the folder that `bnas-larq run` wrote."
        )
    problems: list[str] = []
    pictures = save_pictures(run, problems)
    result, state = _json(run / "result.json", Result), _json(run / "state.json", State)
    export = _json(run / "export.json", Convolutions)
    genotype, genotype_error = genotype_or_error(run / "genotype.json")
    alarms = alarm_epochs(
        intact_or_empty(problems, read_rows, run / "search" / "alarms.jsonl", AlarmRow)
    )
    for problem in problems:
        warnings.warn(f"The report leaves out what is damaged. {problem}", stacklevel=2)
    cost = result.get("cost") if isinstance(result.get("cost"), Mapping) else {}
    page = render(
        "report.html",
        title=f"Run {run.resolve().name}",
        status=_status(result, state, genotype),
        headlines=_headlines(result),
        problems=[problem for problem in problems if problem != genotype_error],
        pictures=_pictures(pictures),
        genotype=genotype,
        genotype_error=genotype_error,
        provenance=_pairs(genotype.provenance) if genotype else [],
        alarms={name: spans(epochs) for name, epochs in alarms.items()},
        result=_pairs(result, "cost", "files"),
        cost=_pairs(cost, "layers", "bytes_by_kind"),
        memory=_memory(cost),
        layers=_layers(cost),
        export=_pairs(export, "convolutions", "not_binary_because"),
        convolutions=_convolutions(export),
        network=_pairs(_json(run / "network.json")),
        recipe=_text(run / "recipe.yaml"),
        environment=_pairs(_json(run / "environment.json")),
        files=_table(("file", "bytes"), _files(run)),
    )
    # Names of files and folders may be bytes of any encoding.
    return write_atomic(run / NAME, page.encode(errors="backslashreplace"))


def _json(path: Path, model: type[pydantic.BaseModel] | None = None) -> dict[str, Any]:
    """An object of the run folder; empty if absent, and its error if damaged."""
    if not path.exists():
        return {}
    try:
        values = read_json(path) if model is None else read_record(path, model)
    except RunError as error:
        return {"unreadable": str(error)}
    return values if isinstance(values, dict) else {}


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _status(result: Mapping[str, Any], state: Mapping[str, Any], genotype: Genotype | None) -> str:
    """The line under the title: the genotype, and which stages are done."""
    done = [
        stage for stage, facts in state.items() if isinstance(facts, Mapping) and facts.get("done")
    ]
    # Single stages write a result.json, too; its `finished` tells whether all stages are done.
    finished = result.get("finished", bool(result))
    progress = "finished" if finished else f"unfinished; stages done: {', '.join(done) or 'none'}"
    return f"genotype {genotype.id} · {progress}" if genotype else progress


def _headlines(result: Mapping[str, Any]) -> dict[str, str]:
    """Caption → figure."""
    values = _flattened(result)
    return {
        caption: f"{value:.3g}" if key.startswith("cost.") else number_text(key, value)
        for key, caption in _HEADLINES.items()
        if isinstance(value := values.get(key), (int, float))
    }


def _pictures(paths: Iterable[Path]) -> dict[str, str]:
    """Name → data URI of each picture of the report among `paths`."""
    uris = {}
    for path in (path for path in paths if path.name in _PICTURES):
        content = base64.b64encode(path.read_bytes()).decode()
        uris[path.stem] = f"data:{_MIME[path.suffix]};base64,{content}"
    return uris


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted keys; a list of plain values as one text, any other
    list as its length."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flattened(value, f"{name}."))
        elif isinstance(value, (list, tuple)):
            plain = all(not isinstance(item, (Mapping, list, tuple)) for item in value)
            flat[name] = ", ".join(map(str, value)) if plain else f"{len(value)} entries"
        else:
            flat[name] = value
    return flat


def _pairs(values: Mapping[str, Any], *omitted: str) -> list[tuple[str, str]]:
    """Rows (key, value) of a table, without the `omitted` keys."""
    flat = _flattened({key: value for key, value in values.items() if key not in omitted})
    return [(key.replace("_", " "), number_text(key, value)) for key, value in flat.items()]


#: A header and rows of (text, whether its column is numeric); empty without rows.
Table = list[list[tuple[str, bool]]]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    numeric = [
        any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in column)
        for column in zip(*rows, strict=True)
    ]
    texts = [list(map(number_text, columns, row)) for row in rows]
    return [list(zip(row, numeric, strict=True)) for row in [columns, *texts]] if rows else []


def _memory(cost: Mapping[str, Any]) -> Table:
    """Bytes by kind of weight, for each storage of full-precision kernels."""
    storages = cost.get("bytes_by_kind") or {}
    names = dict.fromkeys(kind for kinds in storages.values() for kind in kinds)
    rows = [
        (name.replace("_", " "), *(kinds.get(name) for kinds in storages.values()))
        for name in names
    ]
    return _table(("bytes", *(f"{storage} kernels" for storage in storages)), rows)


def _layers(cost: Mapping[str, Any]) -> Table:
    layers = cost.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, Mapping) for layer in layers):
        return []
    columns = list(layers[0]) if layers else []
    return _table(columns, [list(map(_flattened(layer).get, columns)) for layer in layers])


def _convolutions(export: Mapping[str, Any]) -> Table:
    """Convolutions and dense layers of the exported file, with their precision there."""
    reasons = export.get("not_binary_because") or {}
    rows = [
        (
            layer.get("name"),
            layer.get("stored") or ("1 bit" if layer.get("binary") else "float"),
            layer.get("kind"),
            " × ".join(map(str, layer.get("kernel") or [])),
            layer.get("bytes"),
            "" if layer.get("binary") else reasons.get(layer.get("name"), ""),
        )
        for layer in export.get("convolutions") or []
        if isinstance(layer, Mapping)
    ]
    return _table(("layer", "in the file", "kind", "kernel", "bytes", "why not 1 bit"), rows)


def _files(run: Path) -> list[tuple[str, int]]:
    """Files of the run folder with their sizes, without the report itself."""
    sizes = []
    for name in (name for name in visible_files(run) if name != NAME):
        # A run in progress may have removed the file meanwhile.
        with contextlib.suppress(FileNotFoundError):
            sizes.append((name, (run / name).stat().st_size))
    return sizes


def alarm_epochs(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Alarm → epochs, counted from 1, in which rows of `search/alarms.jsonl` say it was raised."""
    epochs: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for alarm in row.get("alarms") or ():
            epochs.setdefault(alarm, []).append(row.get("epoch", number) + 1)
    return epochs


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers as ranges: `3–7, 12`."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    ranges = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{span[0]}–{span[-1]}" if len(span) > 1 else str(span[0]) for span in ranges)
