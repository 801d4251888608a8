"""The layer study as the authors' slides print it: a table, a CSV file and a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from bnas_larq.files import write_atomic
from bnas_larq.report import figure_style as style
from bnas_larq.report.figure_style import Rows
from bnas_larq.tables import align, csv_text

_LAYERS = ("conv_3x3", "conv_5x5", "dil_3x3", "dil_5x5", "sep_3x3", "sep_5x5")
#: Test accuracy on CIFAR-10 in percent, as the authors report it ("BNAS-v2: A Summary with
#: Empirical Improvements", Kim, Singh, Choi).
PUBLISHED = {
    "full": dict(zip(_LAYERS, (61.78, 60.14, 56.97, 55.17, 56.38, 57.00), strict=True)),
    "binary": dict(zip(_LAYERS, (46.15, 42.53, 41.02, 37.68, 10.00, 10.00), strict=True)),
}
#: Precision → its row of the table.
CAPTIONS = {
    "full": "FP Acc. (%)",
    "binary": "Bin. Acc. (%)",
    "uncentred": "Bin. Acc. (%), depthwise not centred",
}
_KINDS = {"conv": "Conv", "dil": "Dil. Conv", "sep": "Sep. Conv"}
_COLOURS = {"full": "#2f6db3", "binary": "#e69f00", "uncentred": "#8f5fbf"}
_CSV_COLUMNS = (
    *("layer", "precision", "test_accuracy", "published_accuracy", "classes_predicted"),
    *("scheme", "operation", "seconds", "folder"),
)


def published_accuracy(precision: str, layer: str) -> float | None:
    """The slides' accuracy on CIFAR-10, as a share; None if they report none."""
    percent = PUBLISHED.get(precision, {}).get(layer)
    return None if percent is None else round(percent / 100, 4)


def layer_table(networks: Rows) -> str:
    """The accuracies as the slides print them, with the published ones below.

    Args:
        networks: of each network `layer`, `precision`, `test_accuracy` and `published_accuracy`
            (shares, or None) and `classes_predicted`.
    """
    layers, precisions = _each_once(networks, "layer"), _each_once(networks, "precision")
    kinds, sizes = zip(*map(_heading, layers), strict=True)
    rows = [["Layer type", *kinds], ["Kernel size", *sizes]]
    for precision in precisions:
        measured = _shares(networks, precision, layers, "test_accuracy")
        rows.append([CAPTIONS[precision], *map(_percent, measured)])
        published = _shares(networks, precision, layers, "published_accuracy")
        if any(share is not None for share in published):
            rows.append(["  published", *map(_percent, published)])
    lines = align(rows, left=1)
    constant = [
        f"{CAPTIONS[network['precision']].split(' (')[0]} {' '.join(_heading(network['layer']))}"
        for network in networks
        if network.get("classes_predicted") == 1
    ]
    if constant:
        lines += ["", f"The same answer to every image: {', '.join(constant)}."]
    return "\n".join(lines)


def save_layer_csv(networks: Rows, path: Path) -> Path:
    """Write a line for each network; RunError if it cannot be written."""
    rows = [[network.get(key) for key in _CSV_COLUMNS] for network in networks]
    return write_atomic(path, csv_text([_CSV_COLUMNS, *rows]))


def save_layer_picture(networks: Rows, path: Path, title: str) -> Path:
    """Write bars of the accuracies, with lines for the published ones and for random guessing.

    Args:
        networks: as of `layer_table`, each with `classes`, the number of classes of the data.

    Raises:
        RunError: it cannot be written.
    """
    layers, precisions = _each_once(networks, "layer"), _each_once(networks, "precision")
    figure = style.new_figure(9, 4.2)
    axes = figure.subplots()
    width = 0.8 / len(precisions)
    middles = np.arange(len(layers))
    for number, precision in enumerate(precisions):
        x = middles + (number - (len(precisions) - 1) / 2) * width
        measured = _shares(networks, precision, layers, "test_accuracy")
        published = _shares(networks, precision, layers, "published_accuracy")
        _draw_bars(axes, x, measured, width * 0.92, _COLOURS[precision], CAPTIONS[precision])
        _draw_published(axes, x, published, width * 0.46, "published" if number == 0 else None)
    classes = networks[0].get("classes")
    if classes:
        line = {"color": style.GREY, "linewidth": 1, "linestyle": (0, (4, 2))}
        axes.axhline(100 / classes, **line, label="random guess")
    axes.set_xticks(middles, [" ".join(_heading(layer)) for layer in layers], fontsize=9)
    axes.set_ylabel("test accuracy (%)", fontsize=9, color=style.INK)
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1] * 1.08))
    style.style_axes(axes, title, grid="")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.09))
    figure.tight_layout()
    return style.save_figure(figure, path)


Shares = Sequence[float | None]


def _draw_bars(
    axes: Axes, x: np.ndarray, shares: Shares, width: float, colour: str, label: str
) -> None:
    bars = _percents(x, shares)
    if bars:
        axes.bar(*np.array(bars).T, width, color=colour, label=label)
    for middle, height in bars:
        axes.text(middle, height + 0.8, f"{height:.1f}", ha="center", fontsize=7, color=style.INK)


def _draw_published(
    axes: Axes, x: np.ndarray, shares: Shares, half: float, label: str | None
) -> None:
    lines = _percents(x, shares)
    if lines:
        middles, y = np.array(lines).T
        left, right = middles - half, middles + half
        axes.hlines(y, left, right, color=style.INK, linewidth=1.6, label=label)


def _percents(x: np.ndarray, shares: Shares) -> list[tuple[float, float]]:
    """Places and percents of the shares that are known."""
    pairs = zip(x, shares, strict=True)
    return [(middle, 100 * share) for middle, share in pairs if share is not None]


def _each_once(networks: Rows, key: str) -> list[str]:
    return list(dict.fromkeys(network[key] for network in networks))


def _shares(networks: Rows, precision: str, layers: Sequence[str], key: str) -> Shares:
    """An accuracy of the network with each layer; None where there is none."""
    shares = {
        network["layer"]: network.get(key)
        for network in networks
        if network["precision"] == precision
    }
    return [shares.get(layer) for layer in layers]


def _heading(layer: str) -> tuple[str, str]:
    """`("Dil. Conv", "3×3")` of `dil_3x3`; other operations keep their names."""
    kind, _, size = layer.partition("_")
    return (_KINDS[kind], size.replace("x", "×")) if kind in _KINDS and size else (layer, "")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"
