"""Fine-tuning of published and trained networks in Python; `bnas-larq finetune` does the same."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bnas_larq.backend import keras
from bnas_larq.data import (
    ImageDataset,
    Normalization,
    data_errors,
    load_described,
)
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import DataError, RecipeError, RunError, WeightsError
from bnas_larq.files import read_lines, sha256
from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.recipe import Recipe, merge_values, override_recipe, parse_recipe
from bnas_larq.run_folder import RunFolder
from bnas_larq.settings import FINE_TUNING, AugmentationSettings, FineTuneSettings, NetworkSettings
from bnas_larq.training import train_stored
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.registry import resolve, resolve_entry


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


def pinned(settings: FineTuneSettings) -> FineTuneSettings:
    """The settings with the SHA-256 of the weights that `entry` has now, unless they name one."""
    if settings.sha256 is not None:
        return settings
    return settings.model_copy(update={"sha256": _sum(resolve(settings.entry))})


def source_of(recipe: Recipe) -> StoredNetwork:
    """The network that a fine-tuning begins with, compared with its recipe.

    Raises:
        ZooError, RunError: there is no such network.
        WeightsError: its weights are not those that the recipe names.
        RecipeError: the recipe asks for another genotype or size.
    """
    settings = recipe.finetune
    source = resolve(settings.entry)
    found = _sum(source)
    if settings.sha256 not in (None, found):
        raise WeightsError(
            "A fine-tuning begins, and goes on, with the weights its recipe names. "
            f"Received: {source.weights} of SHA-256 {found[:12]}…, not {settings.sha256[:12]}…. "
            "Restore that file, or start a new run."
        )
    if recipe.genotype is not None:
        raise RecipeError(
            "A fine-tuned network keeps its genotype. Received: genotype "
            f"{recipe.genotype!r} and finetune.entry {settings.entry!r}. Leave one of them away."
        )
    own = network_settings(source)
    for key, value in own.items():
        if getattr(recipe.network, key) != value:
            raise RecipeError(
                f"A fine-tuned network keeps its size. Received: network.{key} "
                f"{getattr(recipe.network, key)!r}; in {settings.entry} it is {value!r}. "
                "Leave it away with `bnas-larq finetune`, or train a new network."
            )
    return source


def check_out(recipe: Recipe, out: str | Path) -> None:
    """Raise RunError if the run would replace what it begins with, or lie among its images."""
    entry, out = Path(recipe.finetune.entry).resolve(), Path(out).resolve()
    if entry.is_dir() and out in (entry, *entry.parents):
        raise RunError(
            "A fine-tuning is written to another folder than it begins with. "
            f"Received: {entry} and {out}. Choose another --out."
        )
    if recipe.data.name == "folder":
        RunFolder.check_outside(out, recipe.data.data_dir)


def network_settings(source: StoredNetwork) -> dict[str, Any]:
    """The section `network` of a recipe that describes a trained network."""
    return {key: getattr(source.config, key) for key in NetworkSettings.model_fields}


def with_new_head(source: StoredNetwork, data: ImageDataset, folder: str | Path) -> StoredNetwork:
    """The description of `source` fitted to other images and classes, for another folder.

    Genotype, size, stem and normalisation stay.
    """
    config = source.config.replace(
        input_shape=data.image_shape,
        num_classes=data.num_classes,
        stem=source.config.stem,
        classifier_activation=None,  # the loss takes logits
    )
    return StoredNetwork(
        Path(folder),
        source.genotype,
        config,
        data.class_names,
        Normalization.from_dict(source.normalization).to_dict(),
        data.describe(),
    )


def begun_with(
    source: StoredNetwork, target: StoredNetwork, *, drop_path: bool = False
) -> keras.Model:
    """The network of `target` with the weights of `source` and a freshly initialised head."""
    model = build_network(target.genotype, target.config, drop_path=drop_path)
    return load_weights(model, source.weights, without_top=True)


def finetune_recipe(
    entry: str | Path, values: Mapping[str, Any], overrides: Iterable[str] = ()
) -> Recipe:
    """The recipe of a fine-tuning, before its weights are pinned.

    Images get the size and the augmentation that the network was trained with, unless `values` or
    `overrides` say otherwise; `bnas_larq.settings.FINE_TUNING` is the section `train`.

    Args:
        entry: see `bnas_larq.zoo.registry.resolve`; a path becomes absolute.
        values: sections of the recipe, at least `data`.
        overrides: `a.b=value`.

    Raises:
        ZooError, RunError: there is no such network.
        RecipeError: an unknown key or an impossible value.
    """
    source = resolve(entry)
    height, width, _ = source.config.input_shape
    defaults = {
        "name": "finetune",
        "data": {
            "image_size": height if height == width else [height, width],
            "augmentation": _augmentation(source).model_dump(),
        },
        "network": network_settings(source),
        "train": FINE_TUNING,
        "finetune": {"entry": reference(entry)},
    }
    return override_recipe(merge_values(defaults, values), overrides)


def reference(entry: str | Path) -> str:
    """What a recipe calls `entry`, from any folder: a name as it is, a folder's absolute path.

    A folder of the entry's name that holds something else, such as an exported bundle, is not it.
    """
    found, path = resolve_entry(entry), Path(entry).resolve()
    return str(path if found is None or found.folder.resolve() == path else entry)


def _sum(source: StoredNetwork) -> str:
    if not source.weights.is_file():
        raise RunError(
            f"A fine-tuning begins with trained weights. Received: {source.folder} without "
            f"{source.weights.name}. Train it first: bnas-larq run --resume."
        )
    return sha256(source.weights)


def _augmentation(source: StoredNetwork) -> AugmentationSettings:
    """What the network was trained with, if its folder still says so."""
    path = source.folder / "recipe.yaml"
    if not path.is_file():
        return AugmentationSettings()
    try:
        return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8"))).data.augmentation
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecipeError):
        warnings.warn(
            f"{path} cannot be read as a recipe: images are not augmented as they were for "
            "these weights.",
            stacklevel=2,
        )
        return AugmentationSettings()
