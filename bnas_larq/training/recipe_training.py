"""Training of a run folder's network: its recipe and data set in, its weight file out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    ImageDataset,
    Normalization,
    evaluation_dataset,
    training_pipeline,
)
from bnas_larq.files import read_lines
from bnas_larq.layers.template import CLASSIFIER
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.settings import FineTuneSettings, TrainSettings
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


def fine_tune_network(
    model: keras.Model,
    settings: TrainSettings,
    finetune: FineTuneSettings,
    dataset: Callable[[int], tf.data.Dataset],
    steps_per_epoch: int,
    *,
    validation_data: tf.data.Dataset | None,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a network that has another one's weights and a new head, from where it stopped.

    Epochs are counted through both stages. Only the head moves in the first `finetune.head_epochs`:
    the rest is frozen, its BatchNorm in inference mode, because gradients of a head that still
    knows nothing would destroy what was learned. Then everything is trained for `settings.epochs`,
    latent binary kernels at `finetune.binary_multiplier` times the rate of the rest.

    Args:
        model: built with drop-path layers if `settings.drop_path` is above 0; all of it is
            trainable afterwards.
        dataset: (image, label) batches from the first one of a given epoch on.
        validation_data: evaluated after each epoch; never the test split.
        folder: gets metrics.jsonl and checkpoints/ (those of the first stage in its folder head/).

    Raises:
        CheckpointError, WeightsError: no usable checkpoint.
        TrainingStopped: the loss is no longer finite.
    """
    second = Checkpoints(folder / "checkpoints")
    shared = {"validation_data": validation_data, "folder": folder, "callbacks": callbacks}
    # Once the second stage has a checkpoint, the first one is part of it.
    if finetune.head_epochs and not any(second.folder.glob("epoch-*")):
        for layer in model.layers:
            layer.trainable = layer.name == CLASSIFIER
        train_network(
            model,
            _head_settings(settings, finetune),
            dataset,
            steps_per_epoch,
            title="head",
            checkpoints=Checkpoints(second.folder / "head"),
            **shared,
        )
    for layer in model.layers:
        layer.trainable = True
    train_network(
        model,
        settings,
        dataset,
        steps_per_epoch,
        first_epoch=finetune.head_epochs,
        rate_multipliers={
            kernel.name: finetune.binary_multiplier for kernel in latent_kernels(model)
        },
        **shared,
    )


def _head_settings(settings: TrainSettings, finetune: FineTuneSettings) -> TrainSettings:
    """A linear classifier on fixed features: Adam at a constant rate suits any of them."""
    return settings.model_copy(
        update={
            "epochs": finetune.head_epochs,
            "optimizer": "adam",
            "schedule": "constant",
            "learning_rate": finetune.head_learning_rate,
            "drop_path": 0.0,
        }
    )
