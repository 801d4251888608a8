"""Imported checkpoints as entries of the user's own zoo, where the factories find them.

No accuracy is claimed: these weights were not measured with this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.costs.accounting import count_costs
from bnas_larq.data import Normalization
from bnas_larq.data.geometry import CENTER_CROP
from bnas_larq.errors import WeightsError, ZooError
from bnas_larq.files import sha256, write_atomic
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.networks.network_files import WEIGHTS, StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.pages import render
from bnas_larq.resources import user_zoo
from bnas_larq.text_files import read_text
from bnas_larq.zoo.checkpoint_import import Imported, read_import
from bnas_larq.zoo.entries import CARD, Entry, check_target, store_entry
from bnas_larq.zoo.preprocessing import IMAGENET
from bnas_larq.zoo.registry import check_not_a_dataset
from bnas_larq.zoo.variants import VARIANTS, Variant
from bnas_larq.zoo.variants import variant as named_variant

#: In place of a variant's name: any size, as the tensors' shapes tell.
AUTO = "auto"
LICENSE = (
    "The weights are their authors'. Whoever has them from the authors may use them; "
    "they may not be redistributed."
)
#: Means and deviations of CIFAR-10's training images, rounded.
CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())


def import_entry(
    path: str | Path,
    variant: str = AUTO,
    genotype: str | Path | None = None,
    full_precision: str = "all-binary",
    *,
    dataset: str | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_shape: Sequence[int] | None = None,
    overwrite: bool = False,
) -> Entry:
    """Import a checkpoint of the authors' program into a zoo.

    Args:
        path, full_precision, input_shape: see `bnas_larq.zoo.import_checkpoint`.
        variant: a variant's name such as "bnas-d", whose size the checkpoint must have; or "auto"
            for any size, with `genotype`.
        genotype: the cells it was trained with; default the variant's.
        dataset: what it was trained on; default "imagenet" with the ImageNet stem, "cifar10" for
            ten classes with the CIFAR stem.
        name: the entry's; default VARIANT-DATASET-imported.
        out: folder of entries; default the user's zoo.
        labels: text file with one class name a line; default CIFAR-10's names, or numbers.
        mean, std: of the training images, scaled to [0, 1]; default CIFAR-10's with the CIFAR stem,
            otherwise ImageNet's.
        overwrite: replace an earlier entry of that name.

    Raises:
        WeightsError: the checkpoint cannot be read, or has another genotype or size.
        ZooError: no such variant, the name is taken, or data set or genotype must be named.
        BnasLarqError: labels or normalisation do not fit.

    Example:
        >>> import_entry("theirs.pth.tar", "bnas-d")
        Traceback (most recent call last):
            ...
        bnas_larq.errors.WeightsError: A checkpoint must be a file. Received: theirs.pth.tar...
    """
    expected = None if variant == AUTO else named_variant(variant)
    if expected is None and genotype is None:
        raise ZooError(
            "A checkpoint does not tell its genotype. Received: the variant 'auto' alone. Give the "
            "genotype (--genotype bnas_imagenet) or the variant it was trained as."
        )
    imported = read_import(
        path, genotype or expected.genotype, full_precision, input_shape=input_shape
    )
    if expected is not None:
        _check_variant(path, imported, expected)
    config = imported.config
    family = expected or _family(imported)
    dataset = dataset or _dataset(config)
    base = family.name if family else imported.genotype.id
    name = name or f"{base}-{dataset.replace('_', '-')}-imported"
    check_not_a_dataset(name, dataset)
    zoo = Path(out) if out else user_zoo()
    check_target(zoo, name, overwrite=overwrite)
    class_names = _class_names(config, dataset, labels)
    usual = CIFAR10 if config.stem == "cifar" else IMAGENET
    normalization = Normalization(
        usual.mean if mean is None else mean, usual.std if std is None else std
    )

    def fill(folder: Path) -> Mapping[str, Any]:
        model = imported.load_model()
        data = {"evaluation": CENTER_CROP} if config.stem == "imagenet" else {}
        described = (imported.genotype, config, class_names, normalization.to_dict(), data)
        StoredNetwork(folder, *described).save()
        save_weights(model, folder / WEIGHTS)
        cost = {k: v for k, v in count_costs(model).to_dict().items() if k != "layers"}
        file = Path(path)
        provenance = {
            "checkpoint": {"name": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)},
            "full_precision": full_precision,
            "padding": config.padding,
            "notes": list(imported.notes),
        }
        card = render(
            "imported_card.md",
            name=name,
            license=LICENSE,
            dataset=dataset,
            config=config,
            genotype=imported.genotype,
            cost=cost,
            checkpoint=provenance["checkpoint"],
            notes=imported.notes,
            plain=plain,
        )
        write_atomic(folder / CARD, card)
        return {
            "variant": family.name if family else None,
            "dataset": dataset,
            "source": "imported",
            "redistributable": False,
            "license": LICENSE,
            "description": f"Imported from {plain(file.name)}; accuracy not measured.",
            "cost": cost,
            "provenance": provenance,
        }

    return store_entry(zoo, name, fill, overwrite=overwrite)


def _check_variant(path: str | Path, imported: Imported, expected: Variant) -> None:
    """WeightsError unless genotype and size are the variant's; it names all that differs."""
    config = imported.config
    pairs = {
        "genotype": (imported.genotype.id, expected.load_genotype().id),
        "cells": (config.cells, expected.cells),
        "channels": (config.channels, expected.channels),
        "stem_groups": (config.stem_groups, expected.config(stem=config.stem).stem_groups),
        "shortcut": (config.shortcut, expected.shortcut),
    }
    differing = [(key, own, wanted) for key, (own, wanted) in pairs.items() if own != wanted]
    if differing:
        received = ", ".join(f"{key} {own}" for key, own, _ in differing)
        wanted = ", ".join(f"{key} {wanted}" for key, _, wanted in differing)
        raise WeightsError(
            f"A checkpoint of {expected.name} must have its genotype and size ({wanted}). "
            f"Received: {path} with {received}. "
            f"Use --variant auto --genotype {imported.genotype.name or imported.genotype.id}."
        )


def _family(imported: Imported) -> Variant | None:
    """The variant of this genotype and size, else the first of this genotype and stem."""
    config = imported.config
    same = [v for v in VARIANTS.values() if v.load_genotype().id == imported.genotype.id]
    same = [v for v in same if v.shortcut == config.shortcut]
    if config.stem == "imagenet":
        same = [v for v in same if v.stem_groups == config.stem_groups] or same
    exact = [v for v in same if (v.cells, v.channels) == (config.cells, config.channels)]
    return next(iter(exact or same), None)


def _dataset(config: NetworkConfig) -> str:
    if config.stem == "imagenet":
        return "imagenet"
    if config.num_classes == len(CIFAR10_CLASSES):
        return "cifar10"
    raise ZooError(
        "An entry must name the data set that its network was trained on. Received: "
        f"{config.num_classes} classes and the CIFAR stem, which fit no known one. "
        "Give --dataset, such as cifar100."
    )


def _class_names(config: NetworkConfig, dataset: str, labels: str | Path | None) -> tuple[str, ...]:
    if labels is None:
        if dataset == "cifar10" and config.num_classes == len(CIFAR10_CLASSES):
            return CIFAR10_CLASSES
        return tuple(f"class {number}" for number in range(config.num_classes))
    rule = f"Labels are a text file with one name a line, here {config.num_classes}. "
    try:
        lines = read_text(labels).splitlines()
    except (OSError, ValueError) as error:
        received = f"{labels} ({type(error).__name__})"
        raise ZooError(f"{rule}Received: {received}. Check the path.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != config.num_classes or not all(map(str.isprintable, names)):
        raise ZooError(f"{rule}Received: {labels} with {len(names)}. Correct the file.")
    return names


def plain(text: str) -> str:
    """Foreign text for a line of a card: no control characters, no Markdown."""
    return "".join(c if c.isalnum() or c in " ._-" else "_" for c in text)
