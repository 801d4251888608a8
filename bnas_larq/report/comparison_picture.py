"""The picture of a comparison: every run a dot, every method's mean and spread, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from bnas_larq.report.palette import GREY, INK, new_figure, save_figure

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
    """Write the picture of a comparison's rows and runs, see `bnas_larq.report.comparison`.

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
