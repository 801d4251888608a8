"""A process that reads a folder's images on the fly ends, whatever is still being read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]

READ = """
from bnas_larq.data import Normalization, load_dataset, training_pipeline
data = load_dataset("folder", data_dir=".", image_size=32, memory_limit_mb=0)
assert data.train.streamed
stream = training_pipeline(data.train, batch_size=8, seed=0, normalization=Normalization())
iterator = iter(stream.dataset())
next(iterator)
raise SystemExit(3)
"""


def test_an_endless_stream_does_not_keep_a_process_alive(tmp_path):
    # Large, so that some are being read when the process ends.
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png", compress_level=1)
        for index in range(1, 20):
            shutil.copy(tmp_path / name / "0.png", tmp_path / name / f"{index}.png")
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
