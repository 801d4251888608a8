"""Two steps of shipped recipes under MirroredStrategy on two logical CPUs, in a process of its own;
`python tests/two_replica_recipes.py FOLDER RECIPE…` tries others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: A search and its network, and a residual network.
RECIPES = ("quickstart", "bireal18")


def test_recipes_search_and_train_on_two_replicas(tmp_path):
    script = Path(__file__).with_name("two_replica_recipes.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, *RECIPES],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [*RECIPES]
