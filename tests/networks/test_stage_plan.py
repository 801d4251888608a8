"""Which cells reduce: thirds by default, or those that a network's settings name."""

from __future__ import annotations

import pytest

from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.budget_solver import solve_budget
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.template import plan_cells
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.recipe import load_recipe, parse_recipe

#: A pool and a binary convolution of both inputs.
CELL = [[("max_pool_3x3", 0), ("bin_conv_3x3", 1)]]
SMALL = {"input_shape": (16, 16, 3), "num_classes": 3, "channels": 2}


@pytest.mark.parametrize(
    ("reductions", "filters"),
    [
        (None, [2, 4, 8, 8]),  # 4 // 3 and 2·4 // 3
        ((), [2, 2, 2, 2]),
        ((3,), [2, 2, 2, 4]),
        ((0, 2), [4, 4, 8, 8]),
        ((0, 1, 2, 3), [4, 8, 16, 32]),
    ],
)
def test_channels_double_where_the_resolution_halves(reductions, filters):
    plans = plan_cells(4, 2, "cifar", reductions)
    assert [plan.filters for plan in plans] == filters
    assert [plan.after_reduction for plan in plans] == [
        False,
        *(plan.reduction for plan in plans[:-1]),
    ]


@pytest.mark.parametrize("shortcut", ["conv", "pool"])
@pytest.mark.parametrize(
    ("stem", "size", "reductions", "output"),
    [
        ("cifar", 16, (0, 1, 3), (2, 2, 16)),  # 16 / 2³, 2·2³
        ("imagenet", 32, (1, 2), (1, 1, 8)),  # 32 / 8 / 2², 2·2²
    ],
)
def test_networks_reduce_where_they_are_told(stem, size, reductions, output, shortcut):
    config = NetworkConfig(
        (size, size, 3), 3, channels=2, cells=4, reductions=reductions, stem=stem, shortcut=shortcut
    )
    model = build_network(Genotype(CELL, CELL), config)
    assert model.get_layer("pool").input_shape[1:] == output
    built, plan = count_costs(model), planned_costs(Genotype(CELL, CELL), config)
    assert {layer.name: layer for layer in built.layers} == {la.name: la for la in plan.layers}
    scaled = {f"cell{index}" for index in reductions if index > 0}
    end = "_shortcut_conv" if shortcut == "conv" else "_shortcut_scale"
    found = {la.name.removesuffix(end) for la in model.layers if la.name.endswith(end)}
    assert found == scaled


def test_the_thirds_can_be_named():
    config = NetworkConfig(cells=20, reductions=(6, 13))
    assert config.plan_cells() == NetworkConfig(cells=20).plan_cells()


@pytest.mark.parametrize("reductions", [(2, 1), (1, 1), (4,), (-1,)])
def test_other_numbers_than_cells_in_order_are_refused(reductions):
    with pytest.raises(BnasLarqError, match="increasing.*Received: reductions=.*cells=4.*cells//3"):
        NetworkConfig(cells=4, reductions=reductions)


@pytest.mark.parametrize(("size", "stem"), [(4, "cifar"), (32, "imagenet")])
def test_images_keep_a_pixel(size, stem):
    """4 / 2² and 32 / 8 / 2² are one pixel."""
    settings = {"input_shape": (size, 64, 3), "cells": 6, "stem": stem}
    NetworkConfig(**settings, reductions=(1, 3))
    with pytest.raises(BnasLarqError, match=rf"down to 1 pixel.*{stem} stem at {size}×64"):
        NetworkConfig(**settings, reductions=(1, 3, 5))


def test_many_reductions_count_in_the_limit_of_weights():
    """32 times the channels in the last cell, 86·(32·256)² weights."""
    config = NetworkConfig((32, 32, 3), cells=6, channels=256, reductions=(0, 1, 2, 3, 4))
    with pytest.raises(BnasLarqError, match="cells=6, up to 8,192 channels"):
        build_network(Genotype(CELL, CELL), config)


def test_recipes_and_stored_networks_hold_them(tmp_path):
    recipe = load_recipe("quickstart", ["network.cells=4", "network.reductions=[0, 2, 3]"])
    assert recipe.network.reductions == [0, 2, 3]
    assert parse_recipe({}).network.reductions is None
    with pytest.raises(BnasLarqError, match="network.reductions"):
        parse_recipe({"network": {"reductions": [True]}})
    config = NetworkConfig(**SMALL, cells=4, reductions=recipe.network.reductions)
    StoredNetwork(tmp_path, Genotype(CELL, CELL), config, tuple("abc"), {}, {}).save()
    assert StoredNetwork.load(tmp_path).config == config


def test_budgets_are_solved_for_them():
    genotype, settings = Genotype(CELL, CELL), {**SMALL, "reductions": (1, 9)}
    del settings["channels"]
    found = solve_budget(genotype, "1M", **settings, channels=range(2, 40))
    assert {size.cells for size in found} == set(range(10, 21))
    for size in found[:2]:
        costs = planned_costs(genotype, cells=size.cells, channels=size.channels, **settings)
        assert size.ops_paper == costs.ops_paper <= 1.02e6
    with pytest.raises(BnasLarqError, match="Received: reductions=.*cells=8"):
        solve_budget(genotype, "1M", **settings, cells=8)
