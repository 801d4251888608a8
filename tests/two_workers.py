"""One process of a run, for test_multi_worker.py: `python two_workers.py OUT STRATEGY OVERRIDES
[STAGE]`, with TF_CONFIG set for the strategy `multi-worker`. It kills itself in STAGE, `search` or
`train`, at the end of its second epoch, before that is saved.

`two` is MirroredStrategy on two logical CPUs in one process.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import small_spaces  # noqa: F401 - the recipe names one

from bnas_larq import Run
from bnas_larq.backend import keras, tf
from bnas_larq.supernet.super_net import SuperNet


class Killed(keras.callbacks.Callback):
    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def on_epoch_end(self, epoch, logs=None):
        stage = "search" if isinstance(self.model, SuperNet) else "train"
        if (epoch, stage) == (1, self.stage):
            os.kill(os.getpid(), signal.SIGKILL)


def main(out, strategy, overrides, stage=None):
    if strategy == "two":
        cpus = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
        strategy = "mirrored"
    settings = {"overrides": json.loads(overrides), "callbacks": [Killed(stage)]}
    with Run.create("quickstart", out, strategy=strategy, resume=True, **settings) as run:
        run.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
