"""A plugin for processes of a search on machines with two GPUs each, which are not there: which of
them TensorFlow was to use is written to the file `gpus` in the current directory. Also a space of
one node, `tiny`, whose graphs are built quickly.
"""

from __future__ import annotations

import os

from bnas_larq.backend import tf
from bnas_larq.spaces import SPACES, SearchSpace

NAMES = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACES["tiny"] = lambda: SearchSpace("tiny", NAMES, NAMES, nodes=1)

_listed = tf.config.list_physical_devices


def _list(kind: str | None = None) -> list:
    return ["GPU:0", "GPU:1"] if kind == "GPU" else _listed(kind)


def _use(devices: list, kind: str) -> None:
    # As the true function, an error once TensorFlow has computed something.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    with open("gpus", "a", encoding="utf-8") as stream:
        stream.write(f"{os.environ['KERASTUNER_TUNER_ID']} {devices}\n")


tf.config.list_physical_devices = _list
tf.config.set_visible_devices = _use
