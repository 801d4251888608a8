"""ROC curves of face verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bnas_larq.report import figure_style as style


def save_roc(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], folder: str | Path) -> Path:
    """Write `roc.png`: the share of pairs of one person that are accepted, over that of pairs of
    two people, on a logarithmic axis.

    Args:
        curves: name → FAR and TAR, rising, as `Verification.roc` returns them; at most two.
        folder: folder of the picture.
    """
    figure = style.new_figure(6.4, 4.6)
    axes = figure.subplots()
    least = min(far[far > 0].min() for far, _ in curves.values())
    colours = (style.FIRST, style.SECOND)
    for (name, (far, tar)), colour in zip(curves.items(), colours, strict=False):
        # A step up costs no false acceptance; an FAR of 0 has no place on the axis.
        axes.step(np.maximum(far, least / 2), tar, where="post", color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlim(least / 2, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false acceptance rate", fontsize=9, color=style.INK)
    axes.set_ylabel("true acceptance rate", fontsize=9, color=style.INK)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    style.style_axes(axes, "Face verification")
    figure.tight_layout()
    return style.save_figure(figure, Path(folder) / "roc.png")
