"""One process of a run, for test_multi_worker.py: `python two_workers.py OUT STRATEGY OVERRIDES
[STAGE]`, with TF_CONFIG set for the strategy `multi-worker`. Then a study runs in OUT-study.
It kills itself in STAGE, `search` or `study`, at the end of epoch 1, before that is saved: of the
study in its second network.

`two` is MirroredStrategy on two logical CPUs in one process, without the study.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

import small_spaces  # noqa: F401 - the recipe names one

from bnas_larq import Run
from bnas_larq.backend import keras, tf
from bnas_larq.run.creation import resolve_recipe
from bnas_larq.run.layer_study import LayerStudy
from bnas_larq.strategies import make_strategy

STUDY = {
    "data.name": "digits",
    "data.limit": 100,
    "layer_study": {"layers": ["conv_3x3"], "precisions": ["full", "binary"]},
    "network.cells": 1,
    "network.channels": 4,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.reestimate_batch_norm": 1,
}


class Killed(keras.callbacks.Callback):
    """In the training of this number."""

    def __init__(self, training):
        super().__init__()
        self.left = training

    def on_train_begin(self, logs=None):
        self.left -= 1

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, self.left) == (1, 0):
            os.kill(os.getpid(), signal.SIGKILL)


def main(out, strategy, overrides, stage=None):
    two = strategy == "two"
    if two:
        cpus = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
        strategy = "mirrored"
    settings = {"strategy": make_strategy(strategy), "resume": True}
    killed, overrides = [Killed(1)] if stage == "search" else [], json.loads(overrides)
    with Run.create("quickstart", out, overrides=overrides, callbacks=killed, **settings) as run:
        run.run()
    if two:
        return
    killed, recipe = [Killed(2)] if stage == "study" else [], resolve_recipe("layer-study", STUDY)
    study = LayerStudy.create(recipe, f"{out}-study", callbacks=killed, **settings)
    with contextlib.closing(study):
        study.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
