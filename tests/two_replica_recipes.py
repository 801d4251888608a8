"""Two steps of shipped recipes on digits, in small networks, under MirroredStrategy on two logical
CPUs: `python two_replica_recipes.py FOLDER RECIPE…` prints the name of each that ends well."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from bnas_larq import Run
from bnas_larq.backend import keras, tf
from bnas_larq.files import read_lines
from bnas_larq.networks.residual_network import build_residual_network
from bnas_larq.recipe import load_recipe
from bnas_larq.run.ablation import Ablation
from bnas_larq.run.creation import resolve_recipe
from bnas_larq.run.face_study import FaceStudy
from bnas_larq.run.layer_study import LayerStudy
from bnas_larq.spaces import SPACES

# Before anything is computed.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

#: One epoch has two steps, in each half of a search, too.
SIZES = {
    "data.name": "digits",
    "data.limit": 20,
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.on": "train",
    "train.mixed_precision": "float32",
    "train.reestimate_batch_norm": 0,
}
SEARCH = {
    "search.epochs": 1,
    "search.batch_size": 4,
    "search.cells": 3,
    "search.channels": 8,
    "search.alpha_start_epoch": 0,
    "search.checkpoint_minutes": 0,
    "search.mixed_precision": "float32",
}
#: Eight draws of a step each, after which each edge abandons a candidate, and an epoch of the
#: finish.
BANDIT = {
    "search.epochs": 5,
    "search.bandit.floor": 7,
    "search.bandit.rounds": 1,
    "search.bandit.finish_epochs": 1,
    "search.bandit.credit_examples": 10,
}
ONE_SHOT = {
    "search.one_shot.population": 2,
    "search.one_shot.generations": 2,
    "search.one_shot.parents": 2,
}
STUDIES = {"ablation": Ablation, "layer_study": LayerStudy, "faces": FaceStudy}
SIDE, WIDTH = 32, 4


def overrides_of(name, folder):
    """What makes a recipe small; a teacher from elsewhere is `folder/teacher.keras`."""
    recipe, overrides = load_recipe(name), dict(SIZES)
    network, stages = recipe.network, recipe.train.stages
    rows = recipe.ablation.rows if recipe.study == "ablation" else ()
    of_rows = {
        f"ablation.rows.{row}.changes.train.stages.{number}": stage
        for row, changes in enumerate(row.changes for row in rows)
        for number, stage in enumerate(changes.get("train", {}).get("stages", ()))
    }
    if recipe.data.validation_fraction and recipe.study != "faces":
        # Some images for each replica.
        overrides["data.validation_fraction"] = 0.2
    if network.kind == "cells":
        # Groups are of two channels at least.
        overrides |= {"network.cells": 3, "network.channels": max(8, 2 * network.groups)}
    elif not any(stage.get("start", "decoupled") != "decoupled" for stage in of_rows.values()):
        overrides["network.widths"] = [WIDTH] * len(network.widths)
        overrides["network.blocks"] = [min(1, count) for count in network.blocks]
    if recipe.study:
        overrides |= {"genotype": "random:1"} if recipe.genotype else {}
    elif network.kind == "cells" and not recipe.genotype:
        overrides |= SEARCH
        overrides |= {"bandit": BANDIT, "one-shot": ONE_SHOT}.get(recipe.search.searcher, {})
        if recipe.search.searcher == "progressive":
            count = len(recipe.search.progressive.cells)
            overrides |= {"search.epochs": count, "search.progressive.cells": [2] * count}
            overrides |= {"search.channels": recipe.search.channels}
            del overrides["search.cells"]
    if recipe.data.image_size or any(stage.crop_size for stage in stages):
        overrides["data.image_size"] = SIDE
        if network.kind == "cells":
            overrides["network.stem"] = "imagenet"
    for number, stage in enumerate(stages):
        place = f"train.stages.{number}"
        for key, value in {"epochs": 1, "batch_size": 8}.items():
            if key in stage.own_keys:
                overrides[f"{place}.{key}"] = value
        if stage.learns_elsewhere:
            overrides[f"{place}.teacher.model"] = str(folder / "teacher.keras")
        if stage.teacher and stage.teacher.cache:
            overrides[f"{place}.teacher.cache"] = str(folder / "outputs")
        if stage.teacher and stage.teacher.layers:
            pairs = {f"block{part}_0_out": f"block{part}_0_out" for part in range(4)}
            overrides[f"{place}.teacher.layers"] = pairs
    if recipe.train.teacher:
        overrides |= {"data.image_size": SIDE, "train.teacher.cache": str(folder / "outputs")}
        overrides["train.teacher.model"] = str(folder / "teacher.keras")
    for place, stage in of_rows.items():
        overrides[f"{place}.epochs"] = 1
        if stage.get("teacher", {}).get("model", "previous") != "previous":
            overrides[f"{place}.teacher.model"] = str(folder / "teacher.keras")
            overrides["data.image_size"] = SIDE
    if rows:
        overrides |= {"ablation.seeds": [0], "ablation.tolerance": None}
    if recipe.study == "layer_study":
        overrides["layer_study.layers"] = ["conv_3x3", "sep_3x3"]
    if recipe.study == "faces":
        overrides |= {"data.name": "folder", "data.data_dir": str(folder / "people")}
        overrides |= {"data.image_size": recipe.data.image_size, "data.limit": None}
        overrides |= {"faces.train_people": 4, "faces.folds": 2, "train.on": recipe.train.on}
    return overrides


def save_people(folder):
    """Four noisy pictures of each of eight people."""
    for person, number in np.ndindex(8, 4):
        path = folder / "people" / str(person) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([person, number]).integers(25, size=(32, 28, 3))
        Image.fromarray((pixels + 25 * person).astype(np.uint8)).save(path)


def save_teacher(folder):
    """A residual network with a block of each resolution, saved as a Keras model."""
    size = {"input_shape": (SIDE, SIDE, 3), "num_classes": 10, "widths": (WIDTH,) * 4}
    template = {"blocks": (1,) * 4, "transition": "pool-conv", "kernels": "real"}
    build_residual_network(**size, **template).save(folder / "teacher.keras")


def main(folder, names):
    # Cells of two nodes, with all kinds of candidates: others take minutes to trace.
    for space, make in list(SPACES.items()):
        SPACES[space] = functools.partial(dataclasses.replace, make(), nodes=2)
    folder.mkdir(parents=True, exist_ok=True)
    save_teacher(folder)
    save_people(folder)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in names:
        keras.backend.clear_session()
        recipe = resolve_recipe(name, overrides_of(name, folder))
        make = STUDIES[recipe.study] if recipe.study else Run
        with contextlib.closing(make.create(recipe, folder / name, strategy=strategy)) as run:
            if recipe.study:
                run.run()
            else:
                run.search()
                run.train()
        logs = [*(folder / name).rglob("metrics.jsonl")]
        rows = [row for log in logs for row in read_lines(log)]
        assert rows and all(np.isfinite(row["loss"]) for row in rows), rows
        print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
