"""The layer study as the slides print it: a table, a CSV file and a picture of its accuracies."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.files import write_atomic
from bnas_larq.report.figure_style import GREY, INK, new_figure, save_figure
from bnas_larq.tables import align

#: Test accuracy on CIFAR-10 in percent, as the authors report it ("BNAS-v2: A Summary with
#: Empirical Improvements", Kim, Singh, Choi).
PUBLISHED = {
    "full": {
        "conv_3x3": 61.78,
        "conv_5x5": 60.14,
        "dil_3x3": 56.97,
        "dil_5x5": 55.17,
        "sep_3x3": 56.38,
        "sep_5x5": 57.00,
    },
    "binary": {
        "conv_3x3": 46.15,
        "conv_5x5": 42.53,
        "dil_3x3": 41.02,
        "dil_5x5": 37.68,
        "sep_3x3": 10.00,
        "sep_5x5": 10.00,
    },
}
#: Rows of the table.
CAPTIONS = {
    "full": "FP Acc. (%)",
    "binary": "Bin. Acc. (%)",
    "uncentred": "Bin. Acc. (%), depthwise not centred",
}
_KINDS = {"conv": "Conv", "dil": "Dil. Conv", "sep": "Sep. Conv"}
_COLOURS = {"full": "#2f6db3", "binary": "#e69f00", "uncentred": "#8f5fbf"}
_COLUMNS = (
    "layer",
    "precision",
    "test_accuracy",
    "published_accuracy",
    "classes_predicted",
    "scheme",
    "operation",
    "seconds",
    "folder",
)

Networks = Sequence[Mapping[str, Any]]


def published_accuracy(precision: str, layer: str) -> float | None:
    """What the slides report for CIFAR-10, as a share; None where they have nothing."""
    percent = PUBLISHED.get(precision, {}).get(layer)
    return None if percent is None else round(percent / 100, 4)


def layer_table(networks: Networks) -> str:
    """The accuracies in the slides' form, the published ones below those of this study.

    Args:
        networks: of each network `layer`, `precision`, `test_accuracy` and `published_accuracy`
            (shares, or None) and `classes_predicted`.
    """
    layers, precisions = _order(networks)
    found = _by_place(networks)
    rows = [
        ["Layer type", *(_heading(layer)[0] for layer in layers)],
        ["Kernel size", *(_heading(layer)[1] for layer in layers)],
    ]
    for precision in precisions:
        for key, caption in (
            ("test_accuracy", CAPTIONS[precision]),
            ("published_accuracy", "  published"),
        ):
            shares = [found.get((precision, layer), {}).get(key) for layer in layers]
            if key == "test_accuracy" or any(share is not None for share in shares):
                rows.append([caption, *map(_percent, shares)])
    lines = align(rows, left=1)
    constant = [
        f"{CAPTIONS[one['precision']].split(' (')[0]} {' '.join(_heading(one['layer']))}"
        for one in networks
        if one.get("classes_predicted") == 1
    ]
    if constant:
        lines += ["", f"The same answer to every image: {', '.join(constant)}."]
    return "\n".join(lines)


def save_layer_csv(networks: Networks, path: Path) -> Path:
    """Write one line for each network.

    Raises:
        RunError: it cannot be written.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(networks)
    return write_atomic(path, stream.getvalue())


def save_layer_picture(networks: Networks, path: Path, title: str) -> Path:
    """Write bars of the accuracies, with lines for the published ones and for guessing.

    Args:
        networks: as of `layer_table`, each with `classes` too: how many classes the data have.

    Raises:
        RunError: it cannot be written.
    """
    layers, precisions = _order(networks)
    found = _by_place(networks)
    figure = new_figure(9, 4.2)
    axes = figure.subplots()
    width = 0.8 / len(precisions)
    places = np.arange(len(layers))
    for number, precision in enumerate(precisions):
        x = places + (number - (len(precisions) - 1) / 2) * width
        for key, style in (
            ("test_accuracy", {"color": _COLOURS[precision], "label": CAPTIONS[precision]}),
            ("published_accuracy", {}),
        ):
            shares = [found.get((precision, layer), {}).get(key) for layer in layers]
            known = [(at, 100 * share) for at, share in zip(x, shares, strict=True) if share]
            if not known:
                continue
            at, heights = np.array(known).T
            if key == "test_accuracy":
                axes.bar(at, heights, width * 0.92, **style)
                for left, height in known:
                    axes.text(
                        left, height + 0.8, f"{height:.1f}", ha="center", fontsize=7, color=INK
                    )
            else:
                label = "published" if precision == precisions[0] else None
                half = width * 0.46
                axes.hlines(heights, at - half, at + half, color=INK, linewidth=1.6, label=label)
    classes = networks[0].get("classes")
    if classes:
        axes.axhline(
            100 / classes, color=GREY, linewidth=1, linestyle=(0, (4, 2)), label="random guess"
        )
    axes.set_xticks(places, [" ".join(_heading(layer)) for layer in layers], fontsize=9)
    axes.set_ylabel("test accuracy (%)", fontsize=9, color=INK)
    axes.set_ylim(0, min(100.0, axes.get_ylim()[1] * 1.08))
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.09))
    figure.tight_layout()
    return save_figure(figure, path)


def _order(networks: Networks) -> tuple[list[str], list[str]]:
    """Layers and precisions, each once, in the order they are given in."""
    return (
        list(dict.fromkeys(one["layer"] for one in networks)),
        list(dict.fromkeys(one["precision"] for one in networks)),
    )


def _by_place(networks: Networks) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(one["precision"], one["layer"]): one for one in networks}


def _heading(layer: str) -> tuple[str, str]:
    """`("Dil. Conv", "3×3")` of `dil_3x3`; other operations keep their names."""
    kind, _, size = layer.partition("_")
    if kind in _KINDS and size:
        return _KINDS[kind], size.replace("x", "×")
    return layer, ""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"
