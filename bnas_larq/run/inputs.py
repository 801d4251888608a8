"""What a run reads: its images, their batches, and the network that a fine-tuning starts from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    EpochPipeline,
    EvaluationPipeline,
    Examples,
    ImageDataset,
    Normalization,
    bilevel_pipeline,
    evaluation_dataset,
    load_described,
    load_moved,
    training_pipeline,
)
from bnas_larq.data.people import People, split_people
from bnas_larq.genotype import Genotype
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import config_of_kind
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.precision import recorded_precision
from bnas_larq.recipe import Recipe
from bnas_larq.run.creation import needs_search
from bnas_larq.run.finetune_source import load_source, with_new_head
from bnas_larq.run.processes import share_gpu_memory
from bnas_larq.run.stage_sources import load_start, load_teacher
from bnas_larq.run.stages import Stages, stage_errors
from bnas_larq.run_folder import RunFolder
from bnas_larq.search import SearchData
from bnas_larq.search.single_path import equal_batch_size
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainStage
from bnas_larq.training import Teacher


class RunInputs:
    """Data and sizes of a run; images and networks are loaded when they are first needed.

    Args:
        folder: the run's folder.
        recipe: the resolved recipe.
        data: the recipe's data set, if it is loaded already.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, data: ImageDataset | None = None) -> None:
        self.folder = folder
        self.recipe = recipe
        if data is not None:
            self.data = data

    @cached_property
    def data(self) -> ImageDataset:
        """The recipe's data set."""
        recipe = self.recipe
        return load_described(recipe.data, recipe.seed, keep_originals=recipe.crops_originals)

    def load_moved(self, data_dir: str | Path | None) -> None:
        """Take the images of a trained run from where they are now; None: they were not moved.
        DataError if they are not there, or the test images are others."""
        if data_dir is not None:
            trained = StoredNetwork.load(self.folder.path)
            with stage_errors():
                recipe = self.recipe
                self.data = load_moved(recipe.data, recipe.seed, data_dir, trained.data)

    @cached_property
    def source(self) -> StoredNetwork:
        """The network that a fine-tuning starts from."""
        return load_source(self.recipe)

    @cached_property
    def people(self) -> tuple[People, People]:
        """Of a recipe with the section `faces`: those to train on, and those to verify."""
        data = self.recipe.data
        return split_people(
            data.data_dir,
            self.recipe.faces.train_people,
            image_size=data.image_size,
            memory_limit_mb=data.memory_limit_mb,
        )

    @cached_property
    def given_genotype(self) -> Genotype | None:
        """The genotype that the recipe names, or its source has; None without cells."""
        if self.recipe.finetune is not None:
            return self.source.genotype
        return Genotype.load(self.recipe.genotype) if self.recipe.has_genotype else None

    @cached_property
    def normalization(self) -> Normalization:
        """Per-channel mean and deviation of the training part; a fine-tuning keeps its source's."""
        if self.recipe.finetune is None:
            return self.data.normalization()
        # A trained run no longer needs its source.
        trained = Stages(self.folder, self.recipe.seed).is_done("train")
        network = StoredNetwork.load(self.folder.path) if trained else self.source
        return Normalization.from_dict(network.normalization)

    @property
    def augmentation(self) -> Augmentation:
        """Random changes of training images."""
        return Augmentation(**self.recipe.data.augmentation.model_dump())

    @property
    def network_config(self) -> BaseConfig:
        """Size of the final network, from the recipe and the data.

        Raises:
            BnasLarqError: an unknown scheme, or impossible sizes.
        """
        if self.recipe.finetune is not None:
            return with_new_head(self.source, self.data, self.folder.path).config
        images = {"input_shape": self.data.image_shape, "num_classes": self.data.num_classes}
        network = self.recipe.network
        return config_of_kind(network.kind, {**network.model_dump(), **images})

    def described_network(self, genotype: Genotype | None) -> StoredNetwork:
        """The final network as the run's folder describes it."""
        return StoredNetwork(
            self.folder.path,
            genotype,
            self.network_config,
            self.data.class_names,
            self.normalization.to_dict(),
            self.data.describe(),
        )

    def batches(self, examples: Examples) -> tf.data.Dataset:
        """Examples once, in stored order, for evaluation."""
        return evaluation_dataset(examples, EVALUATION_BATCH, self.normalization)

    def _evaluation(self, examples: Examples) -> EvaluationPipeline:
        """`batches`, also under a strategy."""
        return EvaluationPipeline(examples, EVALUATION_BATCH, self.normalization)

    def training_batches(
        self,
        examples: Examples,
        batch_size: int,
        *,
        seed: int | None = None,
        normalization: Normalization | None = None,
    ) -> EpochPipeline:
        """Augmented and shuffled batches; DataError if they are larger than the examples.

        Default: the recipe's seed, and the run's normalisation, which reads all training images.
        """
        return training_pipeline(
            examples,
            batch_size=batch_size,
            seed=self.recipe.seed if seed is None else seed,
            normalization=normalization or self.normalization,
            augmentation=self.augmentation,
        )

    def search_data(self) -> SearchData:
        """What a supernet learns from: both halves of the training part, and what measures it. A
        one-shot search learns from the whole part, and measures paths on the validation part."""
        if self.recipe.search.searcher == "one-shot":
            weights = self._path_pipeline(self.normalization)
            examples = self.recipe.search.one_shot.examples
            held_out = self._at_most(self.data.validation, examples)
            return SearchData(weights, None, credit=self._credit(held_out), validation=None)
        halves, validation = self._search_halves(), self.data.validation
        return SearchData(
            *self._half_pipelines(halves, self.normalization),
            credit=self._credit(halves[1]),
            validation=validation and self._evaluation(validation),
        )

    def search_steps_per_epoch(self) -> int:
        """Steps of a supernet's epoch; DataError if a batch is larger than its images."""
        # Only sizes matter here: a neutral normalisation saves a pass over all images.
        if self.recipe.search.searcher == "one-shot":
            return self._path_pipeline(Normalization()).steps_per_epoch
        pipelines = self._half_pipelines(self._search_halves(), Normalization())
        return bilevel_pipeline(*pipelines).steps_per_epoch

    def _half_pipelines(
        self, halves: list[Examples], normalization: Normalization
    ) -> list[EpochPipeline]:
        return [
            self.training_batches(
                half,
                self.recipe.search.batch_size,
                seed=self.recipe.seed + offset,
                normalization=normalization,
            )
            for offset, half in enumerate(halves)
        ]

    def _path_pipeline(self, normalization: Normalization) -> EpochPipeline:
        """The training part, cut to the recipe's `search.limit`."""
        search = self.recipe.search
        examples = self._at_most(self.data.train, search.limit)
        return self.training_batches(examples, search.batch_size, normalization=normalization)

    def _credit(self, examples: Examples) -> tf.data.Dataset:
        """What a search measures paths on, shuffled, in batches of nearly equal size."""
        size = equal_batch_size(examples.num_examples)
        return evaluation_dataset(examples, size, self.normalization, shuffle_seed=self.recipe.seed)

    def _at_most(self, examples: Examples, limit: int | None) -> Examples:
        if limit is None or limit >= examples.num_examples:
            return examples
        return examples.split(limit / examples.num_examples, self.recipe.seed)[0]

    def _search_halves(self) -> list[Examples]:
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

    def load_start(self, stage: TrainStage, model: keras.Model) -> None:
        """Load the weights that a stage starts from; errors as of `load_start` and `load_source`.
        A fine-tuning has a new head."""
        if self.recipe.finetune is None:
            load_start(stage, model)
        else:
            load_weights(model, self.source.weights, without_top=True)

    def load_teacher(self, settings: TeacherSettings, shared: Normalization) -> Teacher:
        """What a stage learns from, for images that are normalised so; errors as of
        `load_teacher`."""
        return load_teacher(settings, shared, self.data)

    def training_recipe(self) -> Recipe:
        """The recipe, with the best trial's training settings where keras-tuner searched some."""
        if not needs_search(self.recipe) or self.recipe.search.searcher != "tuner":
            return self.recipe
        tuned = Genotype.load(self.folder / "genotype.json").provenance.get("train")
        if not tuned:
            return self.recipe
        changed = ", ".join(f"{key} {value}" for key, value in tuned.items())
        say(f"train: as its trial: {changed}")
        train = self.recipe.train.model_copy(update=tuned)
        return self.recipe.model_copy(update={"train": train})

    def with_precision(self, stage: str, settings: Any) -> Any:
        """The stage's settings with the precision that `auto` chose, now or when it began."""
        asked = settings.mixed_precision
        choice = recorded_precision(self.folder / stage, asked)
        if asked != "float32":
            say(f"{stage}: convolutions in {choice.name}, {choice.reason}")
        return settings.model_copy(update={"mixed_precision": choice.name})


def inputs_to_run(folder: RunFolder, recipe: Recipe, data: ImageDataset | None = None) -> RunInputs:
    """The inputs of a run that this process will carry out, see `RunInputs`. The process shares the
    memory of GPUs with the workers of the run's search, if it has some."""
    if needs_search(recipe) and recipe.search.searcher == "tuner":
        share_gpu_memory()
    return RunInputs(folder, recipe, data)
