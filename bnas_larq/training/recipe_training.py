"""Training as a recipe describes it, from data set to weight file: from scratch, or fine-tuning in
two stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import (
    EVALUATION_BATCH,
    Augmentation,
    ImageDataset,
    Normalization,
    evaluation_dataset,
    training_pipeline,
)
from bnas_larq.files import read_rows
from bnas_larq.layers.template import CLASSIFIER
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.run_records import Epoch
from bnas_larq.settings import FineTuneSettings, TrainSettings
from bnas_larq.training.trainer import train_network


def train_stored(
    target: StoredNetwork,
    model: keras.Model,
    recipe: Recipe,
    data: ImageDataset,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> float | None:
    """Train or fine-tune `model` as the recipe says, from the newest checkpoint if there is one.

    Args:
        target: its folder gets train/ and the weight file.
        model: with initial weights, and with drop-path layers if the recipe has a rate.
        data: the recipe's data set; the test part is not used.

    Returns:
        Accuracy on the validation part after the last epoch, or None without such a part.

    Raises:
        BnasLarqError: as of `resumable_fit`; or a RunError, if the weights cannot be written.
    """
    normalization = Normalization.from_dict(target.normalization)
    examples = data.training_examples(recipe.train.on)
    pipeline = training_pipeline(
        examples,
        batch_size=recipe.train.batch_size,
        seed=recipe.seed,
        normalization=normalization,
        augmentation=Augmentation(**recipe.data.augmentation.model_dump()),
    )
    # An accuracy on images that are trained on says nothing.
    validation = data.validation if examples is data.train else None
    if validation is not None:
        validation = evaluation_dataset(validation, EVALUATION_BATCH, normalization)
    fit = train_network
    if recipe.finetune is not None:
        fit = partial(fine_tune_network, finetune=recipe.finetune)
    folder = target.folder / "train"
    fit(
        model,
        recipe.train,
        dataset=pipeline.dataset,
        steps_per_epoch=pipeline.steps_per_epoch,
        validation_data=validation,
        folder=folder,
        callbacks=callbacks,
        seed=recipe.seed,
    )
    save_weights(model, target.weights)
    epochs = read_rows(folder / "metrics.jsonl", Epoch)
    return epochs[-1].get("val_accuracy") if epochs else None


def fine_tune_network(
    model: keras.Model,
    settings: TrainSettings,
    finetune: FineTuneSettings,
    *,
    folder: Path,
    **shared: Any,
) -> None:
    """Train another network's weights with a new head, from the newest checkpoint if there is one.

    The first `finetune.head_epochs` train the head alone, because gradients of an untrained head
    would destroy what was learned; the rest is frozen, its BatchNorm in inference mode. Then
    everything is trained for `settings.epochs`, latent binary kernels at
    `finetune.binary_multiplier` times the learning rate. Epochs count through both stages.

    Args:
        model: as for `train_network`; all of it is trainable afterwards.
        folder: gets metrics.jsonl and checkpoints/, with those of the first stage in head/.
        shared: further arguments of `train_network`, where the errors are listed, too.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    # A checkpoint of the second stage includes the first.
    if finetune.head_epochs and not any(checkpoints.folder.glob("epoch-*")):
        for layer in model.layers:
            layer.trainable = layer.name == CLASSIFIER
        # For a linear classifier on fixed features, Adam at a constant rate is enough.
        head = {"optimizer": "adam", "schedule": "constant", "drop_path": 0.0}
        head |= {"epochs": finetune.head_epochs, "learning_rate": finetune.head_learning_rate}
        train_network(
            model,
            settings.model_copy(update=head),
            folder=folder,
            title="head",
            checkpoints=Checkpoints(checkpoints.folder / "head"),
            **shared,
        )
    for layer in model.layers:
        layer.trainable = True
    multipliers = {kernel.name: finetune.binary_multiplier for kernel in latent_kernels(model)}
    train_network(
        model,
        settings,
        folder=folder,
        first_epoch=finetune.head_epochs,
        rate_multipliers=multipliers,
        **shared,
    )
