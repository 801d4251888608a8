"""Costs from the plan are the costs of the built network, layer for layer."""

from __future__ import annotations

import pytest

from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers import operations
from bnas_larq.networks.binary_duo import BinaryDuoConfig
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.spaces import SHORTCUTS

SMALL = {"input_shape": (8, 8, 3), "num_classes": 4, "channels": 2, "cells": 3}
LARGE = {"input_shape": (96, 97, 3), "num_classes": 4, "cells": 2}
ZEROS = [[("none", 0)], [("bin_conv_3x3", 2)]]
SKIPPED = [[("identity", 0), ("identity", 1)], [("bin_conv_5x5_linear", 2)]]
SEPARABLE = [[("bin_sep_conv_3x3", 0), ("bin_dil_sep_conv_5x5", 1)]]
OWN = [[("bottleneck", 0), ("avg_pool_3x3", 1)]]


@pytest.fixture
def own_operation(registry):
    """Registers `bottleneck`."""

    @operations.register_operation("bottleneck", "half the channels, then all of them")
    def bottleneck(context):
        narrow = context.at(f"{context.name}_narrow", context.filters // 2)
        wide = context.at(f"{context.name}_wide", context.filters, context.strides)
        return [*narrow.binary_input(), *narrow.binary_conv(1), *wide.binary_conv(3), wide.relu()]


@pytest.mark.parametrize(
    ("genotype", "settings"),
    [
        ("bnas_cifar", {"shortcut": False, "cells": 4}),
        ("bnas_imagenet", {**LARGE, "channels": 8, "stem_groups": 4, "padding": "symmetric"}),
        ("bnas_imagenet", {"shortcut": "pool", "cells": 5}),
        ("bnas_cifar", {**LARGE, "shortcut": "depthwise", "cells": 4, "channels": 5}),
        ("random:6", {**LARGE, "channels": 5, "classifier_activation": "softmax"}),
        ("random:1", {"full_precision": ("cell1_*",), "scheme": "sign-scale-plain"}),
        # whole cells and the newer stem reach no output: nobody reads the newer input
        (([[("max_pool_3x3", 0)]], ZEROS), {**LARGE, "channels": 2, "shortcut": False}),
        ((ZEROS, ZEROS), {"shortcut": False}),
        ((OWN, OWN), {"channels": 5}),
        ((SKIPPED, SEPARABLE), {"scheme": "pcnn"}),
        ((SKIPPED, SEPARABLE), {"scheme": "pcnn", "kernels": "real", "activations": "clip"}),
        ((SKIPPED, SEPARABLE), {"scheme": "abc-net"}),
        ((SKIPPED, SEPARABLE), {"scheme": "bonn"}),
        ((SEPARABLE, SKIPPED), {"activations": "relu", "activation_clip": 2.0}),
        ((SEPARABLE, SKIPPED), {"activation_gradient": "annealed"}),
        ((SEPARABLE, SKIPPED), {"scheme": "full-precision", "channels": 3}),
        ((SEPARABLE, SEPARABLE), {"padding": "symmetric"}),
    ],
)
def test_equal_to_the_built_network(own_operation, genotype, settings):
    genotype = Genotype.load(genotype) if isinstance(genotype, str) else Genotype(*genotype)
    config = NetworkConfig(**{**SMALL, **settings})
    plan, built = planned_costs(genotype, config), count_costs(build_network(genotype, config))
    by_name = {layer.name: layer for layer in built.layers}
    assert {layer.name: layer for layer in plan.layers} == by_name
    assert len(plan.layers) == len(built.layers)
    assert plan.name == built.name
    assert plan.peak_activation_bytes == built.peak_activation_bytes


@pytest.mark.parametrize("scheme", ["sign-scale", "pcnn", "bonn"])
def test_real_operands_are_full_precision(scheme):
    """A MAC is 1-bit if both operands are; a weight takes a bit if its kernel is binary."""
    genotype = Genotype(SEPARABLE, SKIPPED)
    binary, real, reals, relu = (
        planned_costs(genotype, **SMALL, scheme=scheme, **settings)
        for settings in (
            {},
            {"kernels": "real"},
            {"kernels": "real", "activations": "tanh"},
            {"activations": "relu"},
        )
    )
    macs = binary.binary_macs + binary.full_precision_macs
    for costs in (real, reals, relu):
        assert (costs.binary_macs, costs.full_precision_macs) == (0, macs)
        assert costs.parameters == binary.parameters
    assert relu.bytes == binary.bytes
    held = sum(layer.trainable_parameters for layer in real.layers)
    norms = sum(
        layer.parameters - layer.trainable_parameters
        for layer in real.layers
        if layer.kind == "BatchNorm2D"
    )
    assert real.bytes == reals.bytes == 4 * (held + norms)


def test_a_cache_changes_nothing():
    cache = {}
    sizes = [{"cells": 5}, {"cells": 6}, {"cells": 5, "channels": 6}]
    for own in (*sizes, *({"shortcut": kind} for kind in SHORTCUTS)):
        genotype = Genotype.published("bnas_imagenet")
        settings = {**SMALL, **own}
        fresh = planned_costs(genotype, **settings)
        assert planned_costs(genotype, cache=cache, **settings) == fresh


@pytest.mark.parametrize(
    ("cells", "channels", "paper", "printed"),
    [
        (12, 64, 1.476, 1.48),
        (12, 68, 1.658, 1.63),
        (15, 68, 1.794, 1.78),
        (11, 74, 1.898, 1.93),
        (16, 128, 6.309, 6.56),
    ],
)
def test_published_budgets(cells, channels, paper, printed):
    """BNAS-D to H at 224 (arXiv 2002.06963, table of ImageNet results), within 4 %."""
    costs = planned_costs(
        Genotype.published("bnas_imagenet"),
        input_shape=(224, 224, 3),
        num_classes=1000,
        cells=cells,
        channels=channels,
    )
    assert costs.ops_paper == pytest.approx(paper * 1e8, rel=1e-3)
    assert costs.ops_paper == pytest.approx(printed * 1e8, rel=0.04)
    if channels in (64, 128):
        honest = {64: 3.50e8, 128: 14.4e8}[channels]
        assert costs.ops_honest == pytest.approx(honest, rel=1e-3)
    if cells == 15:
        assert costs.trainable_parameters == 39_781_442


def test_dead_branches_of_bnas_a():
    size = {"cells": 20, "channels": 36}

    def trainable(name, **settings):
        return planned_costs(Genotype.published(name), **size, **settings).trainable_parameters

    # 1×1 preprocessing of the newer input of both reduction cells: BatchNorm and convolution
    by_hand = sum(2 * 4 * c + 4 * c * 2 * c for c in (36, 72))
    living, whole = trainable("bnas_cifar"), trainable("bnas_cifar", dead_branches=True)
    assert whole - living == by_hand == 52_704
    assert (living, whole) == (5_525_548, 5_578_252)
    assert trainable("bnas_imagenet", dead_branches=True) == trainable("bnas_imagenet")


def test_unknown_settings_are_refused():
    with pytest.raises(BnasLarqError, match="Received: 'chanels'; did you mean 'channels'"):
        planned_costs(Genotype.published("bnas_cifar"), chanels=3)


@pytest.mark.parametrize(
    "settings",
    [
        {"transition": "blur-conv", "nonlinearity": "rprelu"},
        {
            **{"transition": "depthwise", "strided_blocks": True},
            **{"block_order": "sign-conv-bn-add-act", "nonlinearity": "prelu"},
        },
        {"stem": "quicknet", "full_precision": ("block1_0_*",), "widths": (4, 8)},
        {"transition": "binary-conv", "strided_blocks": True, "block_convolutions": 2},
        {"transition": "conv-max-pool", "blocks": (0, 1)},
        {"transition": "conv-pool", "strided_blocks": True, "nonlinearity": "prelu"},
    ],
)
def test_residual_networks_cost_what_they_are_built_of(settings):
    size = {"input_shape": (16, 16, 3), "widths": (4, 12), "blocks": (1, 2)}
    config = ResidualConfig(**{**size, **settings})
    planned, counted = planned_costs(None, config), count_costs(build_network(None, config))
    assert planned.name == counted.name
    assert {layer.name: layer for layer in planned.layers} == {
        layer.name: layer for layer in counted.layers
    }


@pytest.mark.parametrize("activations", ["sign", "ternary"])
def test_binary_duo_costs_what_it_is_built_of(activations):
    size = {"input_shape": (16, 16, 3), "widths": (4, 6), "blocks": (2, 2), "last_width": 8}
    config = BinaryDuoConfig(**size, activations=activations)
    planned, counted = planned_costs(None, config), count_costs(build_network(None, config))
    assert planned.name == counted.name
    assert {layer.name: layer for layer in planned.layers} == {
        layer.name: layer for layer in counted.layers
    }
    assert planned.peak_activation_bytes == counted.peak_activation_bytes
