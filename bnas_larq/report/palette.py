"""One colour per operation, the same in every picture, and figures that come out the same each
time."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bnas_larq.runs import write_atomic
from bnas_larq.spaces import ZEROISE

INK = "#1f2933"
GREY = "#9aa5b1"

_COLOURS = {
    ZEROISE: GREY,
    "max_pool_3x3": "#2f6db3",
    "avg_pool_3x3": "#56b4e9",
    "bin_conv_3x3": "#e69f00",
    "bin_conv_5x5": "#c8511b",
    "bin_dil_conv_3x3": "#34a877",
    "bin_dil_conv_5x5": "#0b6e4f",
    "identity": "#8f5fbf",
    "skip_connect": "#8f5fbf",
    "sep_conv_3x3": "#d081b5",
    "sep_conv_5x5": "#a8457f",
    "dil_conv_3x3": "#a2a53a",
    "dil_conv_5x5": "#6b6e12",
}
#: For operations that a user registers; chosen by a checksum of the name, so a name keeps its
#: colour.
_FURTHER = ("#7a6f5d", "#b2593b", "#4d6a8a", "#9c3f5c", "#5c7a3a", "#7652a0", "#2a8a8a", "#8a6d1f")

_DPI = 150
#: Fixed ids in SVG, and letters as outlines: the same bytes each time, the same look everywhere.
_STYLE = {"svg.hashsalt": "bnas_larq", "svg.fonttype": "path"}


def operation_colour(name: str) -> str:
    """The colour of an operation in all pictures, as `#rrggbb`."""
    return _COLOURS.get(name) or _FURTHER[zlib.crc32(name.encode()) % len(_FURTHER)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, outside pyplot's global state."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG (by the file's suffix), the same bytes for the same figure.

    Raises:
        RunError: the file cannot be written.
    """
    kind = path.suffix[1:]
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    stream = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(stream, format=kind, dpi=_DPI, metadata=metadata)
    return write_atomic(path, stream.getvalue())
