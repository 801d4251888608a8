"""The Pareto front of a search that trained networks one by one: accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bnas_larq.errors import RunError
from bnas_larq.files import read_json, read_lines
from bnas_larq.report import figure_style as style
from bnas_larq.report.figure_style import Rows

#: Cost measure → label of its axis.
_COSTS = {
    "ops": "operations for one image (papers' convention)",
    "ops_honest": "operations for one image (counted honestly)",
    "bytes": "bytes as deployed",
}
#: Longer fronts are drawn without the genotypes' names.
_MAX_NAMED = 12


def save_pareto(search: str | Path, folder: str | Path) -> list[Path]:
    """Write `pareto.png` and `pareto.svg`: every trial, and the front of those that no other trial
    beats in both accuracy and cost.

    Args:
        search: folder with `trials.jsonl` (rows with `accuracy` and `cost`) and `pareto.json`
            (`cost`, the measure, and the rows of the `front`).
        folder: folder of the pictures.

    Returns:
        The files written; none if the data are absent or damaged, or hold nothing to draw.
    """
    search = Path(search)
    try:
        summary, trials = read_json(search / "pareto.json"), read_lines(search / "trials.jsonl")
    except RunError:
        return []
    rows = summary.get("front") if isinstance(summary, dict) else None
    front = [row for row in rows if _is_measured(row)] if isinstance(rows, list) else []
    if not front:
        return []
    trials = [row for row in trials if _is_measured(row)]
    measure = summary.get("cost")
    figure = style.new_figure(7.4, 4.6)
    axes = figure.subplots()
    _draw(axes, trials, sorted(front, key=lambda row: row["cost"]))
    axes.set_xlabel(_COSTS.get(measure) or style.literal(str(measure)), fontsize=9, color=style.INK)
    axes.set_ylabel("validation accuracy", fontsize=9, color=style.INK)
    style.style_axes(axes, f"{len(trials)} trials, {len(front)} of them on the Pareto front")
    figure.tight_layout()
    return [style.save_figure(figure, Path(folder) / f"pareto.{kind}") for kind in ("png", "svg")]


def _draw(axes: Axes, trials: Rows, front: Rows) -> None:
    trial_points = [row["cost"] for row in trials], [row["accuracy"] for row in trials]
    axes.scatter(*trial_points, s=18, color=style.GREY, label="trial", linewidths=0)
    points = [row["cost"] for row in front], [row["accuracy"] for row in front]
    # Steps: between two points, the cheaper one is the best there is.
    axes.step(*points, where="post", color=style.SECOND, linewidth=1.4, label="Pareto front")
    axes.scatter(*points, s=30, color=style.SECOND, linewidths=0, zorder=3)
    for row in front if len(front) <= _MAX_NAMED else ():
        axes.annotate(
            style.literal(str(row.get("genotype", ""))),
            (row["cost"], row["accuracy"]),
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=6.5,
            color=style.INK,
        )
    axes.margins(x=0.12)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _is_measured(row: Any) -> bool:
    """Whether a row has an accuracy and a cost; a failed trial has none."""
    values = [row.get("accuracy"), row.get("cost")] if isinstance(row, Mapping) else [None]
    return all(isinstance(value, (int, float)) and abs(value) < 1e30 for value in values)
