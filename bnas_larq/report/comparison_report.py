"""The table of a comparison: one row for each method, means and spreads over its runs."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from bnas_larq.errors import BnasLarqError
from bnas_larq.files import read_json, read_lines
from bnas_larq.genotype import Genotype
from bnas_larq.report.figure_style import GREY, INK, new_figure, save_figure
from bnas_larq.report.html_report import alarm_epochs, spans
from bnas_larq.spaces import PARAMETER_FREE, ZEROISE
from bnas_larq.tables import align, duration, scientific, size

#: What is averaged over a method's runs.
MEASURES = (
    "search_seconds",
    "test_accuracy",
    "validation_accuracy",
    "ops_honest",
    "ops_paper",
    "bytes",
    "zeroise",
    "parameter_free",
)

Row = Mapping[str, Any]


def run_facts(path: Path, planned: Row, failure: str | None) -> dict[str, Any]:
    """What one run of a comparison has found out so far.

    Args:
        path: its run folder.
        planned: its entry of plan.json.
        failure: why it ended without a result, or None.
    """
    result = read_json(path / "result.json") if (path / "result.json").is_file() else {}
    done = bool(result.get("finished"))
    cost = result.get("cost") or {}
    searched = planned["genotype"] is None
    return {
        **{key: planned[key] for key in ("name", "method", "seed", "searcher", "space")},
        "status": "finished" if done else "failed" if failure else "unfinished",
        "reason": None if done else failure,
        "genotype": result.get("genotype"),
        "search_seconds": (result.get("seconds") or {}).get("search") if searched else None,
        "train_seconds": (result.get("seconds") or {}).get("train"),
        "supernet_validation_accuracy": result.get("supernet_validation_accuracy"),
        "validation_accuracy": result.get("validation_accuracy"),
        "test_accuracy": result.get("test_accuracy"),
        "ops_honest": cost.get("ops_honest"),
        "ops_paper": cost.get("ops_paper"),
        "bytes": cost.get("bytes"),
        **_shares(path / "genotype.json"),
        "alarms": alarm_epochs(read_lines(path / "search" / "alarms.jsonl")),
    }


def _shares(path: Path) -> dict[str, float | None]:
    """Shares of a genotype's edges with Zeroise, and with pooling or identity."""
    try:
        genotype = Genotype.load(path) if path.is_file() else None
    except BnasLarqError:
        genotype = None
    if genotype is None:
        return {"zeroise": None, "parameter_free": None}
    edges = sum(len(node) for cell in genotype.cells for node in cell)
    return {
        "zeroise": genotype.count(ZEROISE) / edges,
        "parameter_free": sum(map(genotype.count, PARAMETER_FREE)) / edges,
    }


def method_rows(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each method, in the order of the runs.

    A measure is `{"mean", "std", "n"}` over the finished runs that have it: `std` is the sample
    standard deviation, None for one run; `mean` is None for none.
    """
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        done = [run for run in own if run["status"] == "finished"]
        rows.append(
            {
                "method": method,
                "space": own[0]["space"],
                "runs": len(own),
                "finished": len(done),
                "failed": sum(run["status"] == "failed" for run in own),
                **{measure: _summary([run[measure] for run in done]) for measure in MEASURES},
                "genotypes": [run["genotype"] for run in own if run["genotype"]],
            }
        )
    return rows


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known),
    }


def _cell(summary: Row, text: Any, scale: float = 1.0) -> str:
    """`mean ± spread` by the function `text` of a number; a dash for no run."""
    if summary["mean"] is None:
        return "–"
    parts = [summary["mean"]] + ([summary["std"]] if summary["std"] is not None else [])
    return " ± ".join(text(scale * part) for part in parts)


#: Heading and text of each column of the table for people.
_COLUMNS = {
    "method": lambda row: row["method"],
    "space": lambda row: row["space"],
    "runs": lambda row: f"{row['finished']}/{row['runs']}",
    "search time": lambda row: _cell(row["search_seconds"], duration),
    "test accuracy (%)": lambda row: _cell(row["test_accuracy"], "{:.2f}".format, 100),
    "OPs, honest": lambda row: _cell({**row["ops_honest"], "std": None}, scientific),
    "OPs, papers'": lambda row: _cell({**row["ops_paper"], "std": None}, scientific),
    "size": lambda row: _cell({**row["bytes"], "std": None}, size),
    "Zeroise": lambda row: _cell({**row["zeroise"], "std": None}, "{:.0%}".format),
    "pools": lambda row: _cell({**row["parameter_free"], "std": None}, "{:.0%}".format),
}


def comparison_text(rows: Sequence[Row], runs: Sequence[Row], notes: Sequence[str]) -> str:
    """The table with its genotypes, failures and notes, for a terminal."""
    cells = [[column(row) for column in _COLUMNS.values()] for row in rows]
    lines = align([list(_COLUMNS), *cells], left=2)
    return "\n".join([*lines, "", *_further(rows, runs), *notes])


def comparison_markdown(
    rows: Sequence[Row], runs: Sequence[Row], notes: Sequence[str], title: str
) -> str:
    """The same as Markdown."""
    cells = [[_escaped(column(row)) for column in _COLUMNS.values()] for row in rows]
    header = list(_COLUMNS)
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    table = ["| " + " | ".join(row) + " |" for row in (header, rule, *cells)]
    items = [f"- {_escaped(line)}" for line in (*_further(rows, runs), *notes)]
    return "\n".join([f"# {_escaped(title)}", "", *table, "", *items, ""])


def comparison_csv(rows: Sequence[Row]) -> str:
    """One line for each method, every measure with mean, spread and number of runs."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    plain = ("method", "space", "runs", "finished", "failed")
    parts = ("mean", "std", "n")
    writer.writerow(
        [*plain, *(f"{measure}_{part}" for measure in MEASURES for part in parts), "genotypes"]
    )
    for row in rows:
        measures = [row[measure][part] for measure in MEASURES for part in parts]
        writer.writerow([*(row[key] for key in plain), *measures, " ".join(row["genotypes"])])
    return stream.getvalue()


def _further(rows: Sequence[Row], runs: Sequence[Row]) -> list[str]:
    """Genotypes of each method, and what befell single runs."""
    lines = [f"Genotypes of {row['method']}: {', '.join(row['genotypes'])}" for row in rows]
    lines = [line for line, row in zip(lines, rows, strict=True) if row["genotypes"]]
    for run in runs:
        if run["status"] != "finished":
            reason = f": {run['reason']}" if run["reason"] else "."
            lines.append(f"{run['name']} {run['status']}{reason}")
        for name, epochs in run["alarms"].items():
            lines.append(f"{run['name']}: alarm `{name}` in search epoch {spans(epochs)}.")
    return lines


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


_RUN, _MEAN = "#2f6db3", "#c8511b"
#: Measure → heading, and what one unit of the axis is.
_PANELS = {
    "test_accuracy": ("Test accuracy (%)", 0.01),
    "search_seconds": ("Search time (min)", 60),
    "ops_honest": ("OPs, honest (million)", 1e6),
    "bytes": ("Size (kB)", 1e3),
}

Rows = Sequence[Mapping[str, Any]]


def save_comparison_picture(rows: Rows, runs: Rows, path: Path, title: str) -> Path:
    """Write the picture of a comparison's rows and runs, see `bnas_larq.report.comparison_report`.

    Raises:
        RunError: it cannot be written.
    """
    figure = new_figure(12, 1.6 + 0.42 * len(rows))
    places = np.arange(len(rows))[::-1]
    for axes, (measure, (heading, unit)) in zip(
        figure.subplots(1, len(_PANELS), sharey=True), _PANELS.items(), strict=True
    ):
        for y, row in zip(places, rows, strict=True):
            own = [run for run in runs if run["method"] == row["method"]]
            values = [
                run[measure] / unit
                for run in own
                if run["status"] == "finished" and run[measure] is not None
            ]
            if not values:
                axes.text(
                    0.02,
                    y,
                    "failed" if row["failed"] and not row["finished"] else "–",
                    fontsize=8,
                    color=GREY,
                    va="center",
                    transform=axes.get_yaxis_transform(),
                )
                continue
            summary = row[measure]
            mean, spread = summary["mean"] / unit, (summary["std"] or 0) / unit
            axes.hlines(y, mean - spread, mean + spread, color=_MEAN, linewidth=2)
            axes.plot(mean, y, "|", color=_MEAN, markersize=13, markeredgewidth=2)
            axes.plot(values, [y] * len(values), "o", color=_RUN, markersize=4.5, alpha=0.8)
        axes.set_title(heading, fontsize=9, color=INK, loc="left")
        axes.tick_params(labelsize=8, colors=INK)
        axes.grid(True, axis="x", color="#e4e7eb", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if measure != "test_accuracy":
            axes.set_xlim(left=0)
    axes.set_yticks(places, [f"{row['method']} ({row['finished']})" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    figure.suptitle(
        f"{title}. Dots: runs; line: mean ± sample standard deviation; (n) finished runs",
        fontsize=9,
        color=INK,
        x=0.01,
        ha="left",
    )
    figure.tight_layout()
    return save_figure(figure, path)
