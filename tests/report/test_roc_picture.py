"""The ROC's picture."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bnas_larq.report.figure_style import FIRST, SECOND
from bnas_larq.report.roc_picture import save_roc


def test_both_curves_are_drawn_and_the_same_bytes_each_time(tmp_path):
    far = np.array([0.0, 0.0, 0.01, 0.1, 1.0])
    curves = {"binary": (far, np.sqrt(far)), "full precision": (far, np.cbrt(far))}
    path = save_roc(curves, tmp_path)
    content = path.read_bytes()
    assert path.name == "roc.png" and save_roc(curves, tmp_path).read_bytes() == content
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in (FIRST, SECOND):
        rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert (pixels == rgb).all(axis=1).sum() > 100
