"""Fine-tuning of published and trained networks in Python; `bnas-larq finetune` does the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.data import ImageDataset
from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.errors import DataError
from bnas_larq.files import expand_home
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.run.finetune_source import finetune_recipe
from bnas_larq.run.recipe_run import Run
from bnas_larq.train_settings import FINE_TUNING
from bnas_larq.zoo.entries import Entry


def finetune(
    source: str | Path | StoredNetwork | Entry,
    data: str | Path | ImageDataset,
    *,
    out: str | Path,
    epochs: int = FINE_TUNING["epochs"],
    head_epochs: int = 3,
    batch_size: int = FINE_TUNING["batch_size"],
    learning_rate: float = FINE_TUNING["learning_rate"],
    head_learning_rate: float = 0.005,
    binary_multiplier: float = 1.0,
    train: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Fit a trained network to other images: a new head alone first, then everything.

    Gives the weights that `bnas-larq finetune` gives with the same settings; like that command, it
    makes TensorFlow deterministic for the whole process. `Run.open(out)` then evaluates, exports
    and reports.

    Args:
        source: an entry or its name, or the folder of an entry or a run.
        data: a folder of class folders, or a loaded data set (which fixes the size of the images).
        out: the run's folder; `bnas-larq evaluate`, `export` and `report` read it. They load a
            data set that was passed in by its name, if they can.
        epochs: of the whole network, after `head_epochs` of the head alone.
        batch_size: images of one step.
        learning_rate: Adam's peak for the whole network, which falls to 0 along a cosine.
        head_learning_rate: Adam's for the head alone.
        binary_multiplier: the rate of latent binary kernels, as a share of `learning_rate`.
        train: further keys of `bnas_larq.train_settings.TrainSettings`, such as `optimizer`.
        image_size: None takes the network's own.
        augmentation: keys of `bnas_larq.data.Augmentation`; None takes what it was trained with.
        seed: of the head's first weights, of the validation split and of the batches.
        resume: continue what an interrupted call with the same arguments left in `out`.
        overwrite: replace an earlier run in `out`.
        callbacks: further Keras callbacks; they see two calls of `fit`.

    Returns:
        The trained network: images normalised as for `source` in, logits out.

    Raises:
        ZooError, RunError: there is no such network; `out` is not free; or the call that is
            resumed had other arguments or weights.
        RecipeError: an impossible value.
        DataError: the images cannot be read.

    Example:
        >>> from bnas_larq import load_dataset
        >>> from bnas_larq.zoo import finetune
        >>> finetune("bnasd-digits-small", load_dataset("digits"), out="runs/tuned", epochs=0)
        Traceback (most recent call last):
            ...
        bnas_larq.errors.RecipeError: A recipe's 'train.epochs' must be valid: ...
    """
    recipe = finetune_recipe(
        source.folder if isinstance(source, StoredNetwork | Entry) else source,
        {
            "name": Path(out).name,
            "seed": seed,
            "data": _data_settings(data, image_size, augmentation),
            "train": {
                "epochs": epochs,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                **(train or {}),
            },
            "finetune": {
                "head_epochs": head_epochs,
                "head_learning_rate": head_learning_rate,
                "binary_multiplier": binary_multiplier,
            },
        },
    )
    run = Run.create(
        recipe,
        out,
        stages=("train",),
        resume=resume,
        overwrite=overwrite,
        data=data if isinstance(data, ImageDataset) else None,
        callbacks=callbacks,
    )
    with run:
        run.train()
        return run.network()


def _data_settings(
    data: str | Path | ImageDataset,
    image_size: int | tuple[int, int] | None,
    augmentation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The section `data` of the recipe."""
    settings: dict[str, Any] = {}
    if isinstance(data, ImageDataset):
        if image_size not in (None, data.image_shape[0], data.image_shape[:2]):
            raise DataError(
                "A loaded data set's images have their size. "
                f"Received: image_size={image_size} for {data.image_shape[:2]}. Omit it."
            )
        settings.update(
            name=data.name, image_size=list(data.image_shape[:2]), **data.geometry.describe()
        )
    else:
        settings.update(name="folder", data_dir=str(Path(expand_home(data)).resolve()))
        if image_size is not None:
            settings["image_size"] = image_size
    if augmentation is not None:
        settings["augmentation"] = {**AugmentationSettings().model_dump(), **augmentation}
    return settings
