"""The arrows between the parts: recipe → data → search → network → training → evaluation → export →
report.

One `Workflow` works in one run folder. Each stage writes its result and is marked done; a stage
that is done is not repeated, one that was cut off goes on from its last epoch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras, make_deterministic, tf
from bnas_larq.data import (
    Augmentation,
    ImageDataset,
    Normalization,
    bilevel_pipeline,
    data_errors,
    evaluation_dataset,
    load_described,
    training_pipeline,
)
from bnas_larq.export.exporter import export_network
from bnas_larq.genotype import Genotype
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.models.costs import count_costs
from bnas_larq.models.network import NetworkConfig, build_network
from bnas_larq.models.stored import StoredNetwork
from bnas_larq.models.weights import save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.report.html import write_report
from bnas_larq.runs import RunFolder, read_json, read_lines, write_json
from bnas_larq.search import GradientSearch
from bnas_larq.training import Evaluation, evaluate_network, train_network

STAGES = ("search", "train", "evaluate", "export")
#: Files without which a stage does not count as done: when one is lost, the stage is done again.
RESULTS = {"train": ("network.json", "weights.h5"), "export": ("export.json", "model.tflite")}
#: What result.json repeats of export.json.
EXPORT_KEYS = (
    "file",
    "bytes",
    "sha256",
    "binary_convolutions",
    "float_convolutions",
    "parity",
)
#: Larger evaluation batches gain nothing on a CPU.
EVALUATION_BATCH = 250


def say(message: str) -> None:
    """Tell the user on stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)


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

    # -- parts -----------------------------------------------------------------------------------

    @cached_property
    def data(self) -> ImageDataset:
        """The recipe's data set."""
        return load_described(self.recipe.data, self.recipe.seed)

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
        return (
            keras.callbacks.TensorBoard(str(self.folder / "tensorboard" / stage), profile_batch=0),
        )

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
        return StoredNetwork.load(self.folder.path).load_model()

    @cached_property
    def cost(self) -> dict[str, Any]:
        """What the trained network costs, in all conventions, without the list of layers."""
        stored = StoredNetwork.load(self.folder.path)
        costs = count_costs(build_network(stored.genotype, stored.config)).to_dict()
        return {key: value for key, value in costs.items() if key != "layers"}

    def check(self, stages: Collection[str]) -> None:
        """Find what is wrong with the recipe and its data before anything is written or replaced.

        Args:
            stages: of `search` and `train`, those that must fit the data.

        Raises:
            BnasLarqError: the data cannot be read, a name is unknown or a batch is too large.
        """
        with data_errors():
            batches = []
            if "search" in stages and self.recipe.genotype is None:
                get_scheme(self.recipe.search.scheme)
                batches += [(half, self.recipe.search.batch_size) for half in self._search_halves()]
            if "train" in stages:
                self.network_config  # noqa: B018 - raises for an unknown scheme
                batches += [(self.data.train, self.recipe.train.batch_size)]
            for examples, batch_size in batches:
                training_pipeline(
                    examples,
                    batch_size=batch_size,
                    seed=self.recipe.seed,
                    normalization=Normalization(),
                    augmentation=self.augmentation,
                )

    # -- stages ----------------------------------------------------------------------------------

    def _is_done(self, name: str) -> bool:
        files = RESULTS.get(name, ())
        return self.folder.stage_done(name) and all((self.folder / f).is_file() for f in files)

    def _stage(
        self, name: str, work: Callable[[], dict[str, Any] | None], again: bool = False
    ) -> None:
        """Do a stage unless it is done (or `again`); mark it done with its time and facts."""
        if self._is_done(name) and not again:
            say(f"{name}: already done")
        else:
            self._do(name, work)
        # Not before the stage is marked: a process killed in between would have to begin again.
        self.folder.checkpoints(name).clear()

    def _do(self, name: str, work: Callable[[], dict[str, Any] | None]) -> None:
        if self.folder.stage_done(name) and not self._is_done(name):
            # Its files were lost: what came from them must come from the new ones.
            for stage in STAGES[STAGES.index(name) :]:
                self.folder.mark_undone(stage)
        # Every stage starts from the seed: it does not matter which ones ran in this process.
        keras.backend.clear_session()
        make_deterministic(self.recipe.seed)
        start = time.monotonic()
        with data_errors():
            facts = work() or {}
        earlier = facts.pop("earlier_seconds", 0.0)
        seconds = time.monotonic() - start + earlier
        self.folder.mark_done(name, seconds=round(seconds, 2), **facts)

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
            f"{settings.cells} cells, {settings.channels} channels; "
            "the first step builds the graph and takes longest"
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
        StoredNetwork(
            self.folder.path,
            self.genotype,
            config,
            data.class_names,
            self.normalization.to_dict(),
            data.describe(),
        ).save()
        model = build_network(self.genotype, config, drop_path=settings.drop_path > 0)
        pipeline = training_pipeline(
            data.train,
            batch_size=settings.batch_size,
            seed=self.recipe.seed,
            normalization=self.normalization,
            augmentation=self.augmentation,
        )
        say(
            f"train: {settings.epochs} epochs of {pipeline.steps_per_epoch} steps on {data.name}, "
            f"genotype {self.genotype.id}"
        )
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
        last = read_lines(stage / "metrics.jsonl")[-1]
        return {
            "validation_accuracy": last.get("val_accuracy"),
            "earlier_seconds": self._earlier_seconds("train", done),
        }

    def _earlier_seconds(self, stage: str, epochs: int) -> float:
        """Time of the epochs that earlier processes trained."""
        return sum(
            row["seconds"] for row in read_lines(self.folder / stage / "metrics.jsonl")[:epochs]
        )

    def evaluate(self) -> None:
        """Evaluate on the test split, once."""
        self._stage("evaluate", self._evaluate)

    def _evaluate(self) -> dict[str, Any]:
        evaluation: Evaluation = evaluate_network(self.network(), self.batches(self.data.test))
        evaluation.write_predictions(self.folder / "predictions.csv", self.data.class_names)
        evaluation.write_confusion(self.folder / "confusion.csv", self.data.class_names)
        metrics = evaluation.metrics()
        say(f"evaluate: test accuracy {metrics['accuracy']:.4f} on {metrics['examples']} images")
        return {"test": metrics}

    def export(self, again: bool = False) -> None:
        """Write model.tflite and compare it with Keras on test images, without their labels."""
        self._stage("export", self._export, again)

    def _export(self) -> dict[str, Any]:
        count = min(self.recipe.export.parity_images, self.data.test.num_examples)
        raw = self.data.test.images_at(np.arange(count))
        images = np.asarray(self.normalization.apply(tf.constant(raw)))
        # What a killed export left behind is this run's own file.
        report = export_network(
            self.network(), self.folder / "model.tflite", images, overwrite=True
        )
        write_json(self.folder / "export.json", report)
        parity = report["parity"]
        say(
            f"export: model.tflite, {report['bytes']} bytes, "
            f"{report['binary_convolutions']} convolutions in 1 bit, "
            f"{report['float_convolutions']} not; {parity['equal_predictions']:.2%} of "
            f"{parity['images']} predictions equal to Keras, "
            f"largest difference {parity['max_abs_difference']:.2g}"
        )
        return {}

    def report(self) -> None:
        """Draw what there is to draw, and write result.json and report.html."""
        self.write_result()
        write_report(self.folder.path)
        self.write_result()  # once more, with the names of all files

    def _files(self) -> list[str]:
        """All files of the run but hidden ones. `os.walk` bears that some vanish meanwhile."""
        root = self.folder.path
        return sorted(
            (Path(parent) / name).relative_to(root).as_posix()
            for parent, _, names in os.walk(root)
            for name in names
            if not name.startswith(".")
        )

    def write_result(self) -> dict[str, Any]:
        """Collect the results so far in result.json, for programs to read."""
        folder = self.folder
        facts = {stage: folder.facts(stage) for stage in STAGES}
        wanted = STAGES if self.recipe.export.enabled else STAGES[:-1]
        result: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "finished": all(self._is_done(stage) for stage in wanted),
            "genotype": facts["search"].get("genotype"),
            "test_accuracy": facts["evaluate"].get("test", {}).get("accuracy"),
            "test": facts["evaluate"].get("test"),
            "validation_accuracy": facts["train"].get("validation_accuracy"),
            "supernet_validation_accuracy": facts["search"].get("supernet_validation_accuracy"),
            "seconds": {stage: fact.get("seconds") for stage, fact in facts.items()},
            "wall_seconds": round(sum(fact.get("seconds", 0.0) for fact in facts.values()), 2),
        }
        if self._is_done("train"):
            result["cost"] = self.cost
        if (folder / "export.json").exists():
            report = read_json(folder / "export.json")
            result["export"] = {key: report[key] for key in EXPORT_KEYS}
        result["files"] = [name for name in self._files() if name != "result.json"]
        write_json(folder / "result.json", result)
        return result
