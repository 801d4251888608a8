"""What all pictures share: figures that save the same bytes each time, colours, axes and curves."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnas_larq.files import write_atomic
from bnas_larq.spaces import ZEROISE

Rows = Sequence[Mapping[str, Any]]

INK = "#1f2933"
GREY = "#9aa5b1"
#: The first and the second curve of a plot.
FIRST, SECOND = "#2f6db3", "#c8511b"

_OPERATIONS = {
    ZEROISE: GREY,
    "max_pool_3x3": "#2f6db3",
    "avg_pool_3x3": "#56b4e9",
    "bin_conv_3x3": "#e69f00",
    "bin_conv_5x5": "#c8511b",
    "bin_dil_conv_3x3": "#34a877",
    "bin_dil_conv_5x5": "#0b6e4f",
    "identity": "#8f5fbf",
    "bin_sep_conv_3x3": "#d081b5",
    "bin_sep_conv_5x5": "#a8457f",
    "bin_dil_sep_conv_3x3": "#a2a53a",
    "bin_dil_sep_conv_5x5": "#6b6e12",
}
#: For operations that users register, chosen by a checksum of the name.
_USERS = ("#7a6f5d", "#b2593b", "#4d6a8a", "#9c3f5c", "#5c7a3a", "#7652a0", "#2a8a8a", "#8a6d1f")

_DPI = 150
#: Fixed ids in SVG, and glyphs as outlines: the same bytes each time, the same look everywhere.
_RC = {"svg.hashsalt": "bnas_larq", "svg.fonttype": "path"}


def operation_colour(name: str) -> str:
    """The colour of an operation in all pictures, as `#rrggbb`."""
    # Convolutions look alike, whatever stands around them.
    plain = name.replace("bin_res_", "bin_").replace("bin_group_", "bin_").removesuffix("_linear")
    return _OPERATIONS.get(plain) or _USERS[zlib.crc32(name.encode()) % len(_USERS)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, outside pyplot's global state."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, by the file's suffix: the same bytes for the same figure.
    RunError if it cannot be written."""
    kind = path.suffix[1:]
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    stream = io.BytesIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(stream, format=kind, dpi=_DPI, metadata=metadata)
    return write_atomic(path, stream.getvalue())


def literal(text: str) -> str:
    """A text that matplotlib does not read as mathematics: users' names may hold two `$`."""
    return text.replace("$", r"\$")


def style_axes(axes: Axes, title: str, *, fontsize: float = 10, grid: str = "both") -> None:
    """Title, ticks, grid (`"both"`, `"x"` or `""`) and spines that all plots have in common."""
    axes.set_title(literal(title), fontsize=fontsize, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, axis=grid, color="#e4e7eb", linewidth=0.6)
        axes.set_axisbelow(True)


def style_epoch_axes(
    axes: Axes, title: str, epochs: np.ndarray, *, legend: bool = True, twin: Axes | None = None
) -> None:
    """`style_axes` with whole epochs across, and one legend for the axes and their twin."""
    style_axes(axes, title)
    axes.set_xlabel("epoch", fontsize=8, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    single = len(epochs) == 1
    axes.set_xlim(epochs[0] - 0.5 * single, epochs[-1] + 0.5 * single)
    if single:
        axes.set_xticks(epochs)
    handles, labels = axes.get_legend_handles_labels()
    if twin is not None:
        twin_handles, twin_labels = twin.get_legend_handles_labels()
        handles, labels = handles + twin_handles, labels + twin_labels
    if legend and handles:
        # Beside the title, where no curve can run through it.
        corner = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.985), "borderaxespad": 0.2}
        axes.legend(
            handles, labels, ncols=2, frameon=False, fontsize=8, columnspacing=1.2, **corner
        )


def start_at_zero(axes: Axes) -> None:
    """Let the vertical axis begin at 0."""
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-6))


def draw_curve(
    axes: Axes, x: np.ndarray, y: np.ndarray, colour: Any, label: str | None, dashed: bool = False
) -> None:
    """A line through the finite values; a single one gets a marker, since no line would show it."""
    finite = np.isfinite(y)
    if finite.any():
        marker = "o" if finite.sum() == 1 else None
        style = {"linewidth": 1.6, "linestyle": (0, (4, 2)) if dashed else "-", "markersize": 4}
        label = label and literal(label)
        axes.plot(x[finite], y[finite], color=colour, label=label, marker=marker, **style)


def epochs_of(rows: Rows) -> np.ndarray:
    """Epochs of the rows, counted from 1 as in all texts; files count from 0."""
    return np.array([row.get("epoch", number) + 1 for number, row in enumerate(rows)])


def values_of(rows: Rows, key: str) -> np.ndarray:
    """Values of a key, NaN where it is missing, not a number or too large to be drawn."""
    values = (row.get(key) for row in rows)
    return np.array(
        [v if isinstance(v, (int, float)) and abs(v) < 1e30 else math.nan for v in values], float
    )
