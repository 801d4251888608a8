"""Training as a recipe describes it, from data set to weight file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    EpochPipeline,
    EvaluationPipeline,
    Examples,
    ImageDataset,
    Normalization,
    training_pipeline,
)
from bnas_larq.errors import RecipeError
from bnas_larq.files import read_rows
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import load_weights, save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.run_records import Epoch
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainStage
from bnas_larq.training.teacher_outputs import TeacherOutputs
from bnas_larq.training.teachers import Teacher
from bnas_larq.training.training_plan import stage_weights, train_plan

#: Loads the weights that a stage starts from into its network.
LoadStart = Callable[[TrainStage, keras.Model], object]
#: Loads a teacher for images that are normalised so.
LoadTeacher = Callable[[TeacherSettings, Normalization], Teacher]


def stage_config(stage: TrainStage, config: BaseConfig) -> BaseConfig:
    """The network of a stage, which may have other activations and kernels than `config`, and
    smaller images."""
    settings: dict[str, Any] = dict(stage.network_settings)
    if stage.crop_size:
        shape = (stage.crop_size, stage.crop_size, config.input_shape[-1])
        settings |= {"input_shape": shape, "stem": config.stem}
    return config.replace(**settings)


def stage_pipeline(
    stage: TrainStage,
    recipe: Recipe,
    examples: Examples,
    normalization: Normalization,
    num_classes: int,
    **more: Any,
) -> EpochPipeline:
    """A stage's batches; `more` arguments and errors as of `training_pipeline`."""
    return training_pipeline(
        examples,
        batch_size=stage.batch_size,
        seed=recipe.seed,
        normalization=normalization,
        augmentation=_augmentation(stage, recipe),
        mixup=stage.mixup,
        num_classes=num_classes,
        views=stage.teacher and stage.teacher.views,
        **more,
    )


def _augmentation(stage: TrainStage, recipe: Recipe) -> Augmentation:
    settings = (stage.augmentation or recipe.data.augmentation).model_dump()
    return Augmentation(**settings, crop_size=stage.crop_size)


def check_stages(plan: Sequence[TrainStage], config: BaseConfig) -> None:
    """Raise BnasLarqError unless each stage's network can be, and the last one's is `config`."""
    configs = [stage_config(stage, config) for stage in plan]
    crops = [stage.crop_size for stage in plan if stage.crop_size]
    if crops and get_scheme(config.scheme).one_size:
        raise RecipeError(
            "The scales of a scheme may fit one image size. "
            f"Received: crop_size {crops[0]} with the scheme {config.scheme}. Remove it."
        )
    if configs[-1] != config:
        last = plan[-1]
        crop = {"crop_size": last.crop_size} if last.crop_size else {}
        raise RecipeError(
            "The last stage trains the network that is stored. "
            f"Received: {last.network_settings | crop} in its stage {last.name!r}. Remove them, "
            "or set them in the section network."
        )


def train_stored(
    target: StoredNetwork,
    recipe: Recipe,
    data: ImageDataset,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    load_start: LoadStart | None = None,
    load_teacher: LoadTeacher | None = None,
) -> float | None:
    """Train a network as the recipe says, from the newest checkpoint if there is one.

    Args:
        target: what to train; its folder gets train/ and the weight file.
        data: the recipe's data set; the test part is not used.
        load_start, load_teacher: for stages that start or learn from another network.

    Returns:
        Accuracy on the validation part after the last epoch, or None without such a part.

    Raises:
        BnasLarqError: as of `resumable_fit`; or a RunError, if the weights cannot be written.
    """
    plan, folder = recipe.plan, target.folder / "train"
    check_stages(plan, target.config)
    normalization = Normalization.from_dict(target.normalization)
    examples = data.training_examples(recipe.train.on)
    # An accuracy on images that are trained on says nothing.
    held_out = data.validation if examples is data.train else None

    def validation(stage: TrainStage) -> EvaluationPipeline | None:
        if held_out is None:
            return None
        settings = EVALUATION_BATCH, normalization
        return EvaluationPipeline(held_out, *settings, crop_size=stage.crop_size)

    def network(stage: TrainStage) -> keras.Model:
        config = stage_config(stage, target.config)
        model = build_network(target.genotype, config, drop_path=stage.drop_path > 0)
        if stage.starts_elsewhere:
            load_start(stage, model)
        return model

    teachers: dict[str, Teacher] = {}  # the one of the stage that trains

    def teacher(stage: TrainStage) -> Teacher | None:
        if stage.teacher and stage.name not in teachers:
            teachers.clear()
            load = load_teacher if stage.learns_elsewhere else partial(previous, stage)
            teachers[stage.name] = load(stage.teacher, normalization)
        return teachers.get(stage.name)

    def previous(stage: TrainStage, settings: TeacherSettings, shared: Normalization) -> Teacher:
        before = plan[plan.index(stage) - 1]
        config = target.config.replace(**before.network_settings)
        model = load_weights(build_network(target.genotype, config), stage_weights(folder, before))
        model.trainable = False
        return Teacher(model, settings, shared, shared)

    def batches(stage: TrainStage) -> EpochPipeline:
        attach = None
        if stage.teacher and stage.teacher.cache:
            outputs = TeacherOutputs(
                stage.teacher.cache,
                teacher(stage),
                examples,
                _augmentation(stage, recipe),
                recipe.seed,
                data.geometry.describe(),
            )
            first = sum(earlier.epochs for earlier in plan[: plan.index(stage)])
            # Batches are read ahead, and BatchNorm may be estimated with those after the last.
            steps = examples.num_examples // stage.batch_size
            last = first + stage.epochs + stage.reestimate_batch_norm // steps
            outputs.fill(sorted({n % stage.teacher.views for n in range(first, last + 1)}))
            attach = outputs.lookup
        return stage_pipeline(
            stage, recipe, examples, normalization, data.num_classes, attach=attach
        )

    model = train_plan(
        plan,
        network,
        batches,
        teacher,
        validation=validation,
        folder=folder,
        callbacks=callbacks,
        seed=recipe.seed,
        float_storage=recipe.export.float_storage if recipe.export.enabled else FLOAT32,
    )
    save_weights(model, target.weights)
    epochs = read_rows(folder / "metrics.jsonl", Epoch)
    return epochs[-1].get("val_accuracy") if epochs else None
