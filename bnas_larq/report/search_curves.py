"""Curves of a search."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from bnas_larq.report.axes import (
    FIRST,
    SECOND,
    Rows,
    column,
    epochs_of,
    finish,
    from_zero,
    line,
)
from bnas_larq.report.palette import GREY, INK, new_figure, operation_colour, save_figure

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
