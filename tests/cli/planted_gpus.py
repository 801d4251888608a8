"""A plugin for processes of a search on machines with two GPUs each, which are not there: which of
them TensorFlow was to use is written to the file `gpus` in the current directory.
"""

from __future__ import annotations

import os

from bnas_larq.backend import tf

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
