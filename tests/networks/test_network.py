"""Final networks: equal to the authors' program, in the papers' sizes, with any settings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_network import GENOTYPES, SMALL, small, trainable

from bnas_larq.backend import lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.layers.convolutions import convolution
from bnas_larq.networks.network import NetworkConfig, build_network

# -- the authors' program --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixture", "name"),
    [("open_cifar_zeroise", "bnas_cifar"), ("open_cifar_cell", "bnas_imagenet")],
)
def test_logits_equal_the_authors_program(authors, fixture, name):
    file, genotype = authors(fixture), Genotype.published(name)
    model = build_network(genotype, channels=6, cells=5, num_classes=10, padding="symmetric")
    file.fill_network(model, genotype)
    np.testing.assert_allclose(model(file.images), file["logits"], atol=1e-4)
    # What was binary there is binary here, but for the dead branches that we leave out: both
    # reduction cells of `bnas_cifar` never use their newer input.
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    assert len(binary) == len(file["binarized"]) - (2 if name == "bnas_cifar" else 0)


def test_padding_is_what_the_fixture_tells_apart(authors):
    file, genotype = authors("open_cifar_cell"), Genotype.published("bnas_imagenet")
    model = build_network(genotype, channels=6, cells=5, num_classes=10, padding="same")
    file.fill_network(model, genotype)
    assert np.abs(model(file.images) - file["logits"]).max() > 1e-2


# -- sizes -----------------------------------------------------------------------------------------


def test_parameters_of_bnas_a():
    model = build_network(Genotype.published("bnas_cifar"), channels=36, cells=20)
    # The paper's layout has 52,704 more in the branches of the reduction cells' unused input.
    assert trainable(model) == 5_578_252 - 52_704 == 5_525_548


def test_parameters_of_bnas_f():
    model = build_network(
        Genotype.published("bnas_imagenet"),
        input_shape=(224, 224, 3),
        num_classes=1000,
        channels=68,
        cells=15,
    )
    assert trainable(model) == 39_781_442


def test_parameters_of_a_small_network_by_hand():
    pools = [[Edge("max_pool_3x3", 0)], [Edge("bin_conv_3x3", 1)]]
    model = build_network(Genotype(pools, pools), **{**SMALL, "cells": 1})
    stem = 2 * 3 + 3 * 3 * 3 * (3 * 2)
    preprocess = 2 * (2 * 6 + 6 * 2)
    edge = 2 * 2 + 3 * 3 * 2 * 2
    classifier = (2 * 2) * 4 + 4
    assert trainable(model) == stem + preprocess + edge + classifier


def test_shapes_behind_the_imagenet_stem():
    model = build_network(
        Genotype.published("bnas_imagenet"), input_shape=(224, 224, 3), channels=8, cells=4
    )
    shape = {layer.name: layer.output_shape for layer in model.layers}
    assert shape["stem0_conv"] == (None, 112, 112, 8 // 2)
    assert shape["stem1_bn"] == (None, 56, 56, 8)
    assert shape["stem2_bn"] == (None, 28, 28, 8)
    # The first cell counts as "after a reduction": 3×3 with stride 2 on the older input.
    assert shape["cell0_preprocess0_conv"] == (None, 28, 28, 8)
    assert model.get_layer("cell0_preprocess0_conv").kernel_size == (3, 3)
    # Cells 1 and 2 reduce, 4//3 and 2·4//3.
    sides = [shape[f"cell{index}_concat"][1:] for index in range(4)]
    assert sides == [(28, 28, 4 * 8), (14, 14, 4 * 16), (7, 7, 4 * 32), (7, 7, 4 * 32)]


def test_shapes_behind_the_cifar_stem():
    model = build_network(Genotype.published("bnas_cifar"), channels=6, cells=5)
    shape = {layer.name: layer.output_shape[1:] for layer in model.layers}
    assert shape["stem_conv"] == (32, 32, 3 * 6)
    sides = [shape[f"cell{index}_concat"] for index in range(5)]
    # Cells 1 and 3 reduce: 5//3 and 2·5//3.
    assert sides == [(32, 32, 24), (16, 16, 48), (16, 16, 48), (8, 8, 96), (8, 8, 96)]


@pytest.mark.parametrize("name", GENOTYPES)
def test_every_convolution_but_stem_and_shortcut_is_binary(name):
    model = small(name, input_shape=(32, 32, 3))
    for layer in model.layers:
        if isinstance(layer, lq.layers.QuantConv2D):
            precise = layer.name.startswith("stem") or "shortcut" in layer.name
            assert (layer.kernel_quantizer is None) == precise, layer.name
            assert (layer.input_quantizer is None) == precise, layer.name


def test_batch_norm_before_the_strided_preprocess_has_no_scale_in_cifar_networks():
    for stem, affine in (("cifar", False), ("imagenet", True)):
        model = small(stem=stem, input_shape=(32, 32, 3))
        assert model.get_layer("cell2_preprocess0_bn").scale == affine
        assert model.get_layer("cell2_preprocess1_bn").scale


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_full_precision_patterns_and_shortcut_setting(padding):
    plain = small(padding=padding)
    other = small(padding=padding, full_precision=("cell2_*",), shortcut=False)
    precise = {
        layer.name
        for layer in other.layers
        if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer is None
    }
    assert any(name.startswith("cell2_node") for name in precise)
    assert not any(name.startswith("cell1_node") for name in precise)
    assert any("shortcut" in layer.name for layer in plain.layers)
    assert not any("shortcut" in layer.name for layer in other.layers)


# -- grouped stem ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_grouped_stem(padding):
    """Four groups: four convolutions side by side, forward and backward, on the CPU too."""
    settings = {"input_shape": (96, 96, 3), "channels": 8, "cells": 1, "padding": padding}
    grouped = small(stem_groups=4, **settings)
    kernels = {name: grouped.get_layer(f"{name}_conv").kernel for name in ("stem1", "stem2")}
    assert kernels["stem1"].shape == (3, 3, (8 // 2) // 4, 8)
    assert kernels["stem2"].shape == (3, 3, 8 // 4, 8)
    assert small(**settings).get_layer("stem2_conv").kernel.shape == (3, 3, 8, 8)

    layer, x = grouped.get_layer("stem2_conv"), tf.random.stateless_normal([2, 9, 9, 8], [3, 4])
    parts = [
        convolution(
            2,
            3,
            name=f"part{index}",
            strides=2,
            padding=padding,
            input_scheme=None,
            kernel_scheme=None,
        )
        for index in range(4)
    ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.sin(layer(x)))
    by_layer = tape.gradient(loss, [x, layer.kernel])
    for index, part in enumerate(parts):
        part.build((None, 9, 9, 2))
        part.set_weights([layer.get_weights()[0][..., 2 * index : 2 * index + 2]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = [part(piece) for part, piece in zip(parts, tf.split(x, 4, -1), strict=True)]
        loss_of_parts = tf.reduce_sum(tf.sin(tf.concat(outputs, -1)))
    of_x, *of_kernels = tape.gradient(loss_of_parts, [x, *[part.kernel for part in parts]])
    np.testing.assert_allclose(loss, loss_of_parts, rtol=1e-5)
    np.testing.assert_allclose(by_layer[0], of_x, atol=1e-5)
    np.testing.assert_allclose(by_layer[1], tf.concat(of_kernels, -1), atol=1e-4)


# -- settings --------------------------------------------------------------------------------------


def test_config_round_trip():
    config = NetworkConfig(channels=16, cells=8, full_precision=("cell7_*",), padding="symmetric")
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "stem_groups" in config.to_dict() and not any(k[0] == "_" for k in config.to_dict())
    model = build_network(Genotype.published("bnas_cifar"), NetworkConfig(**SMALL), channels=4)
    assert model.get_layer("cell0_preprocess1_conv").filters == 4


def test_stem_follows_the_size_of_the_input():
    assert NetworkConfig(input_shape=(95, 200, 3)).stem == "cifar"
    assert NetworkConfig(input_shape=(96, 96, 3)).stem == "imagenet"
    assert NetworkConfig(input_shape=(224, 224, 3), stem="cifar").stem == "cifar"


def test_an_automatic_stem_follows_a_new_size_and_another_does_not():
    large = {"input_shape": (96, 96, 3)}
    automatic = NetworkConfig(**SMALL)
    assert automatic.replace(**large).stem == "imagenet"
    assert automatic.replace(**large).replace(input_shape=(32, 32, 3)).stem == "cifar"
    assert automatic.replace(stem="cifar", **large).stem == "cifar"
    assert NetworkConfig(**SMALL, stem="cifar").replace(**large).stem == "cifar"
    # what was saved belongs to weights, which fit one stem only
    assert NetworkConfig.from_dict(automatic.to_dict()).replace(**large).stem == "cifar"
    model = build_network(Genotype.published("bnas_cifar"), automatic, **large)
    assert model.get_layer("stem2_conv") is not None
    with pytest.raises(BnasLarqError, match="Received: 'imput_shape'; did you mean"):
        automatic.replace(imput_shape=(96, 96, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "at least two classes, and at most 100,000. Received: num_classes=1"),
        ({"cells": 0}, "at least one cell .* Received: cells=0"),
        ({"channels": 1}, "two channels .* Received: cells=20, channels=1"),
        ({"stem_groups": 2}, "CIFAR stem.*has no groups. Received: stem_groups=2"),
        ({"stem": "imagenet", "stem_groups": 4, "channels": 12}, "Received: stem_groups=4, chan"),
        ({"stem": "imagenet", "stem_groups": 0}, "must divide .* Received: stem_groups=0"),
        ({"stem": "cifra"}, "Received: 'cifra'; did you mean 'cifar'"),
        ({"padding": "symetric"}, "Received: 'symetric'; did you mean 'symmetric'"),
        ({"scheme": "sign-scal"}, "Received: 'sign-scal'; did you mean 'sign-scale'"),
        ({"input_shape": (32, 32)}, r"\(height, width, channels\).* Received: \(32, 32\)"),
        ({"input_shape": (None, 32, 3)}, "all known and at most 10,000. Received"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        NetworkConfig(**settings)
    with pytest.raises(BnasLarqError, match=message):
        build_network(Genotype.published("bnas_cifar"), **settings)


def test_unknown_setting_in_a_file_is_refused():
    with pytest.raises(BnasLarqError, match="Received: 'chanels'; did you mean 'channels'"):
        NetworkConfig.from_dict({"chanels": 16})


def relu_layers(model):
    """Names of the ReLU behind preprocessing convolutions."""
    return {
        layer.name for layer in model.layers if "preprocess" in layer.name and "relu" in layer.name
    }


UCB = "random:bnas-ucb-none:1"


@pytest.mark.parametrize(
    ("genotype", "preprocess", "expected"),
    [
        ("bnas_cifar", "auto", True),
        (UCB, "auto", False),
        (UCB, "relu", True),
        ("bnas_cifar", "linear", False),
    ],
)
def test_bnas_ucb_has_no_relu_behind_binary_convolutions(genotype, preprocess, expected):
    """Nor behind those that preprocess a cell's inputs: it would erase the −1 side."""
    model = small(genotype, preprocess=preprocess)
    assert bool(relu_layers(model)) == expected
    if genotype == UCB and not expected:
        assert {layer.name for layer in model.layers if "relu" in layer.name} == {"stem_relu"}
