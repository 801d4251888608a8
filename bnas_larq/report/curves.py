"""Curves of a run: the search, the architecture weights, the training, and the confusion matrix.

Every function takes plain data as it stands in the run folder, writes one PNG, and returns its
path, or None when the data hold nothing to draw. Missing and non-finite values are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bnas_larq.report.palette import GREY, INK, new_figure, operation_colour, save_figure
from bnas_larq.spaces import edges_of_cell

Rows = Sequence[Mapping[str, Any]]

_FIRST, _SECOND = "#2f6db3", "#c8511b"
#: Confusion matrices with more classes show colours only.
_MAX_WRITTEN_CLASSES = 20


def save_search_curves(metrics: Rows, folder: str | Path) -> Path | None:
    """Write `search_curves.png`: loss and accuracy on both halves, entropy with λ·exp(−t/τ), shares
    of operations.

    Args:
        metrics: rows of `search/metrics.jsonl`: `loss`, `accuracy`, `alpha_loss`, `alpha_accuracy`,
            `entropy`, `diversity_weight`, `share_<operation>`, each where known.
        folder: folder of the picture.
    """
    if not metrics:
        return None
    epochs = _epochs(metrics)
    figure = new_figure(10, 6.4)
    loss, accuracy, entropy, shares = figure.subplots(2, 2).ravel()
    for axes, key, title in ((loss, "loss", "Loss"), (accuracy, "accuracy", "Accuracy")):
        _line(axes, epochs, _column(metrics, key), _FIRST, "half of the weights")
        _line(axes, epochs, _column(metrics, f"alpha_{key}"), _SECOND, "half of α")
        _finish(axes, title, epochs)
    _line(entropy, epochs, _column(metrics, "entropy"), _FIRST, "entropy (nats)")
    weight = entropy.twinx()
    _line(
        weight,
        epochs,
        _column(metrics, "diversity_weight"),
        GREY,
        "λ·exp(−t/τ), right",
        dashed=True,
    )
    weight.spines[["top", "left"]].set_visible(False)
    weight.tick_params(labelsize=8, colors=INK)
    _from_zero(entropy)
    _from_zero(weight)
    _finish(entropy, "Diversity", epochs, also=weight)
    names = [key.removeprefix("share_") for key in metrics[0] if key.startswith("share_")]
    if names:
        values = np.nan_to_num([_column(metrics, f"share_{name}") for name in names])
        colours = [operation_colour(name) for name in names]
        if len(epochs) == 1:  # an area needs two ends
            values = np.repeat(values, 2, axis=1)
        ends = epochs if len(epochs) > 1 else epochs[0] + np.array([-0.4, 0.4])
        shares.stackplot(ends, values, colors=colours, labels=names, linewidth=0)
        shares.set_ylim(0, max(1.0, float(values.sum(axis=0).max())))
        handles, labels = shares.get_legend_handles_labels()
        shares.legend(
            handles[::-1],
            labels[::-1],
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            fontsize=8,
        )
    _finish(shares, "Share of each operation", epochs, legend=False)
    figure.tight_layout()
    return save_figure(figure, Path(folder) / "search_curves.png")


def save_alpha_history(alphas: Rows, operations: Sequence[str], folder: str | Path) -> Path | None:
    """Write `alphas.png`: softmax of α over the epochs, their mean over a cell's edges above, every
    edge below.

    Args:
        alphas: rows of `search/alphas.jsonl`: `normal` and `reduce`, logits [edges, operations].
        operations: names of the columns.
        folder: folder of the picture.
    """
    if not alphas:
        return None
    epochs = _epochs(alphas)
    kinds = {"normal": "Normal cell", "reduce": "Reduction cell"}
    shares = {kind: _softmax(np.array([row[kind] for row in alphas], float)) for kind in kinds}
    edges = shares["normal"].shape[1]
    columns = min(edges, 7)
    rows = math.ceil(edges / columns)
    figure = new_figure(11, 3 + 2 * (0.5 + 1.05 * rows))
    parts = figure.subfigures(3, 1, height_ratios=[2.8, 0.5 + 1.05 * rows, 0.5 + 1.05 * rows])
    for axes, (kind, title) in zip(
        parts[0].subplots(1, 2, sharey=True), kinds.items(), strict=True
    ):
        for column, name in enumerate(operations):
            _line(
                axes, epochs, shares[kind][:, :, column].mean(axis=1), operation_colour(name), name
            )
        _finish(axes, f"{title}, mean over the edges", epochs, legend=False)
    # The axis is shared: its limit must hold the larger cell's curves.
    axes.set_ylim(0, 1.05 * max(float(share.mean(axis=1).max()) for share in shares.values()))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8
    )
    parts[0].subplots_adjust(left=0.07, right=0.82, bottom=0.2, top=0.86, wspace=0.12)
    top = max([2 / len(operations), *(float(share.max()) for share in shares.values())])
    for part, (kind, title) in zip(parts[1:], kinds.items(), strict=True):
        part.suptitle(f"{title}, each edge", x=0.07, ha="left", fontsize=10, color=INK)
        grid = part.subplots(
            rows, columns, squeeze=False, gridspec_kw={"hspace": 0.42, "wspace": 0.12}
        )
        _edge_maps(grid, shares[kind], operations, epochs, top)
        part.subplots_adjust(left=0.11, right=0.92, bottom=0.1, top=0.82)
        bar = part.colorbar(grid[0, 0].images[0], ax=list(grid.ravel()), fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=7)
    return save_figure(figure, Path(folder) / "alphas.png")


def save_training_curves(metrics: Rows, folder: str | Path) -> Path | None:
    """Write `train_curves.png`: loss and accuracy of training and validation, and the learning
    rate.

    Args:
        metrics: rows of `train/metrics.jsonl`: `loss`, `accuracy`, `val_loss`, `val_accuracy`,
            `lr`, where known.
        folder: folder of the picture.
    """
    if not metrics:
        return None
    # Epochs are counted on across stages, so that a second stage does not draw over the first.
    epochs = np.arange(len(metrics))
    figure = new_figure(12, 3.4)
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, key, title in ((loss, "loss", "Loss"), (accuracy, "accuracy", "Accuracy")):
        _line(axes, epochs, _column(metrics, key), _FIRST, "training")
        _line(axes, epochs, _column(metrics, f"val_{key}"), _SECOND, "validation")
        _finish(axes, title, epochs)
    rates = _column(metrics, "lr")
    _line(rate, epochs, rates, _FIRST, "lr")
    if np.isfinite(rates).any() and np.nanmin(rates) > 0:
        rate.set_yscale("log")
        rate.tick_params(which="minor", labelsize=7)
    _finish(rate, "Learning rate at the epoch's end", epochs, legend=False)
    figure.tight_layout()
    return save_figure(figure, Path(folder) / "train_curves.png")


def save_confusion(matrix: Any, class_names: Sequence[str], folder: str | Path) -> Path | None:
    """Write `confusion.png`: true classes down, predicted classes across, colours by share of the
    true class.

    Args:
        matrix: counts [classes, classes].
        class_names: names in the matrix' order.
        folder: folder of the picture.
    """
    counts = np.asarray(matrix, float)
    if counts.size == 0:
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    written = classes <= _MAX_WRITTEN_CLASSES
    side = min(11.0, max(4.2, 0.46 * classes + 1.6)) if written else 8.0
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if written:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else INK
                axes.text(
                    column, row, f"{count:.0f}", ha="center", va="center", fontsize=8, color=colour
                )
    step = 1 if written else math.ceil(classes / 40)
    ticks = np.arange(0, classes, step)
    names = [_plain(str(class_names[tick])) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    axes.set_title("Confusion matrix (test images)", fontsize=10, color=INK, loc="left")
    figure.tight_layout()
    return save_figure(figure, Path(folder) / "confusion.png")


def _edge_maps(
    grid: np.ndarray, shares: np.ndarray, operations: Sequence[str], epochs: np.ndarray, top: float
) -> None:
    """One small picture an edge: operations down, epochs across, dark where the share is large."""
    edges = shares.shape[1]
    nodes = next(n for n in range(1, edges + 1) if len(edges_of_cell(n)) >= edges)
    states = ["c$_{k-2}$", "c$_{k-1}$", *map(str, range(nodes))]
    pairs = edges_of_cell(nodes)
    extent = (epochs[0] - 0.5, epochs[-1] + 0.5, len(operations) - 0.5, -0.5)
    style = {
        "aspect": "auto",
        "cmap": "magma_r",
        "vmin": 0,
        "vmax": top,
        "interpolation": "nearest",
    }
    for number, axes in enumerate(grid.ravel()):
        if number >= edges:
            axes.set_axis_off()
            continue
        axes.imshow(shares[:, number].T, extent=extent, **style)
        node, state = pairs[number]
        axes.set_title(f"{states[state]} → {node}", fontsize=8, color=INK, pad=2)
        axes.tick_params(labelsize=7, length=2)
        axes.set_yticks([])
        axes.set_xticks([])
        if number % grid.shape[1] == 0:
            axes.set_yticks(range(len(operations)), list(map(_plain, operations)), fontsize=5.5)
        if number + grid.shape[1] >= edges:
            axes.set_xticks(sorted({int(epochs[0]), int(epochs[-1])}))


def _epochs(rows: Rows) -> np.ndarray:
    return np.array([row.get("epoch", number) for number, row in enumerate(rows)])


def _column(rows: Rows, key: str) -> np.ndarray:
    """Values of a key, NaN where it is missing or no number."""
    values = (row.get(key) for row in rows)
    return np.array(
        [v if isinstance(v, (int, float)) and math.isfinite(v) else math.nan for v in values], float
    )


def _softmax(alphas: np.ndarray) -> np.ndarray:
    exponentials = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _line(
    axes: Axes, x: np.ndarray, y: np.ndarray, colour: str, label: str, dashed: bool = False
) -> None:
    """A curve through the known values; a single one gets a mark, which a line would not show."""
    known = np.isfinite(y)
    if known.any():
        mark = "o" if known.sum() == 1 else None
        style = {"linewidth": 1.6, "linestyle": (0, (4, 2)) if dashed else "-", "markersize": 4}
        axes.plot(x[known], y[known], color=colour, label=label, marker=mark, **style)


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-6))


def _finish(
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


def _plain(text: str) -> str:
    """A name that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
