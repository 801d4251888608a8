"""The networks that targets name, at the size a user asks for, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import BnasLarqError, RecipeError, nearest, one_line
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.run.targets import LARQ_ZOO, OF_CELLS, Kind, Target
from bnas_larq.zoo.literature import LITERATURE
from bnas_larq.zoo.variants import VARIANTS

if TYPE_CHECKING:
    from bnas_larq.backend import keras
    from bnas_larq.costs.accounting import Costs
    from bnas_larq.networks.base_config import BaseConfig
    from bnas_larq.networks.network import NetworkConfig
    from bnas_larq.train_settings import TrainStage

#: A genotype has no input size and no classes of its own; papers count at these.
IMAGE, CLASSES = (224, 224, 3), 1000
#: Counted from their configuration.
SIZED = (*OF_CELLS, Kind.LITERATURE)


@dataclass(frozen=True)
class SizedNetwork:
    """A network that can have other sizes.

    Attributes:
        name: of the target.
        genotype: its cells; None for a network without.
        own: its own size; None for a genotype, which has none.
        replace: makes a configuration of its own size with other settings.
    """

    name: str
    genotype: Genotype | None
    own: BaseConfig | None
    replace: Callable[..., BaseConfig]

    def config(self, *, input_size: tuple[int, int] | None = None, **settings: Any) -> BaseConfig:
        """Its configuration with other settings; None leaves its own."""
        if input_size is not None:
            image_channels = self.own.input_shape[-1] if self.own else IMAGE[-1]
            settings["input_shape"] = (*input_size, image_channels)
        return self.replace(**{key: value for key, value in settings.items() if value is not None})


def cell_network(target: Target) -> SizedNetwork:
    """The network of a target of one of the kinds `OF_CELLS`; BnasLarqError if it is damaged, or
    not made of cells."""
    network = sized_network(target)
    if network.genotype is None:
        raise BnasLarqError(
            "Only networks made of cells have cells and channels. "
            f"Received: {target.text}, {network.own.size}."
        )
    return network


def sized_network(target: Target) -> SizedNetwork:
    """The network of a target of one of the kinds `SIZED`; BnasLarqError if it is damaged."""
    if target.kind is Kind.GENOTYPE:
        return SizedNetwork(target.text, Genotype.load(target.text), None, _of_genotype)
    if target.kind is Kind.VARIANT:
        variant = VARIANTS[target.text.lower()]
        return SizedNetwork(variant.name, variant.load_genotype(), variant.config(), variant.config)
    if target.kind is Kind.LITERATURE:
        network = LITERATURE[target.text.lower()]
        return SizedNetwork(network.name, network.load_genotype(), network.config(), network.config)
    stored = target.network()
    return SizedNetwork(target.text, stored.genotype, stored.config, stored.config.replace)


def recipe_network(source: str) -> tuple[SizedNetwork, TrainStage, tuple[int | None, int | None]]:
    """The network that a recipe trains, how its last stage trains it, and its cells and channels,
    None for a residual network. RecipeError if its genotype is still to be searched."""
    from bnas_larq.networks.network import config_of_kind

    recipe = load_recipe(source)
    own = recipe.network
    of_cells = own.kind == "cells"
    if of_cells and not recipe.genotype:
        raise RecipeError(
            "A recipe that searches has no network before its search. "
            f"Received: {source}. Give the folder of its run, or a recipe with a genotype."
        )

    def replace(**settings: Any) -> BaseConfig:
        return config_of_kind(own.kind, {**own.model_dump(), **settings})

    genotype = Genotype.load(recipe.genotype) if of_cells else None
    size = (own.cells, own.channels) if of_cells else (None, None)
    return SizedNetwork(recipe.name, genotype, None, replace), recipe.plan[-1], size


def _of_genotype(**settings: Any) -> NetworkConfig:
    from bnas_larq.networks.network import NetworkConfig

    return NetworkConfig(**{"input_shape": IMAGE, "num_classes": CLASSES, **settings})


@dataclass(frozen=True)
class TargetCosts:
    """What a target costs for one image, or one of each of `input_shapes`; `size` tells its cells
    and channels."""

    target: str
    input_shapes: tuple[tuple[int | None, ...], ...]
    costs: Costs
    size: str = ""


def target_costs(target: Target, **size: Any) -> TargetCosts:
    """Count what a target of any kind costs.

    Args:
        size: `input_size` (height, width), `num_classes` and, of a network made of cells, `cells`,
            `channels`, `stem_groups`, `groups` and `shortcut`. None leaves its own.

    Raises:
        BnasLarqError: a genotype without cells and channels, an impossible size, cells and channels
            of a network without, or a Keras model with a graph that cannot be followed.
    """
    given = {key: value for key, value in size.items() if value is not None}
    network = sized_network(target) if target.kind in SIZED else None
    of_cells = network is not None and network.genotype is not None
    if not of_cells and {"cells", "channels", "stem_groups", "groups", "shortcut"} & set(given):
        raise BnasLarqError(
            "Only networks made of cells have cells and channels. "
            "Received: --cells, --channels, --stem-groups, --groups or --shortcut with "
            f"{target.text}. Omit them."
        )
    if network is not None:
        from bnas_larq.costs.cost_walk import planned_costs

        if network.own is None and not {"cells", "channels"} <= set(given):
            raise BnasLarqError(
                "A genotype has no size of its own. "
                f"Received: {target.text} without --cells or without --channels. "
                "Give both, or --budget to find them."
            )
        config = network.config(**given)
        text = f"{config.size}, {config.num_classes} classes"
        costs = planned_costs(network.genotype, config)
        return TargetCosts(network.name, (config.input_shape,), costs, text)
    from bnas_larq.costs.accounting import count_costs

    model = _keras_model(target, **given)
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in model.inputs)
    if "input_size" not in given:
        return TargetCosts(target.text, shapes, count_costs(model))
    shape = (*given["input_size"], *shapes[0][2:])
    return TargetCosts(target.text, (shape,), count_costs(model, shape))


def _keras_model(
    target: Target, input_size: tuple[int, int] = IMAGE[:2], num_classes: int | None = None
) -> keras.Model:
    if target.kind is Kind.LARQ_ZOO:
        return reference_model(target.text, (*input_size, 3), num_classes or CLASSES)
    if num_classes is not None:
        raise BnasLarqError(
            "A saved model has the classes it was saved with. "
            f"Received: --classes {num_classes} with {target.text}. Omit it."
        )
    from bnas_larq.networks.saved_models import load_saved_model

    return load_saved_model(target.path)


def reference_model(
    name: str, input_shape: Sequence[int] = IMAGE, num_classes: int = CLASSES
) -> keras.Model:
    """Build a network of larq_zoo with random weights.

    Args:
        name: as in larq_zoo, in any case, with or without `larq_zoo:` in front.
        input_shape: (height, width, channels).
        num_classes: outputs of its classifier.

    Raises:
        BnasLarqError: no such network, or it cannot have this size.
    """
    import larq_zoo

    factories = {
        factory: getattr(module, factory)
        for module in (larq_zoo.literature, larq_zoo.sota)
        for factory in dir(module)
        if factory[0].isupper()
    }
    wanted = name.removeprefix(LARQ_ZOO)
    known = next((factory for factory in factories if factory.lower() == wanted.lower()), None)
    if known is None:
        raise BnasLarqError(
            f"larq_zoo has no such network. Received: {wanted!r}; {nearest(wanted, factories)}"
        )
    shape = tuple(input_shape)
    try:
        return factories[known](input_shape=shape, num_classes=num_classes, weights=None)
    except ValueError as error:
        raise BnasLarqError(
            f"{known} cannot have every size. "
            f"Received: input_shape={shape}, num_classes={num_classes} "
            f"({one_line(error)[:120]}). Give a larger input."
        ) from error


def sizes_in_budget(
    target: Target,
    budget: str | float,
    *,
    convention: str,
    cells: Sequence[int] | None,
    size: Mapping[str, Any],
    **choices: Any,
) -> dict[str, Any]:
    """The sizes of a network made of cells that come nearest to a budget.

    Args:
        target: of one of the kinds `OF_CELLS`.
        cells: numbers of cells to try; None: the network's own, or many.
        size: as of `target_costs`, without `cells` and `channels`.
        choices: `channels` and `multiple` of `solve_budget`.

    Returns:
        `target`, `budget`, `convention`, `settings` (those that all sizes share) and `candidates`.
    """
    from bnas_larq.costs.budget_solver import parse_budget, solve_budget

    limit, network = parse_budget(budget), cell_network(target)
    # Any channels do to learn the other settings, if the groups divide them.
    groups = [network.own.groups, network.own.stem_groups] if network.own else []
    groups += [size[key] for key in ("stem_groups", "groups") if size.get(key)]
    settings = network.config(channels=2 * math.lcm(*groups), **size).to_dict()
    del settings["cells"], settings["channels"]
    return {
        "target": network.name,
        "budget": limit,
        "convention": convention,
        "settings": settings,
        "candidates": solve_budget(
            network.genotype,
            limit,
            convention=convention,
            cells=cells or (network.own and network.own.cells),
            **choices,
            **settings,
        ),
    }
