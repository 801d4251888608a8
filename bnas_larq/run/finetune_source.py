"""The network that a fine-tuning starts from: its weights, genotype, size and normalisation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bnas_larq.data import ImageDataset, Normalization
from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.errors import RecipeError, RunError, WeightsError
from bnas_larq.files import sha256
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import Recipe, merge_values, override_recipe, parse_recipe
from bnas_larq.run.targets import find_source
from bnas_larq.run_folder import RunFolder
from bnas_larq.settings import NetworkSettings
from bnas_larq.text_files import read_yaml
from bnas_larq.train_settings import FINE_TUNING, FineTuneSettings


def pin_weights(settings: FineTuneSettings) -> FineTuneSettings:
    """The settings with the SHA-256 of the weights that `entry` has now, unless they name one."""
    if settings.sha256 is not None:
        return settings
    source = find_source(settings.entry).trained_network()
    return settings.model_copy(update={"sha256": _weights_sha256(source)})


def load_source(recipe: Recipe) -> StoredNetwork:
    """The network that a fine-tuning starts from, checked against its recipe.

    Raises:
        ZooError, RunError: there is no such network.
        WeightsError: its weights are not those that the recipe names.
        RecipeError: the recipe asks for another genotype or size.
    """
    settings = recipe.finetune
    source = find_source(settings.entry).trained_network()
    digest = _weights_sha256(source)
    if settings.sha256 not in (None, digest):
        raise WeightsError(
            "A fine-tuning starts and resumes from the weights its recipe names. "
            f"Received: {source.weights} of SHA-256 {digest[:12]}…, not {settings.sha256[:12]}…. "
            "Restore that file, or start a new run."
        )
    if recipe.genotype is not None:
        raise RecipeError(
            "A fine-tuned network keeps its genotype. Received: genotype "
            f"{recipe.genotype!r} and finetune.entry {settings.entry!r}. Omit one of them."
        )
    own = network_settings(source)
    for key, value in own.items():
        if getattr(recipe.network, key) != value:
            raise RecipeError(
                f"A fine-tuned network keeps its size. Received: network.{key} "
                f"{getattr(recipe.network, key)!r}; in {settings.entry} it is {value!r}. "
                "Omit it with `bnas-larq finetune`, or train a new network."
            )
    return source


def check_out(recipe: Recipe, out: str | Path) -> None:
    """Raise RunError if the run would replace a network it starts or learns from, or lie among its
    images."""
    out = Path(out).resolve()
    starts = {stage.start for stage in recipe.plan if stage.starts_elsewhere}
    teachers = {stage.teacher.model for stage in recipe.plan if stage.learns_elsewhere}
    for text in starts | teachers:
        source = Path(text).resolve()
        if source.exists() and out in (source, *source.parents):
            raise RunError(
                "A run does not overwrite the network it starts from, nor a teacher. "
                f"Received: {source} and {out}. Choose another --out."
            )
    if recipe.data.name == "folder":
        RunFolder.check_outside(out, recipe.data.data_dir)


def network_settings(source: StoredNetwork) -> dict[str, Any]:
    """The section `network` of a recipe that describes a trained network."""
    config = source.config
    own = [key for key in NetworkSettings.model_fields if key in config.settings()]
    return {"kind": config.kind, **{key: getattr(config, key) for key in own}}


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


def finetune_recipe(
    entry: str | Path, values: Mapping[str, Any], overrides: Iterable[str] = ()
) -> Recipe:
    """The recipe of a fine-tuning, before its weights are pinned.

    Images get the size, the evaluation and the augmentation that the network was trained with,
    unless `values` or `overrides` say otherwise; the section `train` is
    `bnas_larq.train_settings.FINE_TUNING`.

    Args:
        entry: name or folder of a zoo entry, or a run's folder; paths become absolute.
        values: sections of the recipe, at least `data`.
        overrides: `a.b=value`.

    Raises:
        ZooError, RunError: there is no such network.
        RecipeError: an unknown key or an impossible value.
    """
    target = find_source(entry)
    source = target.trained_network()
    height, width, _ = source.config.input_shape
    defaults = {
        "name": "finetune",
        "data": {
            "image_size": height if height == width else [height, width],
            **source.geometry.describe(),
            "augmentation": _augmentation(source).model_dump(),
        },
        "network": network_settings(source),
        "train": FINE_TUNING,
        "finetune": {"entry": target.reference},
    }
    return override_recipe(merge_values(defaults, values), overrides)


def _weights_sha256(source: StoredNetwork) -> str:
    if not source.weights.is_file():
        raise RunError(
            f"A fine-tuning starts from trained weights. Received: {source.folder} without "
            f"{source.weights.name}. Train it first: bnas-larq run --resume."
        )
    return sha256(source.weights)


def _augmentation(source: StoredNetwork) -> AugmentationSettings:
    """What the network was trained with, if its folder still says so."""
    path = source.folder / "recipe.yaml"
    if not path.is_file():
        return AugmentationSettings()
    try:
        return parse_recipe(read_yaml(path)).data.augmentation
    except (OSError, ValueError, RecipeError):
        warnings.warn(
            f"{path} cannot be read as a recipe: images are not augmented as in the training of "
            "these weights.",
            stacklevel=2,
        )
        return AugmentationSettings()
