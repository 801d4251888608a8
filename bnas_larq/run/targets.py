"""What `bnas-larq cost` counts: variants, genotypes, trained networks, Keras files, larq_zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError, nearest, one_line
from bnas_larq.genotype import PUBLISHED, Genotype

if TYPE_CHECKING:
    from bnas_larq.backend import keras
    from bnas_larq.costs.accounting import Costs
    from bnas_larq.networks.network import NetworkConfig


#: A genotype has no input size of its own; papers count at this one.
IMAGE, CLASSES = (224, 224, 3), 1000
#: What a run's or an entry's folder holds.
_OF_NETWORKS = ("network.json", "entry.json", "recipe.yaml")


@dataclass(frozen=True)
class Size:
    """What the command line says of a network's size; None: the target's own."""

    input_size: tuple[int, int] | None = None
    num_classes: int | None = None
    cells: int | None = None
    channels: int | None = None
    stem_groups: int | None = None

    def settings(self, own_shape: tuple[int, ...]) -> dict[str, Any]:
        """As settings of a network whose own input shape is `own_shape`."""
        values = {
            "input_shape": self.input_size and (*self.input_size, own_shape[-1]),
            "num_classes": self.num_classes,
            "cells": self.cells,
            "channels": self.channels,
            "stem_groups": self.stem_groups,
        }
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Counted:
    """A target's costs, and what they were counted at."""

    target: str
    input_shape: tuple[int, ...]
    costs: Costs
    size: str = ""


@dataclass(frozen=True)
class CellTarget:
    """A network made of cells; `config` gives its size, and takes another."""

    name: str
    genotype: Genotype
    config: Callable[..., NetworkConfig]
    own_cells: int | None = None
    own_shape: tuple[int, ...] = IMAGE

    def count(self, size: Size) -> Counted:
        """Its costs.

        Raises:
            BnasLarqError: it has no size, or an impossible one.
        """
        if self.own_cells is None and None in (size.cells, size.channels):
            raise BnasLarqError(
                "A genotype has no size of its own. "
                f"Received: {self.name} without --cells or without --channels. "
                "Give both, or --budget to find them."
            )
        from bnas_larq.costs.cost_walk import planned_costs

        config = self.config(**size.settings(self.own_shape))
        text = f"{config.cells} cells, {config.channels} channels, {config.num_classes} classes"
        costs = planned_costs(self.genotype, config)
        return Counted(self.name, config.input_shape, costs, text)


@dataclass(frozen=True)
class ModelTarget:
    """A Keras model of any kind; `build(shape, classes)` makes it, None standing for its own."""

    name: str
    build: Callable[[tuple[int, int] | None, int | None], keras.Model]

    def count(self, size: Size) -> Counted:
        """Its costs.

        Raises:
            BnasLarqError: it is given cells or channels, or its graph cannot be followed.
        """
        if not size.cells == size.channels == size.stem_groups is None:
            raise BnasLarqError(
                "Only networks made of cells have cells and channels. "
                f"Received: --cells, --channels or --stem-groups with {self.name}. "
                "Leave them out."
            )
        from bnas_larq.costs.accounting import count_costs

        model = self.build(size.input_size, size.num_classes)
        shape = tuple(model.input_shape[1:])
        if size.input_size:
            shape = (*size.input_size, *shape[2:])
        return Counted(self.name, shape, count_costs(model, shape))


def open_target(text: str) -> CellTarget | ModelTarget:
    """What a user means by a TARGET of `bnas-larq cost`.

    Raises:
        BnasLarqError: nothing is called so, or it is damaged.
    """
    from bnas_larq.networks.saved_models import SUFFIXES

    path = Path(text)
    if text.startswith(PREFIX):
        return ModelTarget(text, lambda shape, classes: _reference(text, shape, classes))
    if path.suffix in SUFFIXES:
        return ModelTarget(text, lambda shape, classes: _saved(path, classes))
    if text in PUBLISHED or text.startswith("random:") or path.is_file():
        return _of_genotype(text, Genotype.load(text))

    from bnas_larq.zoo.variants import VARIANTS

    if text.lower() in VARIANTS:
        variant = VARIANTS[text.lower()]
        genotype, shape = variant.load_genotype(), variant.input_shape
        return CellTarget(variant.name, genotype, variant.config, variant.cells, shape)

    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.zoo.registry import list_entries, resolve_entry

    names = [entry.name for entry in list_entries()]
    if not any((path / file).exists() for file in _OF_NETWORKS) and text not in names:
        known = [*VARIANTS, *PUBLISHED, *names]
        raise BnasLarqError(
            "Costs are counted of a variant, a genotype (a published name, random:SEED or a file), "
            "a run's folder, a zoo entry, a Keras file (.h5, .keras) or larq_zoo:NAME. "
            f"Received: {text!r}; {nearest(text, known)}"
        )
    entry = resolve_entry(text)
    network = StoredNetwork.load(path) if entry is None else entry.network
    config = network.config
    return CellTarget(text, network.genotype, config.replace, config.cells, config.input_shape)


def _of_genotype(name: str, genotype: Genotype) -> CellTarget:
    def config(**settings: Any) -> NetworkConfig:
        from bnas_larq.networks.network import NetworkConfig

        return NetworkConfig(**{"input_shape": IMAGE, "num_classes": CLASSES, **settings})

    return CellTarget(name, genotype, config)


def _reference(name: str, shape: tuple[int, int] | None, classes: int | None) -> keras.Model:
    return reference_model(name, (*shape, 3) if shape else IMAGE, classes or CLASSES)


def _saved(path: Path, classes: int | None) -> keras.Model:
    if classes is not None:
        raise BnasLarqError(
            "A saved model has the classes it was saved with. "
            f"Received: --classes {classes} with {path}. Leave it out."
        )
    from bnas_larq.networks.saved_models import load_saved_model

    return load_saved_model(path)


PREFIX = "larq_zoo:"


def _factories() -> dict[str, Callable[..., keras.Model]]:
    import larq_zoo

    return {
        name: getattr(module, name)
        for module in (larq_zoo.literature, larq_zoo.sota)
        for name in dir(module)
        if name[0].isupper()
    }


def reference_names() -> list[str]:
    """Names of the networks, such as `QuickNet`."""
    return sorted(_factories())


def reference_model(
    name: str, input_shape: Sequence[int] = (224, 224, 3), num_classes: int = 1000
) -> keras.Model:
    """Build a network of larq_zoo with random weights.

    Args:
        name: as in larq_zoo, with or without `larq_zoo:` in front; capitals do not matter.
        input_shape: (height, width, channels).
        num_classes: outputs of its classifier.

    Raises:
        BnasLarqError: no such network, or it cannot have this size.
    """
    factories = _factories()
    wanted = name.removeprefix(PREFIX)
    match = {known.lower(): known for known in factories}.get(wanted.lower())
    if match is None:
        raise BnasLarqError(
            "A network of larq_zoo is called by its factory's name. "
            f"Received: {wanted!r}; {nearest(wanted, factories)}"
        )
    try:
        return factories[match](
            input_shape=tuple(input_shape), num_classes=num_classes, weights=None
        )
    except ValueError as error:
        raise BnasLarqError(
            f"{match} must be able to have the size that is asked for. "
            f"Received: input_shape={tuple(input_shape)}, num_classes={num_classes} "
            f"({one_line(error)[:120]}). Give a larger input."
        ) from error
