"""Residual backbones: their shapes, sizes and names, and the published networks they can be."""

from __future__ import annotations

import json

import pytest

from bnas_larq import (
    ResidualConfig,
    build_network,
    build_residual_network,
    count_costs,
    planned_costs,
)
from bnas_larq.backend import keras, lq
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype

SMALL = {"input_shape": (8, 8, 3), "num_classes": 3, "widths": (4, 8), "blocks": (1, 2)}


def kinds(model, name):
    """Classes of the layers of one block, in order."""
    return [type(layer).__name__ for layer in model.layers if layer.name.startswith(f"{name}_")]


def test_a_chain_and_its_cost():
    """32@32²×2, 64@16²×3, 128@8²×3."""
    model = build_residual_network(ResidualConfig())
    costs = count_costs(model)
    assert costs.binary_macs == 8 * 9 * 32 * 32 * 32**2  # twice the channels, half the sides
    assert costs.full_precision_macs == 9 * 3 * 32 * 32**2 + 128 * 10
    assert costs.ops_paper == costs.ops_honest
    convolutions = sum(n * (9 * w * w) for w, n in ((32, 2), (64, 3), (128, 3)))
    norms = 32 + sum(n * w for w, n in ((32, 2), (64, 3), (128, 3)))
    scales = norms - 32
    floats = 9 * 3 * 32 + 4 * norms + scales + 128 * 10 + 10
    assert costs.bytes == convolutions // 8 + 4 * floats
    for name in ("block0_1_out", "block1_2_out", "block2_2_out"):
        assert isinstance(model.get_layer(name), keras.layers.Add)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("sign-conv-act-bn-add", ["BinaryConv2D", "PReLU2D", "BatchNorm2D", "MixedPrecisionAdd"]),
        ("sign-conv-bn-add-act", ["BinaryConv2D", "BatchNorm2D", "MixedPrecisionAdd", "PReLU2D"]),
        ("bn-sign-conv-act-add", ["BatchNorm2D", "BinaryConv2D", "PReLU2D", "MixedPrecisionAdd"]),
    ],
)
def test_block_orders(order, expected):
    model = build_residual_network(**SMALL, block_order=order, nonlinearity="prelu")
    assert kinds(model, "block1_1") == expected
    assert model.get_layer("block1_1_out").output_shape == (None, 4, 4, 8)
    assert isinstance(model.get_layer("block1_1_conv").input_quantizer, lq.quantizers.SteSign)


@pytest.mark.parametrize(("name", "weights"), [("none", 0), ("prelu", 8), ("rprelu", 3 * 8)])
def test_nonlinearities(name, weights):
    model = build_residual_network(**SMALL, nonlinearity=name)
    layers = {layer.name: layer for layer in model.layers}
    assert ("block1_1_act" in layers) == (name != "none")
    assert name == "none" or layers["block1_1_act"].count_params() == weights


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("pool", 0),
        ("depthwise", 2 * 2 * 8 + 4 * 8),
        ("pool-conv", 4 * 8 + 4 * 8),
        ("blur-conv", 3 * 3 * 4 + 4 * 8 + 4 * 8),
        ("conv", 4 * 8 + 4 * 8),
        ("binary-conv", 4 * 8 + 4 * 8),
        ("conv-max-pool", 3 * 3 * 4 * 8 + 4 * 8),
    ],
)
def test_transitions(kind, weights, strided):
    model = build_residual_network(**SMALL, transition=kind, strided_blocks=strided)
    own = [layer for layer in model.layers if layer.name.startswith("transition1_")]
    assert sum(layer.count_params() for layer in own) == weights
    assert own[-1].output_shape == (None, 4, 4, 8)
    first = model.get_layer("block1_0_conv")
    assert (first.strides, first.input_shape[-1]) == (((2, 2), 4) if strided else ((1, 1), 8))


def test_a_channel_is_repeated_any_number_of_times():
    model = build_residual_network(**{**SMALL, "widths": (4, 12)})
    assert model.get_layer("transition1_repeat").output_shape == (None, 4, 4, 12)
    assert "transition1_repeat" not in {
        layer.name for layer in build_residual_network(**{**SMALL, "widths": (4, 4)}).layers
    }


def test_norm_first_networks_normalise_what_shortcuts_read():
    """The sign of a sum of ReLUs would be +1 almost everywhere."""
    large = {**SMALL, "input_shape": (96, 96, 3), "nonlinearity": "prelu"}
    large |= {"transition": "binary-conv"}
    first, last = (
        build_residual_network(**large, strided_blocks=True, block_order=order)
        for order in ("bn-sign-conv-act-add", "sign-conv-bn-add-act")
    )
    conv = first.get_layer("transition1_conv").inbound_nodes[0].inbound_layers
    assert conv.name == "transition1_in_bn" and conv.input_shape[-1] == SMALL["widths"][0]
    names = [{layer.name for layer in model.layers} for model in (first, last)]
    assert {"transition1_in_bn", "stem_relu"} <= names[0]
    assert not {"transition1_in_bn", "stem_relu"} & names[1]
    assert count_costs(first).ops_honest == count_costs(last).ops_honest


def test_a_resolution_may_be_a_transition_alone():
    """ResNet-9: residual blocks at the second and the last resolution only."""
    sizes = {"widths": (4, 8, 16, 32), "blocks": (0, 1, 0, 1), "block_convolutions": 2}
    order = {"block_order": "sign-conv-bn-add-act", "transition": "conv-max-pool"}
    real = {"activations": "relu", "kernels": "real"}
    model = build_residual_network(input_shape=(8, 8, 3), **real, **sizes, **order)
    macs = 3 * 4 * 8**2 + 4 * 8 * 8**2 + 2 * 8 * 8 * 4**2 + 8 * 16 * 4**2 + 16 * 32 * 2**2
    macs += 2 * 32 * 32 * 1**2
    assert count_costs(model).full_precision_macs == 9 * macs + 32 * 10
    assert {layer.name.split("_")[0] for layer in model.layers if "block" in layer.name} == {
        "block1",
        "block3",
    }


def test_drop_path_changes_no_weights():
    plain, dropping = (build_residual_network(**SMALL, drop_path=drop) for drop in (False, True))
    assert [w.name for w in plain.weights] == [w.name for w in dropping.weights]
    drops = [layer for layer in dropping.layers if layer.name.endswith("_drop")]
    assert len({layer.seed for layer in drops}) == len(drops) == 3


def test_bi_real_net_18_has_the_published_cost():
    config = ResidualConfig(
        input_shape=(224, 224, 3),
        num_classes=1000,
        widths=(64, 128, 256, 512),
        blocks=(4, 4, 4, 4),
        transition="pool-conv",
        strided_blocks=True,
        block_order="sign-conv-bn-add-act",
        nonlinearity="none",
    )
    costs = planned_costs(None, config)
    # Four convolutions of C² at 56² pixels, and at each further resolution one of C·C/2.
    assert costs.binary_macs == 9 * 64**2 * 56**2 * (4 + 3 * 3.5)
    pointwise = 64 * 128 * (28**2 + 2 * 14**2 * 2 + 4 * 7**2 * 4)
    assert costs.full_precision_macs == 7 * 7 * 3 * 64 * 112**2 + pointwise + 512 * 1000
    assert f"{costs.ops_paper:.3e}" == "1.640e+08"  # FACTS §3
    assert costs.parameters == 11_699_112  # larq_zoo's BiRealNet


def published(blocks, **settings):
    """Costs of a network of the published widths at 224."""
    size = {"input_shape": (224, 224, 3), "num_classes": 1000, "widths": (64, 128, 256, 512)}
    template = {"strided_blocks": True, "block_order": "sign-conv-bn-add-act"}
    settings = {**size, **template, "nonlinearity": "none", **settings}
    return planned_costs(None, ResidualConfig(blocks=blocks, **settings))


def test_bi_real_net_34_has_the_published_cost():
    costs = published((6, 8, 12, 6), transition="pool-conv")
    assert f"{costs.ops_paper:.3e}" == "1.929e+08"


@pytest.mark.parametrize(
    ("blocks", "ops"), [((2, 2, 2, 2), "1.450e+08"), ((3, 4, 6, 3), "1.739e+08")]
)
def test_resnets_with_binary_shortcuts_have_the_published_cost(blocks, ops):
    costs = published(blocks, transition="binary-conv", block_convolutions=2)
    assert f"{costs.ops_paper:.3e}" == ops
    real = published(blocks, transition="conv", block_convolutions=2)
    pointwise = 64 * 128 * (28**2 + 4 * 14**2 + 16 * 7**2)
    assert costs.binary_macs - real.binary_macs == pointwise
    assert real.full_precision_macs - costs.full_precision_macs == pointwise


def test_blocks_of_two_convolutions():
    """As in ResNet: the nonlinearity also between the two, one shortcut around both."""
    order = {"block_order": "sign-conv-bn-add-act", "nonlinearity": "prelu"}
    order |= {"transition": "conv", "strided_blocks": True}
    model = build_residual_network(**SMALL, **order, block_convolutions=2)
    assert kinds(model, "block1_0") == [
        *("BinaryConv2D", "BatchNorm2D", "PReLU2D"),
        *("BinaryConv2D", "BatchNorm2D", "MixedPrecisionAdd", "PReLU2D"),
    ]
    first, last = (model.get_layer(f"block1_0{part}_conv") for part in ("_first", ""))
    assert (first.strides, last.strides) == ((2, 2), (1, 1))
    assert (first.input_shape[-1], last.input_shape[-1]) == (4, 8)
    terms = model.get_layer("block1_0_add").input
    assert [term.node.layer.name for term in terms] == ["block1_0_bn", "transition1_bn"]
    chain = build_residual_network(**SMALL, **order)
    assert model.count_params() > chain.count_params()


@pytest.mark.parametrize(
    ("widths", "parameters"),
    [((32, 64, 256, 512), 12_655_688), ((64, 128, 256, 512), 13_234_088)],
)
def test_quicknet_has_the_published_size(widths, parameters):
    """larq_zoo's QuickNetSmall and QuickNet, by its documentation."""
    size = {"input_shape": (224, 224, 3), "num_classes": 1000, "stem": "quicknet"}
    config = ResidualConfig(**size, widths=widths, blocks=(4,) * 4, transition="blur-conv")
    costs = planned_costs(None, config)
    # It lists two of BatchNorm's four vectors, as they are when converted.
    fused = 2 * (widths[0] // 4 + widths[0] + 4 * sum(widths) + sum(widths[1:]))
    assert costs.parameters - fused == parameters
    pixels = (56, 28, 14, 7)
    assert costs.binary_macs == sum(
        4 * 9 * width**2 * side**2 for width, side in zip(widths, pixels, strict=True)
    )


def test_real_convolutions_and_relu_are_a_resnet():
    blocks = {"transition": "pool-conv", "strided_blocks": True}
    blocks |= {"block_order": "sign-conv-bn-add-act", "nonlinearity": "prelu"}
    model = build_residual_network(**SMALL, **blocks, activations="relu", kernels="real")
    assert count_costs(model).binary_macs == 0
    # Weight files fit the binary network: the last two stages of a training exchange them.
    binary = build_residual_network(**SMALL, **blocks)
    assert [w.name for w in model.weights] == [w.name for w in binary.weights]


def test_config_round_trip():
    config = ResidualConfig(**SMALL, stem="quicknet", nonlinearity="rprelu", full_precision=("x",))
    assert ResidualConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.replace(widths=[8, 16]).widths == (8, 16)
    assert ResidualConfig(**SMALL).replace(input_shape=(96, 96, 3)).stem == "imagenet"


RECTIFIED = {"block_order": "sign-conv-bn-add-act", "nonlinearity": "relu"}


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": (1, 2), "transition": "conv"},
        {"blocks": (1, 1), "transition": "pool"},
        {"blocks": (1, 1), "transition": "binary-conv"},
        {"blocks": (1, 1), "transition": "conv", "strided_blocks": True},
        {"blocks": (0, 1), "transition": "conv", "block_convolutions": 2},
        *({"blocks": (2, 0), "scheme": scheme} for scheme in ("bi-real", "xnor", "circulant")),
        {"blocks": (2, 0), "activation_gradient": "annealed"},
        {"blocks": (2, 0), "kernels": "real"},
    ],
)
def test_no_sign_reads_a_relu(settings):
    """It would be +1 everywhere."""
    with pytest.raises(BnasLarqError, match="every sign is .*Use prelu or rprelu, or another bl"):
        ResidualConfig(**{**SMALL, **RECTIFIED, **settings})
    build_residual_network(**{**SMALL, **RECTIFIED, **settings, "nonlinearity": "prelu"})


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": (1, 1), "transition": "conv"},
        {"blocks": (0, 1), "strided_blocks": True},
        {"blocks": (0, 1), "transition": "pool"},
        {"activations": "relu", "kernels": "real"},
        {"activations": "tanh"},
        # With thresholds at 1/4, at 1/2, at 1/2, and learned ones.
        {"activations": "ternary"},
        *({"scheme": scheme} for scheme in ("abc-net", "binary-duo", "react", "full-precision")),
    ],
)
def test_a_relu_in_front_of_anything_else_is_allowed(settings):
    ResidualConfig(**{**SMALL, **RECTIFIED, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4,)}, r"as many widths as .* Received: widths=\[4\], blocks=\[1, 2\]"),
        ({"widths": (1, 2)}, "2 to 10,000 channels"),
        ({"blocks": (0, 0)}, "at least one block in all"),
        ({"blocks": (1, -1)}, "at least one block in all"),
        ({"blocks": (1, 0), "strided_blocks": True}, "so each has one. .* Add blocks"),
        ({"block_convolutions": 3}, "one convolution or two.*Received: block_convolutions=3"),
        ({"widths": (4, 6)}, "each width is a multiple .* Use pool-conv or blur-conv"),
        ({"transition": "pol"}, "transition is one of .*Received: 'pol'; did you mean 'pool'"),
        ({"block_order": "conv"}, "block_order is one of .*Received: 'conv'"),
        ({"pad_values": -1}, "pad 0 or 1. Received: pad_values=-1"),
        ({"pad_values": 1, "scheme": "pcnn-4"}, "pcnn-4 has convolutions of its own"),
        ({"nonlinearity": "gelu"}, "nonlinearity is one of .*Received: 'gelu'"),
        ({"stem": "quicknet", "widths": (6, 12)}, "quarter of the first width"),
        ({"widths": (4,) * 5, "blocks": (1,) * 5}, "half of the one before"),
        ({"transition": "blur-conv", "input_shape": (7, 7, 3)}, "without remainder"),
        ({"widths": (10_000, 10_000)}, "No network of more than 640,000,000 weights"),
        ({"num_classes": 1}, "at least two classes"),
        ({"cells": 3}, "Received: 'cells'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        build_residual_network(**{**SMALL, **settings})


def test_one_function_builds_both_kinds():
    model = build_network(None, ResidualConfig(**SMALL), include_top=False, pooling="avg")
    assert model.output_shape == (None, 8)
    with pytest.raises(BnasLarqError, match="a residual network has none. Received: no genotype"):
        build_network(None)
    with pytest.raises(BnasLarqError, match="Received: genotype .* with ResidualConfig"):
        build_network(Genotype.published("bnas_cifar"), ResidualConfig(**SMALL))
