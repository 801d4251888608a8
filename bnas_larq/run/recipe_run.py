"""The arrows between the parts: recipe → data → search → network → training → evaluation → export →
report.

One `Run` works in one run folder, stage by stage (see `bnas_larq.run.stages`).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.costs.accounting import count_costs
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    EpochPipeline,
    ImageDataset,
    Normalization,
    bilevel_pipeline,
    data_errors,
    evaluation_dataset,
    load_described,
    training_pipeline,
)
from bnas_larq.export.exporter import export_network
from bnas_larq.files import write_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.precision import recorded_precision
from bnas_larq.recipe import Recipe
from bnas_larq.report.html_report import write_report
from bnas_larq.run.finetuning import begun_with, source_of, with_new_head
from bnas_larq.run.searchers import (
    check_search,
    describe_search,
    in_supernet,
    make_searcher,
)
from bnas_larq.run.stages import Stages, write_result
from bnas_larq.run_folder import RunFolder
from bnas_larq.search import SearchData
from bnas_larq.training import Evaluation, evaluate_network, train_stored


class Run:
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
        """Per-channel mean and deviation of the training part; a fine-tuning keeps its source's."""
        if self.recipe.finetune is None:
            return self.data.normalization()
        # Once it is trained, the run no longer needs its source.
        trained = self.stages.is_done("train")
        stored = StoredNetwork.load(self.folder.path) if trained else self.source
        return Normalization.from_dict(stored.normalization)

    @cached_property
    def source(self) -> StoredNetwork:
        """The network that a fine-tuning begins with."""
        return source_of(self.recipe)

    @property
    def stages(self) -> Stages:
        """What of the run is done."""
        return Stages(self.folder, self.recipe.seed)

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
        if self.recipe.finetune is not None:
            return with_new_head(self.source, self.data, self.folder.path).config
        return NetworkConfig(
            input_shape=self.data.image_shape,
            num_classes=self.data.num_classes,
            **self.recipe.network.model_dump(),
        )

    @property
    def training_recipe(self) -> Recipe:
        """The recipe, with the best trial's training settings where keras-tuner sought some."""
        tuned = None
        if self._searches and self.recipe.search.searcher == "tuner":
            tuned = self.genotype.provenance.get("train")
        if not tuned:
            return self.recipe
        train = self.recipe.train.model_copy(update=tuned)
        return self.recipe.model_copy(update={"train": train})

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
            BnasLarqError: the data cannot be read, a name is unknown, a batch is too large, or
                settings do not fit each other.
        """

        def steps_per_epoch() -> int:
            pipelines = self._half_pipelines(self._search_halves(), Normalization())
            return bilevel_pipeline(*pipelines).steps_per_epoch

        with data_errors():
            if "search" in stages and self._searches:
                check_search(self, steps_per_epoch)
            if "train" in stages:
                self.network_config  # noqa: B018 - raises for an unknown scheme or source
                training_pipeline(
                    self.data.train,
                    batch_size=self.recipe.train.batch_size,
                    seed=self.recipe.seed,
                    normalization=Normalization(),
                    augmentation=self.augmentation,
                )

    # -- stages ----------------------------------------------------------------------------------

    @property
    def _searches(self) -> bool:
        """Whether the genotype is still to be found."""
        return self.recipe.genotype is None and self.recipe.finetune is None

    def run(self) -> Path:
        """All stages that are not done yet, then the report; returns the path of result.json."""
        self.search()
        self.train()
        self.evaluate()
        if self.recipe.export.enabled:
            self.export()
        self.report()
        return self.folder / "result.json"

    def search(self) -> None:
        """Search a genotype, or take the one that the recipe or its source names."""
        self.stages.do("search", self._search)

    def _search(self) -> dict[str, Any]:
        if not self._searches:
            given = self.recipe.genotype
            genotype = self.source.genotype if given is None else Genotype.load(given)
            genotype.save(self.folder / "genotype.json")
            say(genotype.pretty())
            return {"searched": False, "genotype": genotype.id}
        settings, data = self.recipe.search, self.data
        # Trials of keras-tuner are final networks on the whole training part.
        sizes, search_data = self.recipe.network, None
        if in_supernet(settings):
            settings = sizes = self._with_precision("search", settings)
            search_data = self._search_data()
        searcher = make_searcher(self, settings)
        say(f"search: {data.name}, {describe_search(settings)}")
        stage = self.folder / "search"
        earlier = self.stages.recorded_seconds("search", settings.tuner.workers)
        result = searcher.run(
            search_data,
            folder=stage,
            provenance={
                "source": f"bnas-larq search, recipe {self.recipe.name}",
                "data": data.name,
                "seed": self.recipe.seed,
                "cells": sizes.cells,
                "channels": sizes.channels,
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
            "earlier_seconds": earlier,
        }

    def _with_precision(self, stage: str, settings: Any) -> Any:
        """The stage's settings with the precision that `auto` took, now or when it began."""
        asked = settings.mixed_precision
        choice = recorded_precision(self.folder / stage, asked)
        if asked != "float32":
            say(f"{stage}: binary convolutions in {choice.name}, {choice.reason}")
        return settings.model_copy(update={"mixed_precision": choice.name})

    def _search_data(self) -> SearchData:
        """What a supernet learns from."""
        halves, validation = self._search_halves(), self.data.validation
        credit = evaluation_dataset(
            halves[1], EVALUATION_BATCH, self.normalization, shuffle_seed=self.recipe.seed
        )
        return SearchData(
            *self._half_pipelines(halves, self.normalization),
            credit=credit,
            validation=None if validation is None else self.batches(validation),
        )

    def _half_pipelines(
        self, halves: list[Any], normalization: Normalization
    ) -> list[EpochPipeline]:
        """Training batches of both halves of the search."""
        return [
            training_pipeline(
                half,
                batch_size=self.recipe.search.batch_size,
                seed=self.recipe.seed + offset,
                normalization=normalization,
                augmentation=self.augmentation,
            )
            for offset, half in enumerate(halves)
        ]

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
        self.stages.do("train", self._train)

    def _train(self) -> dict[str, Any]:
        recipe, data = self.training_recipe, self.data
        settings, tuning = recipe.train, recipe.finetune
        described = StoredNetwork(
            self.folder.path,
            self.genotype,
            self.network_config,
            data.class_names,
            self.normalization.to_dict(),
            data.describe(),
        )
        described.save()
        drop_path = settings.drop_path > 0
        if tuning is None:
            model = build_network(described.genotype, described.config, drop_path=drop_path)
        else:
            model = begun_with(self.source, described, drop_path=drop_path)
        heads = "" if tuning is None else f"{tuning.head_epochs} epochs of the head, then "
        say(
            f"train: {heads}{settings.epochs} epochs of {data.train.num_examples:,} images of "
            f"{data.name}, genotype {described.genotype.id}"
        )
        if recipe is not self.recipe:
            tuned = described.genotype.provenance["train"]
            changed = ", ".join(f"{key} {value}" for key, value in tuned.items())
            say(f"train: as its trial: {changed}")
        self._with_precision("train", settings)
        earlier = self.stages.recorded_seconds("train")
        accuracy = train_stored(described, model, recipe, data, self._callbacks("train"))
        return {
            "validation_accuracy": accuracy,
            "earlier_seconds": earlier,
        }

    def evaluate(self) -> None:
        """Evaluate on the test split, once."""
        self.stages.do("evaluate", self._evaluate)

    def _evaluate(self) -> dict[str, Any]:
        evaluation: Evaluation = evaluate_network(self.network(), self.batches(self.data.test))
        evaluation.write_predictions(self.folder / "predictions.csv", self.data.class_names)
        evaluation.write_confusion(self.folder / "confusion.csv", self.data.class_names)
        metrics = evaluation.metrics()
        say(f"evaluate: test accuracy {metrics['accuracy']:.4f} on {metrics['examples']} images")
        return {"test": metrics}

    def export(self, again: bool = False) -> None:
        """Write model.tflite and compare it with Keras on test images, without their labels."""
        self.stages.do("export", self._export, again)

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

    def write_result(self) -> dict[str, Any]:
        """Collect the results so far in result.json, for programs to read."""
        stages = self.stages
        return write_result(stages, self.recipe, self.cost if stages.is_done("train") else None)
