"""Training of a run folder's network: its recipe and data set in, its weight file out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bnas_larq.backend import keras
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    ImageDataset,
    Normalization,
    evaluation_dataset,
    training_pipeline,
)
from bnas_larq.models.stored import StoredNetwork
from bnas_larq.models.weights import save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.runs import read_lines
from bnas_larq.training.finetune import fine_tune_network
from bnas_larq.training.trainer import train_network


def train_stored(
    target: StoredNetwork,
    model: keras.Model,
    recipe: Recipe,
    data: ImageDataset,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> float | None:
    """Train or fine-tune `model` as the recipe says, from where an earlier process stopped.

    Args:
        target: described, not yet trained; its folder gets train/ and the weight file.
        model: its network with its first weights, with drop-path layers if the recipe has a rate.
        data: the recipe's data set; the test part is not touched.

    Returns:
        Accuracy on the validation part after the last epoch; None without such a part.

    Raises:
        CheckpointError, WeightsError: no usable checkpoint.
        TrainingStopped: the loss is no longer finite.
        RunError: the weights cannot be written.
    """
    normalization = Normalization.from_dict(target.normalization)
    pipeline = training_pipeline(
        data.train,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        normalization=normalization,
        augmentation=Augmentation(**recipe.data.augmentation.model_dump()),
    )
    held_out = data.validation
    if held_out is not None:
        held_out = evaluation_dataset(held_out, EVALUATION_BATCH, normalization)
    fit = train_network
    if recipe.finetune is not None:
        fit = partial(fine_tune_network, finetune=recipe.finetune)
    folder = target.folder / "train"
    fit(
        model,
        recipe.train,
        dataset=pipeline.dataset,
        steps_per_epoch=pipeline.steps_per_epoch,
        validation_data=held_out,
        folder=folder,
        callbacks=callbacks,
    )
    save_weights(model, target.weights)
    return read_lines(folder / "metrics.jsonl")[-1].get("val_accuracy")
