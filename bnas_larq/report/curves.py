"""Curves of a run: search, architecture weights, training; and the confusion matrix.

Every function takes plain data as the run folder holds them, writes one PNG and returns its path,
or None when there is nothing to draw. Missing and non-finite values are skipped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from bnas_larq.report import figure_style as style
from bnas_larq.report.figure_style import Rows
from bnas_larq.spaces import edges_of_cell

#: Units of the measures that a cost term can have.
_UNITS = {"ops": "OPs", "bytes": "bytes", "latency": "ms"}
#: What alarms watch: label and colour.
_WATCHED = {
    "zeroise": ("Zeroise", style.GREY),
    "pooling": ("pooling, identity", style.FIRST),
    "entropy": ("entropy", "#34a877"),
    "dead_signs": ("dead signs", "#8f5fbf"),
}
_ALARM = "#b3261e"
#: Confusion matrices of more classes show colours without counts.
_MAX_WRITTEN_CLASSES = 20


def save_search_curves(
    metrics: Rows, folder: str | Path, alarms: Rows = (), target: tuple[float, str] | None = None
) -> Path | None:
    """Write `search_curves.png`: loss and accuracy on both halves, entropy with λ·exp(−t/τ), shares
    of operations; where there are any, the expected cost and what alarms watch. Of a search without
    α, loss and accuracy of the drawn paths.

    Args:
        metrics: rows of `search/metrics.jsonl`: `loss`, `accuracy`, `alpha_loss`, `alpha_accuracy`,
            `entropy`, `diversity_weight`, `share_<operation>`, `expected_cost`, each where known.
        alarms: rows of `search/alarms.jsonl`.
        target: of the expected cost, and its measure.
    """
    if not metrics:
        return None
    epochs = style.epochs_of(metrics)
    if not any("entropy" in row for row in metrics):
        figure = style.new_figure(10, 3.2)
        _draw_loss_and_accuracy(figure.subplots(1, 2), metrics, epochs, {"": "drawn paths"})
        figure.tight_layout()
        return style.save_figure(figure, Path(folder) / "search_curves.png")
    panels = [panel for panel in (_cost_panel(metrics, target), _alarm_panel(alarms)) if panel]
    rows = 3 if panels else 2
    figure = style.new_figure(10, 3.2 * rows)
    loss, accuracy, entropy, shares, *last_row = figure.subplots(rows, 2).ravel()
    labels = {"": "half of the weights", "alpha_": "half of α"}
    _draw_loss_and_accuracy((loss, accuracy), metrics, epochs, labels)
    entropies = style.values_of(metrics, "entropy")
    style.draw_curve(entropy, epochs, entropies, style.FIRST, "entropy (nats)")
    weight, weights = entropy.twinx(), style.values_of(metrics, "diversity_weight")
    style.draw_curve(weight, epochs, weights, style.GREY, "λ·exp(−t/τ), right", dashed=True)
    weight.spines[["top", "left"]].set_visible(False)
    weight.tick_params(labelsize=8, colors=style.INK)
    style.start_at_zero(entropy)
    style.start_at_zero(weight)
    style.style_epoch_axes(entropy, "Diversity", epochs, twin=weight)
    _draw_shares(shares, metrics)
    style.style_epoch_axes(shares, "Share of each operation", epochs, legend=False)
    for axes, draw in itertools.zip_longest(last_row, panels):
        if draw is None:
            axes.set_axis_off()
        else:
            draw(axes)
    figure.tight_layout()
    return style.save_figure(figure, Path(folder) / "search_curves.png")


def _draw_loss_and_accuracy(
    panels: Sequence[Axes], metrics: Rows, epochs: np.ndarray, labels: Mapping[str, str]
) -> None:
    """A curve in each panel for each of the `labels`, by the prefix of its key in the rows."""
    colours = (style.FIRST, style.SECOND)
    for axes, key in zip(panels, ("loss", "accuracy"), strict=True):
        for (prefix, label), colour in zip(labels.items(), colours, strict=False):
            style.draw_curve(axes, epochs, style.values_of(metrics, prefix + key), colour, label)
        style.style_epoch_axes(axes, key.capitalize(), epochs)


def _draw_shares(axes: Axes, metrics: Rows) -> None:
    """Stacked shares of the operations over the epochs."""
    names = [key.removeprefix("share_") for key in metrics[0] if key.startswith("share_")]
    if not names:
        return
    epochs = style.epochs_of(metrics)
    shares = np.nan_to_num([style.values_of(metrics, f"share_{name}") for name in names])
    if len(epochs) == 1:  # an area needs two ends
        shares, epochs = np.repeat(shares, 2, axis=1), epochs[0] + np.array([-0.4, 0.4])
    colours = [style.operation_colour(name) for name in names]
    axes.stackplot(epochs, shares, colors=colours, labels=map(style.literal, names), linewidth=0)
    axes.set_ylim(0, max(1.0, float(shares.sum(axis=0).max())))
    handles, labels = axes.get_legend_handles_labels()
    right = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(handles[::-1], labels[::-1], frameon=False, fontsize=8, **right)


def _cost_panel(metrics: Rows, target: tuple[float, str] | None) -> Callable[[Axes], None] | None:
    """Draws the expected cost and its target; None if the search expected no cost."""
    costs, epochs = style.values_of(metrics, "expected_cost"), style.epochs_of(metrics)
    if not np.isfinite(costs).any():
        return None

    def draw(axes: Axes) -> None:
        style.draw_curve(axes, epochs, costs, style.FIRST, "expected")
        title = "Expected cost"
        if target is not None:
            value, measure = target
            level = np.full(len(epochs), value)
            style.draw_curve(axes, epochs, level, style.GREY, "target", dashed=True)
            title += f" ({_UNITS.get(measure, measure)})"
        style.start_at_zero(axes)
        style.style_epoch_axes(axes, title, epochs)

    return draw


def _alarm_panel(alarms: Rows) -> Callable[[Axes], None] | None:
    """Draws what alarms watch, a cross wherever one was raised; None if nothing was watched."""
    curves = {name: style.values_of(alarms, name) for name in _WATCHED}
    if not any(np.isfinite(values).any() for values in curves.values()):
        return None
    epochs = style.epochs_of(alarms)

    def draw(axes: Axes) -> None:
        for name, values in curves.items():
            label, colour = _WATCHED[name]
            style.draw_curve(axes, epochs, values, colour, label)
            raised = np.array([name in (row.get("alarms") or ()) for row in alarms])
            if raised.any():
                cross = {"color": _ALARM, "markersize": 7, "clip_on": False}
                axes.plot(epochs[raised], values[raised], "x", **cross)
        axes.set_ylim(0, 1.05)
        style.style_epoch_axes(axes, "Alarms (×)", epochs)

    return draw


def save_alpha_history(alphas: Rows, operations: Sequence[str], folder: str | Path) -> Path | None:
    """Write `alphas.png`: softmax of α over the epochs, above its mean over a cell's edges, below
    every edge.

    Args:
        alphas: rows of `search/alphas.jsonl`: `normal` and `reduce`, logits [edges, operations].
        operations: names of the columns.
    """
    if not alphas:
        return None
    epochs = style.epochs_of(alphas)
    cells = {"normal": "Normal cell", "reduce": "Reduction cell"}
    shares = {kind: _softmax(np.array([row[kind] for row in alphas], float)) for kind in cells}
    edges = shares["normal"].shape[1]
    columns = min(edges, 7)
    rows = math.ceil(edges / columns)
    maps_height = 0.5 + 1.05 * rows
    figure = style.new_figure(11, 3 + 2 * maps_height)
    means, *maps = figure.subfigures(3, 1, height_ratios=[2.8, maps_height, maps_height])
    for axes, (kind, title) in zip(means.subplots(1, 2, sharey=True), cells.items(), strict=True):
        for name, mean in zip(operations, shares[kind].mean(axis=1).T, strict=True):
            style.draw_curve(axes, epochs, mean, style.operation_colour(name), name)
        style.style_epoch_axes(axes, f"{title}, mean over the edges", epochs, legend=False)
    # The axis is shared: its limit must hold the larger cell's curves.
    axes.set_ylim(0, 1.05 * max(float(share.mean(axis=1).max()) for share in shares.values()))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    means.subplots_adjust(left=0.07, right=0.82, bottom=0.2, top=0.86, wspace=0.12)
    largest = max([2 / len(operations), *(float(share.max()) for share in shares.values())])
    for part, (kind, title) in zip(maps, cells.items(), strict=True):
        part.suptitle(f"{title}, each edge", x=0.07, ha="left", fontsize=10, color=style.INK)
        spaces = {"hspace": 0.42, "wspace": 0.12}
        grid = part.subplots(rows, columns, squeeze=False, gridspec_kw=spaces)
        _draw_edge_maps(grid, shares[kind], operations, epochs, largest)
        part.subplots_adjust(left=0.11, right=0.92, bottom=0.1, top=0.82)
        bar = part.colorbar(grid[0, 0].images[0], ax=list(grid.ravel()), fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=7)
    return style.save_figure(figure, Path(folder) / "alphas.png")


def _softmax(alphas: np.ndarray) -> np.ndarray:
    exponentials = np.exp(alphas - alphas.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _draw_edge_maps(
    grid: np.ndarray,
    shares: np.ndarray,
    operations: Sequence[str],
    epochs: np.ndarray,
    largest: float,
) -> None:
    """A heat map for each edge: operations down, epochs across, dark where the share is large."""
    edges = shares.shape[1]
    nodes = next(n for n in range(1, edges + 1) if len(edges_of_cell(n)) >= edges)
    states = ["c$_{k-2}$", "c$_{k-1}$", *map(str, range(nodes))]
    pairs = edges_of_cell(nodes)
    heat = {
        "extent": (epochs[0] - 0.5, epochs[-1] + 0.5, len(operations) - 0.5, -0.5),
        "aspect": "auto",
        "cmap": "magma_r",
        "vmin": 0,
        "vmax": largest,
        "interpolation": "nearest",
    }
    for edge, axes in enumerate(grid.ravel()):
        if edge >= edges:
            axes.set_axis_off()
            continue
        axes.imshow(shares[:, edge].T, **heat)
        node, state = pairs[edge]
        axes.set_title(f"{states[state]} → {node}", fontsize=8, color=style.INK, pad=2)
        axes.tick_params(labelsize=7, length=2)
        axes.set_yticks([])
        axes.set_xticks([])
        if edge % grid.shape[1] == 0:
            axes.set_yticks(
                range(len(operations)), list(map(style.literal, operations)), fontsize=5.5
            )
        if edge + grid.shape[1] >= edges:
            axes.set_xticks(sorted({int(epochs[0]), int(epochs[-1])}))


def save_training_curves(metrics: Rows, folder: str | Path) -> Path | None:
    """Write `train_curves.png`: loss and accuracy of training and validation, and the learning
    rate, with a line between two stages.

    Args:
        metrics: rows of `train/metrics.jsonl`: `loss`, `accuracy`, `val_loss`, `val_accuracy`,
            `lr`, `stage`, where known.
    """
    if not metrics:
        return None
    # Rows are counted, so that no stage is drawn over another.
    epochs = np.arange(1, len(metrics) + 1)
    figure = style.new_figure(12, 3.4)
    loss, accuracy, rate = figure.subplots(1, 3)
    labels = {"": "training", "val_": "validation"}
    _draw_loss_and_accuracy((loss, accuracy), metrics, epochs, labels)
    rates = style.values_of(metrics, "lr")
    style.draw_curve(rate, epochs, rates, style.FIRST, "lr")
    if np.isfinite(rates).any() and np.nanmin(rates) > 0:
        rate.set_yscale("log")
        rate.tick_params(which="minor", labelsize=7)
    style.style_epoch_axes(rate, "Learning rate at the epoch's end", epochs, legend=False)
    stages = [row.get("stage") for row in metrics]
    for before in (n for n in epochs[:-1] if stages[n] != stages[n - 1]):
        for axes in (loss, accuracy, rate):
            axes.axvline(before + 0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    figure.tight_layout()
    return style.save_figure(figure, Path(folder) / "train_curves.png")


def save_study_curves(networks: Sequence[tuple[str, Rows]], path: Path, title: str) -> Path | None:
    """Write the accuracies of several trainings over their epochs, with a colour for each label.

    Args:
        networks: label, and rows of `train/metrics.jsonl`, of each training; several trainings may
            have one label.
        path: of the PNG.
    """
    networks = [(label, metrics) for label, metrics in networks if metrics]
    if not networks:
        return None
    labels = list(dict.fromkeys(label for label, _ in networks))
    longest = np.arange(1, max(len(metrics) for _, metrics in networks) + 1)
    measures = {"accuracy": "Accuracy, training"}
    if any(np.isfinite(style.values_of(rows, "val_accuracy")).any() for _, rows in networks):
        measures["val_accuracy"] = "Accuracy, validation"
    figure = style.new_figure(1.5 + 5 * len(measures), 3.8)
    (panels,) = figure.subplots(1, len(measures), squeeze=False)
    for axes, (key, heading) in zip(panels, measures.items(), strict=True):
        drawn = set()
        for label, metrics in networks:
            colour = matplotlib.colormaps["tab20"](labels.index(label) % 20)
            values, shown = style.values_of(metrics, key), None if label in drawn else label
            style.draw_curve(axes, longest[: len(values)], values, colour, shown)
            drawn.add(label)
        style.style_epoch_axes(axes, heading, longest, legend=False)
    panels[-1].legend(
        frameon=False, fontsize=7, labelspacing=0.3, loc="upper left", bbox_to_anchor=(1, 1.05)
    )
    figure.suptitle(style.literal(title), fontsize=9, color=style.INK, x=0.01, ha="left")
    figure.tight_layout()
    return style.save_figure(figure, path)


def save_confusion(matrix: Any, class_names: Sequence[str], folder: str | Path) -> Path | None:
    """Write `confusion.png`: true classes down, predicted classes across, coloured by their share
    of the true class.

    Args:
        matrix: counts [classes, classes], in the order of `class_names`.
    """
    counts = np.asarray(matrix, float)
    if counts.size == 0:
        return None
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    written = classes <= _MAX_WRITTEN_CLASSES
    side = min(11.0, max(4.2, 0.46 * classes + 1.6)) if written else 8.0
    figure = style.new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts) if written else ():
        if count:
            colour = "white" if shares[row, column] > 0.55 else style.INK
            middle = {"ha": "center", "va": "center"}
            axes.text(column, row, f"{count:.0f}", fontsize=8, color=colour, **middle)
    ticks = np.arange(0, classes, 1 if written else math.ceil(classes / 40))
    names = [style.literal(str(class_names[tick])) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_xlabel("predicted", fontsize=9, color=style.INK)
    axes.set_ylabel("true", fontsize=9, color=style.INK)
    axes.set_title("Confusion matrix (test images)", fontsize=10, color=style.INK, loc="left")
    figure.tight_layout()
    return style.save_figure(figure, Path(folder) / "confusion.png")
