"""The deploy bundle of a network, and the card in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnas_larq.costs.accounting import count_costs
from bnas_larq.export.bundle import Preprocessing, deployment_card, output_kind, write_bundle
from bnas_larq.export.converter import image_shape
from bnas_larq.recipe import Recipe
from bnas_larq.run.deployable import Deployable
from bnas_larq.zoo.published_run import origins


def bundle_network(
    folder: Path, network: Deployable, tflite: bytes, report: Mapping[str, Any], overwrite: bool
) -> None:
    """Write a bundle, see `bnas_larq.export.bundle.write_bundle`; ExportError for missing facts."""
    network.check_described()
    height, width, _ = image_shape(network.model)
    facts = {"output": output_kind(network.model)}
    if stored := network.stored:
        facts |= stored.geometry.describe()
    write_bundle(
        folder,
        tflite,
        labels=network.class_names,
        preprocessing=Preprocessing(height, width, network.mean, network.std, **facts),
        card=network.entry.card if network.entry else card_of(network),
        report=report,
        overwrite=overwrite,
    )


def card_of(network: Deployable) -> str:
    """The card of a network that has none of its own."""
    facts, recipe = {}, network.recipe
    if stored := network.stored:
        data, config = stored.data, stored.config
        facts["Genotype"] = stored.genotype_id
        facts["Size"] = config.size
        facts["Data"] = data.get("name")
        if recipe is not None:
            if facts["Data"] == "folder" and recipe.data.data_dir:
                facts["Data"] = f"images of the folder {Path(recipe.data.data_dir).name}"
            images = (data.get("sizes") or {}).get("train", "?")
            seed = f"recipe {recipe.name}, seed {recipe.seed}"
            facts["Training"] = f"{_epochs(recipe)} of {images} images, {seed}"
            facts["Starting point"] = ", ".join(origin.name for origin in origins(recipe))
    return deployment_card(
        recipe.name if recipe else network.name,
        costs=count_costs(network.model),
        input_shape=tuple(network.model.inputs[0].shape[1:]),
        classes=len(network.class_names),
        test=network.test,
        facts=facts,
        terms=network.restriction,
    )


def _epochs(recipe: Recipe) -> str:
    """`10 epochs`, or `3 epochs of a new head and 10 of the whole network`."""
    tuning = recipe.finetune
    if tuning is None:
        return " and ".join(f"{stage.epochs} epochs" for stage in recipe.plan)
    epochs = recipe.train.epochs
    return f"{tuning.head_epochs} epochs of a new head and {epochs} of the whole network"
