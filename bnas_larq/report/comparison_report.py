"""A comparison of methods: facts of its runs, the table over them, and its picture.

The table has one row for each method, with means and spreads over its finished runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bnas_larq.files import read_record, read_rows
from bnas_larq.pages import render
from bnas_larq.report import figure_style as style
from bnas_larq.report.figure_style import Rows
from bnas_larq.report.html_report import alarm_epochs, spans
from bnas_larq.report.pictures import genotype_or_error
from bnas_larq.run_records import AlarmRow, Result
from bnas_larq.spaces import PARAMETER_FREE, ZEROISE
from bnas_larq.tables import align, csv_text, duration, scientific, size

#: What is averaged over a method's runs.
MEASURES = (
    *("search_seconds", "test_accuracy", "validation_accuracy"),
    *("ops_honest", "ops_paper", "bytes", "zeroise", "parameter_free"),
)
_ACCURACIES = ("supernet_validation_accuracy", "validation_accuracy", "test_accuracy")

Row = Mapping[str, Any]


def run_facts(path: Path, planned: Row, failure: str | None) -> dict[str, Any]:
    """Status and measures of the run in the folder `path`, as far as they are known.

    Args:
        planned: its entry of plan.json.
        failure: why it failed, or None.
    """
    file = path / "result.json"
    result = read_record(file, Result) if file.exists() else {}
    finished = bool(result.get("finished"))
    cost, seconds = result.get("cost") or {}, result.get("seconds") or {}
    searched = planned["genotype"] is None
    return {
        **{key: planned[key] for key in ("name", "method", "seed", "searcher", "space")},
        "status": "finished" if finished else "failed" if failure else "unfinished",
        "reason": None if finished else failure,
        "genotype": result.get("genotype"),
        "search_seconds": seconds.get("search") if searched else None,
        "train_seconds": seconds.get("train"),
        **{key: result.get(key) for key in _ACCURACIES},
        **{key: cost.get(key) for key in ("ops_honest", "ops_paper", "bytes")},
        **_shares(path / "genotype.json"),
        "alarms": alarm_epochs(read_rows(path / "search" / "alarms.jsonl", AlarmRow)),
    }


def _shares(path: Path) -> dict[str, float | None]:
    """Shares of a genotype's edges with Zeroise, and with pooling or identity."""
    genotype, _ = genotype_or_error(path)
    if genotype is None:
        return {"zeroise": None, "parameter_free": None}
    edges = sum(len(node) for cell in genotype.cells for node in cell)
    return {
        "zeroise": genotype.count(ZEROISE) / edges,
        "parameter_free": sum(map(genotype.count, PARAMETER_FREE)) / edges,
    }


def method_rows(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each method, in the order of the runs.

    A measure is `{"mean", "std", "n"}` over the finished runs that have it: `mean` is None without
    any, `std`, the sample standard deviation, below two.
    """
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        finished = [run for run in own if run["status"] == "finished"]
        rows.append(
            {
                "method": method,
                "space": own[0]["space"],
                "runs": len(own),
                "finished": len(finished),
                "failed": sum(run["status"] == "failed" for run in own),
                **{measure: _summary([run[measure] for run in finished]) for measure in MEASURES},
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


def _mean(summary: Row, number: Callable[[float], str]) -> str:
    return "–" if summary["mean"] is None else number(summary["mean"])


def _mean_and_spread(summary: Row, number: Callable[[float], str]) -> str:
    mean = _mean(summary, number)
    return mean if summary["std"] is None else f"{mean} ± {number(summary['std'])}"


#: Heading and text of each column of the table for people.
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row["method"],
    "space": lambda row: row["space"],
    "runs": lambda row: f"{row['finished']}/{row['runs']}",
    "search time": lambda row: _mean_and_spread(row["search_seconds"], duration),
    "test accuracy (%)": lambda row: _mean_and_spread(
        row["test_accuracy"], lambda share: f"{100 * share:.2f}"
    ),
    "OPs, honest": lambda row: _mean(row["ops_honest"], scientific),
    "OPs, papers'": lambda row: _mean(row["ops_paper"], scientific),
    "size": lambda row: _mean(row["bytes"], size),
    "Zeroise": lambda row: _mean(row["zeroise"], "{:.0%}".format),
    "pools": lambda row: _mean(row["parameter_free"], "{:.0%}".format),
}


def comparison_text(rows: Sequence[Row], runs: Sequence[Row], notes: Sequence[str]) -> str:
    """The table for a terminal, with genotypes, failures, alarms and notes."""
    columns, cells = _table(rows)
    lines = align([columns, *cells], left=1 + ("space" in columns))
    return "\n".join([*lines, "", *_remarks(rows, runs), *notes])


def comparison_markdown(
    rows: Sequence[Row], runs: Sequence[Row], notes: Sequence[str], title: str
) -> str:
    """The same as Markdown."""
    columns, cells = _table(rows)
    remarks = [*_remarks(rows, runs), *notes]
    return render("comparison.md", title=title, columns=columns, rows=cells, remarks=remarks)


def comparison_csv(rows: Sequence[Row]) -> str:
    """The table with mean, standard deviation and number of runs of every measure."""
    plain = ("method", "space", "runs", "finished", "failed")
    summaries = [(measure, part) for measure in MEASURES for part in ("mean", "std", "n")]
    lines = [[*plain, *map("_".join, summaries), "genotypes"]]
    for row in rows:
        numbers = [row[measure][part] for measure, part in summaries]
        lines.append([*(row[key] for key in plain), *numbers, " ".join(row["genotypes"])])
    return csv_text(lines)


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells; nothing was searched in an ablation, whose rows have no space."""
    columns = dict(_COLUMNS)
    if all(row["space"] is None for row in rows):
        del columns["space"], columns["search time"]
    return [*columns], [[text(row) for text in columns.values()] for row in rows]


def _remarks(rows: Sequence[Row], runs: Sequence[Row]) -> list[str]:
    """Genotypes of each method; failures and alarms of single runs."""
    lines = [
        f"Genotypes of {row['method']}: {', '.join(dict.fromkeys(row['genotypes']))}"
        for row in rows
        if row["genotypes"]
    ]
    for run in runs:
        if run["status"] != "finished":
            reason = f": {run['reason']}" if run["reason"] else "."
            lines.append(f"{run['name']} {run['status']}{reason}")
        for name, epochs in run["alarms"].items():
            lines.append(f"{run['name']}: alarm `{name}` in search epoch {spans(epochs)}.")
    return lines


#: Measure → heading of its panel, and the unit of its axis.
_PANELS = {
    "test_accuracy": ("Test accuracy (%)", 0.01),
    "search_seconds": ("Search time (min)", 60),
    "ops_honest": ("OPs, honest (million)", 1e6),
    "bytes": ("Size (kB)", 1e3),
}


def save_comparison_picture(rows: Rows, runs: Rows, path: Path, title: str) -> Path:
    """Write a picture of `method_rows` and of the `run_facts` they come from: a panel for each
    measure, with a dot for each run. RunError if it cannot be written."""
    figure = style.new_figure(12, 1.6 + 0.42 * len(rows))
    heights = np.arange(len(rows))[::-1]
    panels = dict(_PANELS)
    if all(row["space"] is None for row in rows):
        del panels["search_seconds"]
    for axes, (measure, (heading, unit)) in zip(
        figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True
    ):
        for y, row in zip(heights, rows, strict=True):
            values = [
                run[measure] / unit
                for run in runs
                if run["method"] == row["method"]
                and run["status"] == "finished"
                and run[measure] is not None
            ]
            _draw_method(axes, y, row, measure, unit, values)
        style.style_axes(axes, heading, fontsize=9, grid="x")
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if measure != "test_accuracy":
            axes.set_xlim(left=0)
    axes.set_yticks(
        heights, [style.literal(f"{row['method']} ({row['finished']})") for row in rows]
    )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    caption = f"{title}. Dots: runs; line: mean ± sample standard deviation; (n) finished runs"
    figure.suptitle(style.literal(caption), fontsize=9, color=style.INK, x=0.01, ha="left")
    figure.tight_layout()
    return style.save_figure(figure, path)


def _draw_method(
    axes: Axes, y: float, row: Row, measure: str, unit: float, values: Sequence[float]
) -> None:
    """Mean, spread and runs of a method, or why there are none."""
    if not values:
        text = "failed" if row["failed"] and not row["finished"] else "–"
        at_left_edge = axes.get_yaxis_transform()
        axes.text(0.02, y, text, fontsize=8, color=style.GREY, va="center", transform=at_left_edge)
        return
    mean, spread = row[measure]["mean"] / unit, (row[measure]["std"] or 0) / unit
    axes.hlines(y, mean - spread, mean + spread, color=style.SECOND, linewidth=2)
    axes.plot(mean, y, "|", color=style.SECOND, markersize=13, markeredgewidth=2)
    axes.plot(values, [y] * len(values), "o", color=style.FIRST, markersize=4.5, alpha=0.8)
