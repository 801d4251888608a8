"""What the card in a deploy bundle tells of a run's network."""

from __future__ import annotations

import dataclasses

from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.deploy_bundle import card_of
from bnas_larq.run.deployable import Deployable


def test_a_card_names_the_networks_that_stages_start_from(tmp_path):
    config = ResidualConfig(input_shape=(8, 8, 3), widths=(4,), blocks=(1,), num_classes=2)
    stored = StoredNetwork(tmp_path, None, config, ("a", "b"), {}, {"name": "toys"})
    stages = [{"start": "bnasd-digits-small"}, {"start": str(tmp_path / "gone")}]
    recipe = parse_recipe({"name": "toy", "train": {"stages": stages}})
    facts = {"stored": stored, "recipe": recipe}
    network = Deployable("toy", build_network(None, config), ("a", "b"), None, None, **facts)
    assert "Starting point: bnasd-digits-small, gone" in card_of(network).replace("*", "")
    plain = dataclasses.replace(network, recipe=parse_recipe({"name": "toy"}))
    assert "Starting point" not in card_of(plain)
