"""Keras 2 whatever is imported first, or a sentence; in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess:
    """Run `code` where nothing is set and nothing is imported yet."""
    clean = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_in_front_of_keras_is_enough():
    done = python(
        "import bnas_larq\n"
        "from tensorflow import keras\n"
        "print(keras.Model.__module__)\n"
        "import bnas_larq.backend"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tf_keras.")


def test_keras_3_in_front_of_the_package_is_refused():
    done = python("from tensorflow import keras\nkeras.Model\nimport bnas_larq.backend")
    assert done.returncode != 0
    assert "or import bnas_larq first" in done.stderr
