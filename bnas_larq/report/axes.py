"""What all curves of a run have in common: axes of epochs, columns of rows, lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bnas_larq.report.palette import INK

Rows = Sequence[Mapping[str, Any]]

#: Of the first and the second curve, where there are two.
FIRST, SECOND = "#2f6db3", "#c8511b"


def epochs_of(rows: Rows) -> np.ndarray:
    """Numbers of the epochs, as far as the rows know them."""
    return np.array([row.get("epoch", number) for number, row in enumerate(rows)])


def column(rows: Rows, key: str) -> np.ndarray:
    """Values of a key, NaN where it is missing or no number."""
    values = (row.get(key) for row in rows)
    return np.array(
        [v if isinstance(v, (int, float)) and math.isfinite(v) else math.nan for v in values], float
    )


def line(
    axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str, dashed: bool = False
) -> None:
    """A curve through the known values; a single one gets a mark, which a line would not show."""
    known = np.isfinite(y)
    if known.any():
        mark = "o" if known.sum() == 1 else None
        style = {"linewidth": 1.6, "linestyle": (0, (4, 2)) if dashed else "-", "markersize": 4}
        axes.plot(x[known], y[known], color=colour, label=label, marker=mark, **style)


def from_zero(axes: Axes) -> None:
    """Let the vertical axis begin at 0."""
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-6))


def finish(
    axes: Axes, title: str, epochs: np.ndarray, *, legend: bool = True, also: Axes | None = None
) -> None:
    """Title, grid, whole epochs on the axis, and one legend for both vertical axes."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("epoch", fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, color="#e4e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    single = len(epochs) == 1
    axes.set_xlim(epochs[0] - 0.5 * single, epochs[-1] + 0.5 * single)
    if single:
        axes.set_xticks(epochs)
    handles, labels = axes.get_legend_handles_labels()
    if also is not None:
        more = also.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    if legend and handles:
        # Beside the title, where no curve can run through it.
        place = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.985), "borderaxespad": 0.2}
        axes.legend(handles, labels, ncols=2, frameon=False, fontsize=8, columnspacing=1.2, **place)
