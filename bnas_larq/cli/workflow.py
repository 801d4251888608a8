"""The arrows between the parts: recipe → data → search → network → training → evaluation → export → report.

One `Workflow` works in one run folder. Each stage writes its result and is marked done; a stage that is done is not
repeated, one that was cut off goes on from its last epoch.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bnas_larq.backend import keras, make_deterministic, tf
from bnas_larq.data import (
    Augmentation,
    ImageDataset,
    Normalization,
    bilevel_pipeline,
    data_errors,
    evaluation_dataset,
    load_dataset,
    training_pipeline,
)
from bnas_larq.errors import RunError
from bnas_larq.export.exporter import export_network
from bnas_larq.genotype import Genotype
from bnas_larq.models.costs import count_costs
from bnas_larq.models.network import NetworkConfig, build_network
from bnas_larq.models.weights import load_weights, save_weights
from bnas_larq.recipe import Recipe, parse_recipe
from bnas_larq.report.cells import save_cell_pictures
from bnas_larq.report.curves import (
    save_alpha_history,
    save_confusion,
    save_search_curves,
    save_training_curves,
)
from bnas_larq.report.html import write_report
from bnas_larq.runs import RunFolder, read_json, read_lines, write_json
from bnas_larq.search import GradientSearch
from bnas_larq.spaces import SearchSpace
from bnas_larq.training import Evaluation, evaluate_network, train_network

#: Larger evaluation batches gain nothing on a CPU.
EVALUATION_BATCH = 250

PACKAGES = (
    "bnas-larq",
    "tensorflow",
    "tf-keras",
    "larq",
    "larq-compute-engine",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
)


def say(message: str) -> None:
    """Tell the user on stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine, for a run's environment.json."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": _cores(),
        "seed": seed,
        "command": ["bnas-larq", *sys.argv[1:]],
        "packages": versions,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workflow:
    """All stages of one run.

    Args:
        folder: the run's folder.
        recipe: the resolved recipe.
        tensorboard: also write TensorBoard logs to `tensorboard/`.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, tensorboard: bool = False) -> None:
        self.folder = folder
        self.recipe = recipe
        self.tensorboard = tensorboard

    # -- parts ---------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> ImageDataset:
        """The recipe's data set."""
        settings = self.recipe.data
        return load_dataset(
            settings.name,
            data_dir=settings.data_dir,
            image_size=settings.image_size,
            validation_fraction=settings.validation_fraction,
            seed=self.recipe.seed,
            limit=settings.limit,
            memory_limit_mb=settings.memory_limit_mb,
        )

    @cached_property
    def normalization(self) -> Normalization:
        """Per-channel mean and deviation of the training part."""
        return self.data.normalization()

    @property
    def augmentation(self) -> Augmentation:
        """The recipe's random changes of training images."""
        return Augmentation(**self.recipe.data.augmentation.model_dump())

    def batches(self, examples: Any) -> tf.data.Dataset:
        """Examples once, in stored order, for evaluation."""
        return evaluation_dataset(examples, EVALUATION_BATCH, self.normalization)

    def _callbacks(self, stage: str) -> tuple[keras.callbacks.Callback, ...]:
        if not self.tensorboard:
            return ()
        return (keras.callbacks.TensorBoard(str(self.folder / "tensorboard" / stage), profile_batch=0),)

    @property
    def genotype(self) -> Genotype:
        """The run's genotype, once it is found or given."""
        return Genotype.load(self.folder / "genotype.json")

    @property
    def network_config(self) -> NetworkConfig:
        """Size of the final network, from the recipe and the data."""
        return NetworkConfig(
            input_shape=self.data.image_shape,
            num_classes=self.data.num_classes,
            **self.recipe.network.model_dump(),
        )

    def network(self) -> keras.Model:
        """The trained network."""
        return load_network(self.folder)

    # -- stages --------------------------------------------------------------------------------------------------

    def _stage(self, name: str, work: Callable[[], dict[str, Any] | None]) -> None:
        """Do a stage unless it is done; mark it done with its time and facts."""
        if self.folder.stage_done(name):
            say(f"{name}: already done")
            return
        # Every stage starts from the seed, so that it does not matter which stages ran in the same process.
        keras.backend.clear_session()
        make_deterministic(self.recipe.seed)
        start = time.monotonic()
        with data_errors():
            facts = work() or {}
        earlier = facts.pop("earlier_seconds", 0.0)
        self.folder.mark_done(name, seconds=round(time.monotonic() - start + earlier, 2), **facts)

    def search(self) -> None:
        """Search a genotype, or take the one that the recipe names."""
        self._stage("search", self._search)

    def _search(self) -> dict[str, Any]:
        if self.recipe.genotype is not None:
            genotype = Genotype.load(self.recipe.genotype)
            genotype.save(self.folder / "genotype.json")
            say(genotype.pretty())
            return {"searched": False, "genotype": genotype.id}
        settings, data = self.recipe.search, self.data
        halves = [
            training_pipeline(
                half,
                batch_size=settings.batch_size,
                seed=self.recipe.seed + offset,
                normalization=self.normalization,
                augmentation=self.augmentation,
            )
            for offset, half in enumerate(self._search_halves())
        ]
        pipeline = bilevel_pipeline(*halves)
        searcher = GradientSearch(settings, data.num_classes, data.image_shape)
        say(
            f"search: {settings.epochs} epochs of {pipeline.steps_per_epoch} steps on {data.name}, "
            f"{settings.cells} cells, {settings.channels} channels; the first step builds the graph and takes longest"
        )
        stage = self.folder / "search"
        done = len(read_lines(stage / "metrics.jsonl"))
        result = searcher.run(
            pipeline.dataset,
            pipeline.steps_per_epoch,
            validation_data=None if data.validation is None else self.batches(data.validation),
            folder=stage,
            provenance={
                "source": f"bnas-larq search, recipe {self.recipe.name}",
                "data": data.name,
                "seed": self.recipe.seed,
                "cells": settings.cells,
                "channels": settings.channels,
                "epochs": settings.epochs,
            },
            callbacks=self._callbacks("search"),
        )
        result.genotype.save(self.folder / "genotype.json")
        say(result.genotype.pretty())
        self.folder.checkpoints("search").clear()
        return {
            "searched": True,
            "genotype": result.genotype.id,
            "epoch": result.epoch,
            "supernet_validation_accuracy": result.validation_accuracy,
            "earlier_seconds": self._earlier_seconds("search", done),
        }

    def _search_halves(self) -> list[Any]:
        """Both halves of the search, cut to the recipe's `search.limit`."""
        halves = list(self.data.search_halves(self.recipe.seed))
        limit = self.recipe.search.limit
        if limit is None:
            return halves
        shares = [limit / 2 / half.num_examples for half in halves]
        return [
            half.split(share, self.recipe.seed)[0] if share < 1 else half
            for half, share in zip(halves, shares, strict=True)
        ]

    def train(self) -> None:
        """Train the genotype's network."""
        self._stage("train", self._train)

    def _train(self) -> dict[str, Any]:
        settings, data, config = self.recipe.train, self.data, self.network_config
        write_json(
            self.folder / "network.json",
            {
                "config": config.to_dict(),
                "genotype": self.genotype.id,
                "class_names": list(data.class_names),
                "normalization": self.normalization.to_dict(),
                "data": data.describe(),
            },
        )
        model = build_network(self.genotype, config, drop_path=settings.drop_path > 0)
        pipeline = training_pipeline(
            data.train,
            batch_size=settings.batch_size,
            seed=self.recipe.seed,
            normalization=self.normalization,
            augmentation=self.augmentation,
        )
        say(f"train: {settings.epochs} epochs of {pipeline.steps_per_epoch} steps on {data.name}, genotype {self.genotype.id}")
        stage = self.folder / "train"
        done = len(read_lines(stage / "metrics.jsonl"))
        train_network(
            model,
            settings,
            pipeline.dataset,
            pipeline.steps_per_epoch,
            validation_data=None if data.validation is None else self.batches(data.validation),
            folder=stage,
            callbacks=self._callbacks("train"),
        )
        save_weights(model, self.folder / "weights.h5")
        self.folder.checkpoints("train").clear()
        last = read_lines(stage / "metrics.jsonl")[-1]
        return {
            "validation_accuracy": last.get("val_accuracy"),
            "earlier_seconds": self._earlier_seconds("train", done),
        }

    def _earlier_seconds(self, stage: str, epochs: int) -> float:
        """Time of the epochs that earlier processes trained."""
        return sum(row["seconds"] for row in read_lines(self.folder / stage / "metrics.jsonl")[:epochs])

    def evaluate(self) -> None:
        """Evaluate on the test split, once."""
        self._stage("evaluate", self._evaluate)

    def _evaluate(self) -> dict[str, Any]:
        evaluation: Evaluation = evaluate_network(self.network(), self.batches(self.data.test))
        evaluation.write_predictions(self.folder / "predictions.csv", self.data.class_names)
        evaluation.write_confusion(self.folder / "confusion.csv", self.data.class_names)
        pictures = self.folder / "pictures"
        pictures.mkdir(exist_ok=True)
        save_confusion(evaluation.confusion(), self.data.class_names, pictures)
        metrics = evaluation.metrics()
        say(f"evaluate: test accuracy {metrics['accuracy']:.4f} on {metrics['examples']} images")
        return {"test": metrics}

    def export(self, again: bool = False) -> None:
        """Write model.tflite and compare it with Keras on test images (their labels are not used)."""
        if again:
            self.folder.mark_undone("export")
        self._stage("export", self._export)

    def _export(self) -> dict[str, Any]:
        count = min(self.recipe.export.parity_images, self.data.test.num_examples)
        raw = self.data.test.images_at(np.arange(count))
        images = np.asarray(self.normalization.apply(tf.constant(raw)))
        # What a killed export left behind is this run's own file.
        report = export_network(self.network(), self.folder / "model.tflite", images, overwrite=True)
        write_json(self.folder / "export.json", report)
        parity = report["parity"]
        say(
            f"export: model.tflite, {report['bytes']} bytes, {report['binary_convolutions']} convolutions in 1 bit, "
            f"{report['float_convolutions']} not; {parity['equal_predictions']:.2%} of {parity['images']} predictions equal "
            f"to Keras, largest difference {parity['max_abs_difference']:.2g}"
        )
        return {}

    def report(self) -> None:
        """Draw what there is to draw, and write result.json and report.html."""
        pictures = self.folder / "pictures"
        pictures.mkdir(exist_ok=True)
        if (self.folder / "genotype.json").exists():
            save_cell_pictures(self.genotype, pictures, shortcut=self.recipe.network.shortcut)
        if rows := read_lines(self.folder / "search" / "metrics.jsonl"):
            save_search_curves(rows, pictures)
        if rows := read_lines(self.folder / "search" / "alphas.jsonl"):
            save_alpha_history(rows, SearchSpace.named(self.recipe.search.space).normal, pictures)
        if rows := read_lines(self.folder / "train" / "metrics.jsonl"):
            save_training_curves(rows, pictures)
        self.write_result()
        write_report(self.folder.path)
        self.write_result()

    def write_result(self) -> dict[str, Any]:
        """Collect the results so far in result.json, for programs to read."""
        folder = self.folder
        facts = {stage: folder.facts(stage) for stage in ("search", "train", "evaluate", "export")}
        result: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "genotype": facts["search"].get("genotype"),
            "test_accuracy": facts["evaluate"].get("test", {}).get("accuracy"),
            "test": facts["evaluate"].get("test"),
            "validation_accuracy": facts["train"].get("validation_accuracy"),
            "supernet_validation_accuracy": facts["search"].get("supernet_validation_accuracy"),
            "seconds": {stage: fact.get("seconds") for stage, fact in facts.items()},
            "wall_seconds": round(sum(fact.get("seconds", 0.0) for fact in facts.values()), 2),
        }
        if folder.stage_done("train"):
            costs = count_costs(self.network()).to_dict()
            result["cost"] = {key: value for key, value in costs.items() if key != "layers"}
        if (folder / "export.json").exists():
            report = read_json(folder / "export.json")
            result["export"] = {
                key: report[key] for key in ("file", "bytes", "sha256", "binary_convolutions", "float_convolutions", "parity")
            }
        hidden = {".lock", "result.json"}
        files = sorted(
            str(p.relative_to(folder.path))
            for p in folder.path.rglob("*")
            if p.is_file() and p.name not in hidden and not p.name.endswith(".tmp")
        )
        result["files"] = files
        write_json(folder / "result.json", result)
        return result


def open_workflow(path: Path, *, lock: bool = True, tensorboard: bool = False) -> Workflow:
    """The workflow of an existing run folder, with the recipe it began with."""
    folder = RunFolder.open(path, lock=lock)
    try:
        values = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(
            f"A run's recipe.yaml must be readable. Received: {folder / 'recipe.yaml'}. Restore it or start a new run."
        ) from error
    return Workflow(folder, parse_recipe(values), tensorboard)


def start_workflow(
    recipe: Recipe, path: Path, *, resume: bool, overwrite: bool, tensorboard: bool = False
) -> Workflow:
    """The workflow of a new run folder, or with `resume` of the one that is there.

    Raises:
        RunError: the folder exists (without `resume` or `overwrite`), or it belongs to another recipe.
    """
    if resume and (path / "recipe.yaml").is_file():
        workflow = open_workflow(path, tensorboard=tensorboard)
        if workflow.recipe != recipe:
            differing = [
                key
                for key in type(recipe).model_fields
                if getattr(recipe, key) != getattr(workflow.recipe, key)
            ]
            raise RunError(
                f"A run is resumed with the recipe it began with. Received: another {', '.join(differing)} than in "
                f"{path / 'recipe.yaml'}. Leave the change away, or choose another --out."
            )
        return workflow
    folder = RunFolder.create(path, recipe.to_yaml(), overwrite=overwrite)
    write_json(folder / "environment.json", environment(recipe.seed))
    return Workflow(folder, recipe, tensorboard)


def load_network(folder: RunFolder) -> keras.Model:
    """The trained network of a run.

    Raises:
        RunError, WeightsError: the run is not trained yet, or its files are damaged.
    """
    if not (folder / "network.json").is_file() or not (folder / "weights.h5").is_file():
        raise RunError(
            f"A trained network needs network.json and weights.h5. Received: {folder.path} without them. "
            "Train it first: bnas-larq train, or bnas-larq run --resume."
        )
    described = read_json(folder / "network.json")
    if not isinstance(described, dict) or not isinstance(described.get("config"), dict):
        raise RunError(f"A run's network.json must hold its config. Received: {folder / 'network.json'}. Restore it.")
    genotype = Genotype.load(folder / "genotype.json")
    model = build_network(genotype, NetworkConfig.from_dict(described["config"]))
    return load_weights(model, folder / "weights.h5")



