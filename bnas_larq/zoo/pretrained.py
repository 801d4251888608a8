"""The stored network that a factory's `weights` names, and arguments that contradict it.

Cells, size, padding and images of a stored network are those it was trained with.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.data import Normalization
from bnas_larq.errors import WeightsError, ZooError
from bnas_larq.files import expand_home
from bnas_larq.layers.template import IMAGENET_STEM_FROM, resolve_stem
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.entry_format import ENTRY
from bnas_larq.zoo.registry import find_entry
from bnas_larq.zoo.variants import Variant, belongs


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A stored network that a factory or `preprocess_input` was asked for."""

    label: str  # in messages
    network: StoredNetwork
    entry: Entry | None = None  # None for a run's
    by_dataset: bool = False  # whether the user named only a data set, not this network

    @property
    def normalization(self) -> Normalization:
        """How its images are normalised."""
        return Normalization.from_dict(self.network.normalization)

    def load_model(self, **settings: Any) -> keras.Model:
        """Build it with `build_network`'s settings and load its weights, an entry's verified."""
        return (self.entry or self.network).load_model(**settings)


def _is_name(weights: str | os.PathLike) -> bool:
    """Whether `weights` is the name of a data set or entry, without separator and suffix. Files in
    the working directory make no difference, so that a line means the same everywhere."""
    return (
        isinstance(weights, str)
        and bool(weights)
        and Path(weights).suffix == ""
        and not (set(weights) & {"/", "\\", os.sep} or weights in (".", "..", "~"))
    )


def weight_file(weights: str | os.PathLike | None) -> Path | None:
    """The path if `weights` is that of a file, None for all else; WeightsError if nothing is there
    or it is neither name nor path."""
    if weights is None or _is_name(weights):
        return None
    text = isinstance(weights, str | os.PathLike) and os.fspath(weights)
    path = Path(expand_home(text)) if text else None
    if path is None or not path.exists():
        raise WeightsError(
            "Weights are None, a published data set's or entry's name, or an existing path. "
            f"Received: {weights!r}, where nothing is. Check the path."
        )
    return path if path.is_file() else None


def find(weights: str | os.PathLike, variant: str | None = None) -> Pretrained:
    """The stored network that `weights` names: a data set, an entry (of `variant`, unless None), or
    the folder of an entry or run.

    Raises:
        ZooError: it is not published, neither name nor path, or the entry is another
            variant's or damaged.
        RunError: the folder holds no network.
    """
    if not isinstance(weights, str | os.PathLike) or not os.fspath(weights):
        raise ZooError(
            "Weights are the name of a data set or entry, or the folder of an entry or run. "
            f"Received: {weights!r}. See `bnas-larq zoo list`."
        )
    if _is_name(weights):
        entry = find_entry(weights, variant)
    else:
        folder = Path(expand_home(weights))
        if not (folder / ENTRY).exists():
            network = StoredNetwork.load(folder)
            if variant is not None and network.genotype is None:
                raise ZooError(
                    "A factory builds networks of cells. "
                    f"Received: {network.config.size} in {folder}. "
                    "Load it with bnas_larq.Run.open(folder).network()."
                )
            return Pretrained(f"the network in {folder}", network)
        entry = Entry.load(folder)
        if not belongs(entry.variant, variant):
            raise ZooError(
                "A factory builds entries of its own variant. Received: the entry "
                f"{entry.summary()} for {variant}. Use that variant's factory, or load it with "
                "bnas_larq.zoo.Entry.load(folder).load_model()."
            )
    by_dataset = _is_name(weights) and entry.name != weights
    return Pretrained(f"the entry {entry.name!r}", entry.network, entry, by_dataset)


def _fixed(network: StoredNetwork) -> dict[str, Any]:
    """Arguments of the factories that a stored network fixes; the genotype as its id."""
    fixed = {key: getattr(network.config, key) for key in ("cells", "channels", "padding")}
    return {"genotype": network.genotype.id, **fixed}


def check_arguments(
    source: Pretrained,
    given: Mapping[str, Any],
    shape: tuple[int, ...] | None,
    num_classes: int | None,
    include_top: bool,
) -> None:
    """ZooError for the first argument that contradicts the stored network; None: not given.

    With the classifier shape and classes are fixed. Without it height and width are free, as long
    as they call for the same stem (see `IMAGENET_STEM_FROM`).
    """
    for key, own in _fixed(source.network).items():
        if given.get(key) not in (None, own):
            raise ZooError(
                "Trained weights fix the network they belong to. "
                f"Received: {key}={given[key]!r} for {source.label}, which has {key}={own!r}. "
                f"Omit {key}, or use weights=None."
            )
    config = source.network.config
    if shape is not None and shape != config.input_shape:
        _check_images(source, shape, include_top)
    if include_top and num_classes not in (None, config.num_classes):
        raise ZooError(
            "A trained classifier keeps its number of classes. Received: "
            f"num_classes={num_classes} for {source.label}, which has {config.num_classes}. "
            "Use include_top=False and your own head, or `bnas-larq finetune`."
        )


def _check_images(source: Pretrained, shape: tuple[int, ...], include_top: bool) -> None:
    """ZooError for another shape than the stored network's that it cannot take."""
    own, stem = source.network.config.input_shape, source.network.config.stem
    received = f"Received: input_shape={shape} for {source.label}, which takes {own}. "
    if include_top:
        raise ZooError(
            "With its classifier a trained network takes the images it was trained for. "
            f"{received}Resize the images, or use include_top=False."
        )
    if shape[2] != own[2]:
        raise ZooError(
            "Without its classifier a trained network takes images of other heights and widths, "
            f"not of other channels. {received}Convert the images."
        )
    if stem != resolve_stem("auto", shape):
        raise ZooError(
            f"Images from {IMAGENET_STEM_FROM} pixels on have the ImageNet stem, smaller ones the "
            f"CIFAR stem, and weights belong to one. {received}Resize the images."
        )


def warn_of_difference(
    source: Pretrained, variant: Variant, given: Mapping[str, Any], depth: int
) -> None:
    """Warn, `depth` calls up, if a data set's name led to another network than the paper's, unless
    the user named what differs."""
    if not source.by_dataset:
        return
    own, genotype = _fixed(source.network), variant.load_genotype()
    papers = {"genotype": genotype.id, "cells": variant.cells, "channels": variant.channels}
    if all(own[key] == papers[key] or given.get(key) is not None for key in papers):
        return
    name, accuracy = source.entry.name, source.entry.accuracy
    measured = "" if accuracy is None else f", test accuracy {accuracy:.2%}"
    warnings.warn(
        f"The weights found are those of {name!r}, which is not the paper's {variant.factory}: "
        f"{_size(own)} instead of {_size(papers)}{measured}. Give weights={name!r} to choose it "
        "without this warning, or weights=None for the paper's network without weights.",
        UserWarning,
        stacklevel=depth + 1,
    )


def _size(values: Mapping[str, Any]) -> str:
    return f"{values['cells']} cells of {values['channels']} channels ({values['genotype']})"
