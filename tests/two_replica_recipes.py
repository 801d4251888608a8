"""Two steps of shipped recipes on digits, in small networks, under MirroredStrategy on two logical
CPUs: `python two_replica_recipes.py FOLDER RECIPE…` prints the name of each that ends well."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np

from bnas_larq import Run
from bnas_larq.backend import keras, tf
from bnas_larq.files import read_lines
from bnas_larq.networks.residual_network import build_residual_network
from bnas_larq.recipe import load_recipe
from bnas_larq.spaces import SPACES

# Before anything is computed.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

#: One epoch has two steps, in each half of a search, too.
SIZES = {
    "data.name": "digits",
    "data.limit": 20,
    "search.epochs": 1,
    "search.batch_size": 4,
    "search.cells": 3,
    "search.channels": 8,
    "search.mixed_precision": "float32",
    "network.cells": 3,
    "network.channels": 8,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.on": "train",
    "train.mixed_precision": "float32",
    "train.reestimate_batch_norm": 0,
}


def overrides_of(name, teacher, side):
    recipe, overrides = load_recipe(name), dict(SIZES)
    if recipe.network.kind != "cells" or recipe.genotype or recipe.search.searcher != "gradient":
        overrides = {key: value for key, value in overrides.items() if "search." not in key}
    if recipe.network.kind != "cells":
        overrides = {k: v for k, v in overrides.items() if not k.startswith("network.")}
        overrides["network.widths"] = [4] * len(recipe.network.widths)
        if not any(stage.teacher and stage.teacher.layers for stage in recipe.train.stages):
            overrides["network.blocks"] = [min(blocks, 1) for blocks in recipe.network.blocks]
    if recipe.data.image_size:
        overrides["data.image_size"] = side
    if recipe.search.searcher == "progressive" and not recipe.genotype:
        stages = len(recipe.search.progressive.cells)
        overrides |= {"search.epochs": stages, "search.progressive.cells": [2] * stages}
        overrides |= {"search.batch_size": 4, "search.channels": 16, "search.alpha_start_epoch": 0}
    for number, stage in enumerate(recipe.train.stages):
        for key, value in {"epochs": 1, "batch_size": 8}.items():
            if key in stage.own_keys:
                overrides[f"train.stages.{number}.{key}"] = value
        if stage.learns_elsewhere:
            overrides[f"train.stages.{number}.teacher.model"] = teacher
    return overrides


def main(folder, names):
    # Cells of one node, with all kinds of candidates: others take minutes to trace.
    for space, make in list(SPACES.items()):
        SPACES[space] = functools.partial(dataclasses.replace, make(), nodes=1)
    side = 32
    size = {"input_shape": (side, side, 3), "num_classes": 10, "widths": (4, 4, 4, 4)}
    template = {"blocks": (4, 4, 4, 4), "transition": "pool-conv", "kernels": "real"}
    teacher = folder / "teacher.keras"
    build_residual_network(**size, **template).save(teacher)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names:
        keras.backend.clear_session()
        settings = {"overrides": overrides_of(name, str(teacher), side), "strategy": strategy}
        with Run.create(name, folder / name, **settings) as run:
            run.search()
            run.train()
        rows = read_lines(run.folder / "train/metrics.jsonl")
        assert all(np.isfinite(row["loss"]) for row in rows), rows
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
