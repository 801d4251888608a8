"""Curves of a run: the architecture weights, the training, and the confusion matrix.

Every function takes plain data as it stands in the run folder, writes one PNG, and returns its
path, or None when the data hold nothing to draw. Missing and non-finite values are left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from bnas_larq.report.figure_style import (
    FIRST,
    GREY,
    INK,
    SECOND,
    Rows,
    column,
    epochs_of,
    finish,
    from_zero,
    line,
    new_figure,
    operation_colour,
    save_figure,
)
from bnas_larq.spaces import edges_of_cell

#: Confusion matrices with more classes show colours only.
_MAX_WRITTEN_CLASSES = 20


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
    epochs = epochs_of(alphas)
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
        for number, name in enumerate(operations):
            line(
                axes, epochs, shares[kind][:, :, number].mean(axis=1), operation_colour(name), name
            )
        finish(axes, f"{title}, mean over the edges", epochs, legend=False)
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
        line(axes, epochs, column(metrics, key), FIRST, "training")
        line(axes, epochs, column(metrics, f"val_{key}"), SECOND, "validation")
        finish(axes, title, epochs)
    rates = column(metrics, "lr")
    line(rate, epochs, rates, FIRST, "lr")
    if np.isfinite(rates).any() and np.nanmin(rates) > 0:
        rate.set_yscale("log")
        rate.tick_params(which="minor", labelsize=7)
    finish(rate, "Learning rate at the epoch's end", epochs, legend=False)
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


def _softmax(alphas: np.ndarray) -> np.ndarray:
    exponentials = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _plain(text: str) -> str:
    """A name that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


#: Measures of a cost term, as people read them.
_UNITS = {"ops": "OPs", "bytes": "bytes", "latency": "ms"}
#: What alarms watch: label and colour.
_WATCHED = {
    "zeroise": ("Zeroise", GREY),
    "pooling": ("pooling, identity", FIRST),
    "entropy": ("entropy", "#34a877"),
    "dead_signs": ("dead signs", "#8f5fbf"),
}
_ALARM = "#b3261e"


def save_search_curves(
    metrics: Rows,
    folder: str | Path,
    alarms: Rows = (),
    target: tuple[float, str] | None = None,
) -> Path | None:
    """Write `search_curves.png`: loss and accuracy on both halves, entropy with λ·exp(−t/τ), shares
    of operations; where there are any, the expected cost and what alarms watch.

    Args:
        metrics: rows of `search/metrics.jsonl`: `loss`, `accuracy`, `alpha_loss`, `alpha_accuracy`,
            `entropy`, `diversity_weight`, `share_<operation>`, `expected_cost`, each where known.
        folder: folder of the picture.
        alarms: rows of `search/alarms.jsonl`.
        target: of the expected cost, and its measure.
    """
    if not metrics:
        return None
    epochs = epochs_of(metrics)
    further = [panel for panel in (_cost_panel(metrics, target), _alarm_panel(alarms)) if panel]
    rows = 3 if further else 2
    figure = new_figure(10, 3.2 * rows)
    loss, accuracy, entropy, shares, *rest = figure.subplots(rows, 2).ravel()
    for axes, key, title in ((loss, "loss", "Loss"), (accuracy, "accuracy", "Accuracy")):
        line(axes, epochs, column(metrics, key), FIRST, "half of the weights")
        line(axes, epochs, column(metrics, f"alpha_{key}"), SECOND, "half of α")
        finish(axes, title, epochs)
    line(entropy, epochs, column(metrics, "entropy"), FIRST, "entropy (nats)")
    weight = entropy.twinx()
    line(
        weight,
        epochs,
        column(metrics, "diversity_weight"),
        GREY,
        "λ·exp(−t/τ), right",
        dashed=True,
    )
    weight.spines[["top", "left"]].set_visible(False)
    weight.tick_params(labelsize=8, colors=INK)
    from_zero(entropy)
    from_zero(weight)
    finish(entropy, "Diversity", epochs, also=weight)
    names = [key.removeprefix("share_") for key in metrics[0] if key.startswith("share_")]
    if names:
        values = np.nan_to_num([column(metrics, f"share_{name}") for name in names])
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
    finish(shares, "Share of each operation", epochs, legend=False)
    for axes, draw in itertools.zip_longest(rest, further):
        if draw is None:
            axes.set_axis_off()
        else:
            draw(axes)
    figure.tight_layout()
    return save_figure(figure, Path(folder) / "search_curves.png")


def _cost_panel(metrics: Rows, target: tuple[float, str] | None) -> Callable[[Axes], None] | None:
    """Draws the expected cost and its target; None if none was expected."""
    costs, epochs = column(metrics, "expected_cost"), epochs_of(metrics)
    if not np.isfinite(costs).any():
        return None

    def draw(axes: Axes) -> None:
        line(axes, epochs, costs, FIRST, "expected")
        title = "Expected cost"
        if target is not None:
            value, measure = target
            line(axes, epochs, np.full(len(epochs), value), GREY, "target", dashed=True)
            title += f" ({_UNITS.get(measure, measure)})"
        from_zero(axes)
        finish(axes, title, epochs)

    return draw


def _alarm_panel(alarms: Rows) -> Callable[[Axes], None] | None:
    """Draws what alarms watch, with a mark wherever one was raised; None without anything."""
    curves = {name: column(alarms, name) for name in _WATCHED}
    if not any(np.isfinite(values).any() for values in curves.values()):
        return None
    epochs = epochs_of(alarms)

    def draw(axes: Axes) -> None:
        for name, values in curves.items():
            label, colour = _WATCHED[name]
            line(axes, epochs, values, colour, label)
            raised = np.array([name in (row.get("alarms") or ()) for row in alarms])
            if raised.any():
                axes.plot(
                    epochs[raised], values[raised], "x", color=_ALARM, markersize=7, clip_on=False
                )
        axes.set_ylim(0, 1.05)
        finish(axes, "Alarms (×)", epochs)

    return draw
