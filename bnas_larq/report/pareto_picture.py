"""The Pareto front of a search that trained networks one by one: accuracy against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bnas_larq.errors import RunError
from bnas_larq.files import read_json, read_lines
from bnas_larq.report.figure_style import GREY, INK, new_figure, save_figure

NAME = "pareto"
_COLOUR = "#c8511b"
#: What costs are called on the axis.
_COSTS = {
    "ops": "operations for one image (papers' convention)",
    "bytes": "bytes as deployed",
}
#: Names of genotypes stand beside the points of fronts up to this length.
_MAX_NAMED = 12

Rows = Sequence[Mapping[str, Any]]


def save_pareto(search: str | Path, folder: str | Path) -> list[Path]:
    """Write `pareto.png` and `pareto.svg`: every trial, and the front of those that no other one
    surpasses in accuracy and cost.

    Args:
        search: folder with `trials.jsonl` (rows with `accuracy` and `cost`) and `pareto.json`
            (`cost`, the name of what was counted, and the rows of the `front`).
        folder: folder of the pictures.

    Returns:
        The files written; none if the data are absent or damaged, or hold nothing to draw.
    """
    search = Path(search)
    if not (search / "pareto.json").is_file():
        return []
    try:
        described = read_json(search / "pareto.json")
    except RunError:
        return []
    found = described.get("front") if isinstance(described, dict) else None
    front = [row for row in found or [] if _drawable(row)] if isinstance(found, list) else []
    if not front:
        return []
    trials = [row for row in read_lines(search / "trials.jsonl") if _drawable(row)]
    figure = new_figure(7.4, 4.6)
    axes = figure.subplots()
    _draw(axes, trials, sorted(front, key=lambda row: row["cost"]))
    name = described.get("cost")
    axes.set_xlabel(_COSTS.get(name, str(name)), fontsize=9, color=INK)
    axes.set_ylabel("validation accuracy", fontsize=9, color=INK)
    axes.set_title(
        f"{len(trials)} trials, {len(front)} of them on the Pareto front",
        fontsize=10,
        color=INK,
        loc="left",
    )
    figure.tight_layout()
    return [save_figure(figure, Path(folder) / f"{NAME}.{kind}") for kind in ("png", "svg")]


def _draw(axes: Axes, trials: Rows, front: Rows) -> None:
    axes.scatter(
        [row["cost"] for row in trials],
        [row["accuracy"] for row in trials],
        s=18,
        color=GREY,
        label="trial",
        linewidths=0,
    )
    costs = [row["cost"] for row in front]
    accuracies = [row["accuracy"] for row in front]
    # Steps: between two points, the cheaper one is the best that there is.
    axes.step(costs, accuracies, where="post", color=_COLOUR, linewidth=1.4, label="Pareto front")
    axes.scatter(costs, accuracies, s=30, color=_COLOUR, linewidths=0, zorder=3)
    if len(front) <= _MAX_NAMED:
        for row in front:
            axes.annotate(
                str(row.get("genotype", "")),
                (row["cost"], row["accuracy"]),
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=6.5,
                color=INK,
            )
    axes.grid(True, color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=INK)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _drawable(row: Any) -> bool:
    """Whether a row has an accuracy and a cost; a failed trial has none."""
    values = [row.get("accuracy"), row.get("cost")] if isinstance(row, Mapping) else [None]
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
