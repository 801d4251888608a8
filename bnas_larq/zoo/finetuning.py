"""Fine-tuning of published and trained networks in Python; `bnas-larq finetune` does the same."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, make_deterministic
from bnas_larq.data import (
    ImageDataset,
    data_errors,
    load_described,
)
from bnas_larq.errors import DataError, RunError
from bnas_larq.models.stored import StoredNetwork
from bnas_larq.recipe import Recipe
from bnas_larq.runs import RunFolder, read_lines
from bnas_larq.settings import FINE_TUNING, AugmentationSettings
from bnas_larq.training import train_stored
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.finetune_source import (
    begun_with,
    check_out,
    finetune_recipe,
    pinned,
    source_of,
    with_new_head,
)


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
    binary_multiplier: float = 0.3,
    train: Mapping[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Fit a trained network to other images: a new head alone first, then everything.

    Gives the weights that `bnas-larq finetune` gives with the same settings, and as that command
    makes TensorFlow deterministic for the whole process.

    Args:
        source: an entry or its name, or the folder of an entry or a run.
        data: a folder of class folders, or a loaded data set (which fixes the size of the images).
        out: the run's folder; `bnas-larq evaluate`, `export` and `report` read it. They find a
            data set that was given loaded by its name, if at all.
        epochs: of everything, after `head_epochs` of the head alone.
        batch_size: images of one step.
        learning_rate: Adam's peak for everything, which falls to 0 along a cosine.
        head_learning_rate: Adam's for the head alone.
        binary_multiplier: the rate of latent binary kernels, as a share of `learning_rate`.
        train: further keys of `bnas_larq.settings.TrainSettings`, such as `optimizer`.
        image_size: None takes the network's own.
        augmentation: keys of `bnas_larq.data.Augmentation`; None takes what it was trained with.
        seed: of the head's first weights, of the validation split and of the batches.
        resume: go on with what an interrupted call with the same arguments left in `out`.
        overwrite: replace an earlier run in `out`.
        callbacks: further Keras callbacks; they see two calls of `fit`.

    Returns:
        The trained network, images normalised as for `source` → logits.

    Raises:
        ZooError, RunError: there is no such network; `out` is not free; or it is resumed with other
            arguments or weights.
        RecipeError: an impossible value.
        DataError: the images cannot be read.
    """
    entry = source.folder if isinstance(source, StoredNetwork | Entry) else source
    recipe = finetune_recipe(
        entry,
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
    recipe = recipe.model_copy(update={"finetune": pinned(recipe.finetune)})
    folder = RunFolder(out)
    check_out(recipe, out)
    resumed = resume and (folder / "recipe.yaml").is_file()
    if not resumed:
        RunFolder.check_new(out, overwrite=overwrite)
    with data_errors():
        loaded = data if isinstance(data, ImageDataset) else load_described(recipe.data, seed)
    began = source_of(recipe)
    target = with_new_head(began, loaded, out)
    folder = (
        _resumed(out, recipe)
        if resumed
        else RunFolder.create(out, recipe.to_yaml(), overwrite=overwrite)
    )
    try:
        if not (folder.stage_done("train") and target.weights.is_file()):
            _train(folder, recipe, began, target, loaded, callbacks)
        folder.checkpoints("train").clear()
    finally:
        folder.unlock()
    return StoredNetwork.load(out).load_model()


def _train(
    folder: RunFolder,
    recipe: Recipe,
    source: StoredNetwork,
    target: StoredNetwork,
    data: ImageDataset,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Both stages, from where they stopped; leaves what the CLI's stages leave."""
    log = folder / "train" / "metrics.jsonl"
    # What earlier calls trained took its time too.
    start = time.monotonic() - sum(row["seconds"] for row in read_lines(log))
    target.save()
    folder.mark_done("search", searched=False, genotype=target.genotype.id, seconds=0.0)
    make_deterministic(recipe.seed)
    model = begun_with(source, target, drop_path=recipe.train.drop_path > 0)
    with data_errors():
        accuracy = train_stored(target, model, recipe, data, callbacks)
    seconds = round(time.monotonic() - start, 2)
    folder.mark_done("train", seconds=seconds, validation_accuracy=accuracy)


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
                f"Received: image_size={image_size} for {data.image_shape[:2]}. Leave it away."
            )
        settings.update(name=data.name, image_size=list(data.image_shape[:2]))
    else:
        settings.update(name="folder", data_dir=str(Path(data).expanduser().resolve()))
        if image_size is not None:
            settings["image_size"] = image_size
    if augmentation is not None:
        settings["augmentation"] = {**AugmentationSettings().model_dump(), **augmentation}
    return settings


def _resumed(out: str | Path, recipe: Recipe) -> RunFolder:
    """The locked folder of an interrupted call with the same arguments."""
    folder = RunFolder.open(out, lock=True)
    if (folder / "recipe.yaml").read_text(encoding="utf-8") != recipe.to_yaml():
        folder.unlock()
        raise RunError(
            "A fine-tuning goes on with the arguments and weights it began with. "
            f"Received: others than in {folder / 'recipe.yaml'}. "
            "Give the same ones, or choose another `out`."
        )
    return folder
