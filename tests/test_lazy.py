"""What is imported on first use: saved models load in processes that only import the package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bnas_larq
from bnas_larq.backend import NAMESPACE, keras, lq
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def test_every_registered_class_is_found_by_its_name():
    for home in bnas_larq._CLASSES:
        importlib.import_module(home)
    larq, own = set(), set()
    for name, part in keras.utils.get_custom_objects().items():
        if part.__module__.startswith(f"{lq.__name__}."):
            larq.add(name)
        elif part.__module__.startswith(f"{NAMESPACE}."):
            own.add(name.removeprefix(f"{NAMESPACE}>"))
    listed = {home: set(names) for home, names in bnas_larq._CLASSES.items()}
    assert listed.pop("bnas_larq.backend") == larq
    assert set().union(*listed.values()) == own


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with networks in three forms, and the sum of each one's outputs for ones."""
    edges = [[("bin_conv_3x3", 0), ("identity", 1)]]
    size = {"input_shape": (8, 8, 3), "channels": 4, "num_classes": 2}
    folder, totals = tmp_path_factory.mktemp("saved"), []
    # A SavedModel holds graphs of every layer: one cell of them is slow enough.
    for form, cells in (("model.h5", 3), ("model.keras", 3), ("model", 1)):
        model = build_network(Genotype(edges, edges), cells=cells, **size)
        model.save(folder / form)
        totals.append(float(np.sum(np.abs(model(np.ones((1, 8, 8, 3), np.float32))))))
    return folder, totals


LOAD = """
import numpy as np
for form in ("model.h5", "model.keras", "model"):
    outputs = keras.models.load_model(form)(np.ones((1, 8, 8, 3), np.float32))
    print(float(np.sum(np.abs(outputs))))
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import bnas_larq, tf_keras as keras",
        "import tf_keras as keras, bnas_larq",
        "import bnas_larq; from tensorflow import keras",
        "import tensorflow, bnas_larq; from tensorflow import keras",
    ],
)
def test_importing_the_package_is_enough_to_load_a_saved_model(saved, imports):
    folder, totals = saved
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [sys.executable, "-c", imports + LOAD],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()[-3:]] == pytest.approx(totals)
