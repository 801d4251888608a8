"""Model cards: the shipped ones are made again from their entries' own files, letter by letter."""

from __future__ import annotations

import csv
import dataclasses
from types import SimpleNamespace

import pytest

from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.resources import zoo_dir
from bnas_larq.zoo.entries import Entry
from bnas_larq.zoo.model_card import difference, model_card, unusual
from bnas_larq.zoo.published_run import Origin
from bnas_larq.zoo.registry import find_entry
from bnas_larq.zoo.variants import variant

SHIPPED = sorted(path.parent for path in zoo_dir().glob("*/entry.json"))


def run_of(entry: Entry) -> SimpleNamespace:
    """What publishing knew of the entry's run, as far as its files still tell."""
    with open(entry.folder / "training.csv", newline="") as stream:
        rows = [
            {key: value if key == "stage" else float(value) for key, value in row.items() if value}
            for row in csv.DictReader(stream)
        ]
    recorded = entry.provenance
    facts = {stage: {"seconds": seconds} for stage, seconds in recorded["seconds"].items()}
    facts["search"]["searched"] = recorded["searched"]
    # The one fact that only the run's state.json tells.
    facts["search"]["epoch"] = entry.card.partition("The cell is that of epoch ")[2].split(".")[0]
    return SimpleNamespace(
        network=entry.network,
        recipe=load_recipe(entry.folder / "recipe.yaml"),
        facts=facts,
        environment=recorded["environment"],
        epochs=rows,
        began_with=[Origin(**origin) for origin in recorded["began_with"]],
    )


def card_of(entry: Entry, run: SimpleNamespace) -> str:
    """The card of an entry as publishing makes it."""
    facts = {key: getattr(entry, key) for key in ("variant", "dataset", "license", "description")}
    facts |= {"metrics": entry.metrics, "cost": entry.cost, "deployed": entry.deployed}
    facts["redistributable"] = entry.redistributable
    return model_card(entry.name, facts, run, entry.provenance["notes"])


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_shipped_cards_are_made_again(folder):
    entry = Entry.load(folder)
    assert card_of(entry, run_of(entry)) == entry.card


def test_a_stages_own_augmentation_is_told():
    entry = find_entry("bnasd-digits-small")
    run = run_of(entry)
    stages = [{"name": "a", "augmentation": {"flip": True}}, {"name": "b", "augmentation": {}}]
    values = {**run.recipe.model_dump(), "data": {"augmentation": {"cutout": 2}}}
    run.recipe = parse_recipe({**values, "train": {"stages": [*stages, {"name": "c"}]}})
    card = card_of(entry, run)
    assert "- Augmentation: cutout 2, but for stages with their own.\n" in card
    lines = [line for line in card.splitlines() if line.startswith("- Training (stage")]
    own = [line.partition("label smoothing 0")[2] for line in lines]
    assert own[:2] == [", its own augmentation (flip True).", ", its own augmentation (none)."]
    assert len(own) == 3 and "augmentation" not in own[2]


def test_a_network_of_the_papers_size_with_another_stem(small_network):
    def text(**size):
        config = NetworkConfig(cells=12, channels=64, **size)
        genotype = Genotype.published("bnas_imagenet")
        network = dataclasses.replace(small_network, genotype=genotype, config=config)
        return difference(variant("bnas-d"), network)

    assert "but not its stem, which is made for 224×224×3: their results" in text()
    assert "papers' BNASD" not in text(input_shape=(224, 224, 3))


def test_an_unusual_template_is_told():
    assert unusual(NetworkConfig(cells=3, channels=8)) == ""
    config = NetworkConfig(padding="symmetric", shortcut=False, full_precision=("cell1*",))
    assert unusual(config) == "; padding symmetric, shortcut none, full_precision ('cell1*',)"
