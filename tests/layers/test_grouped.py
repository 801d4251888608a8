"""BATS' operations and template: convolutions in groups, and what stands around them."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.operations import (
    Context,
    FactorizedReduction,
    build_operation,
    chain,
    layers_of,
)
from bnas_larq.layers.template import cifar_stem, plan_cells, preprocess
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.weight_files import load_weights, save_weights

GROUPS, CHANNELS = 2, 4
BATS = Genotype.published("bats")
SMALL = {"input_shape": (8, 8, 3), "channels": 8, "cells": 3, "groups": 4, "shortcut": "none"}
SMALL |= {"scheme": "binarynet"}


def names(chain):
    return [layer.name.removeprefix("place_") for layer in layers_of(chain)]


@pytest.mark.parametrize(("size", "kind"), [(3, "conv"), (5, "dil_conv")])
@pytest.mark.parametrize("supernet", [True, False])
def test_it_is_the_input_plus_prelu_of_a_scaled_convolution_in_groups(size, kind, supernet):
    dilation = 2 if kind == "dil_conv" else 1
    place = Context("place", CHANNELS, supernet=supernet, scheme="binarynet", groups=GROUPS)
    inputs = keras.Input((7, 7, CHANNELS))
    layers = build_operation(f"bin_group_{kind}_{size}x{size}", place)
    model = keras.Model(inputs, chain(layers, inputs))
    generator = np.random.default_rng(0)
    model.get_layer("place_channel_scale").set_weights([scale := np.array([1.0, -2.0, 0.5, 3.0])])
    x = generator.normal(1.0, 2.0, (2, 7, 7, CHANNELS)).astype(np.float32)
    signs = np.where(x >= x.mean((0, 1, 2)), 1.0, -1.0)
    kernel = np.where(model.get_layer("place_conv").get_weights()[0] >= 0, 1.0, -1.0)
    assert kernel.shape == (size, size, CHANNELS // GROUPS, CHANNELS)
    margin = dilation * (size - 1) // 2
    padded = np.pad(signs, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    sums = np.zeros_like(x)
    for channel in range(CHANNELS):
        own = channel // 2 * 2
        for i, j in np.ndindex(size, size):
            rows, columns = i * dilation, j * dilation
            window = padded[:, rows : rows + 7, columns : columns + 7, own : own + 2]
            sums[..., channel] += window @ kernel[i, j, :, channel]
    scaled = sums * scale
    expected = x + np.where(scaled > 0, scaled, 0.25 * scaled)
    np.testing.assert_allclose(model(x, training=True), expected, atol=1e-4)


def test_with_strides_nothing_is_added():
    place = Context("place", CHANNELS, 2, groups=GROUPS)
    layers = build_operation("bin_group_conv_3x3", place)
    assert names(layers) == ["bn", "conv", "channel_scale", "prelu"]


def test_preprocessing():
    """PReLU instead of ReLU, + input where it has the shape, and a factorised reduction."""
    context = Context("", 8)
    first, second = plan_cells(2, 8, "imagenet")
    plain = preprocess(second, 0, "imagenet", context, "prelu", 32)
    assert [name.split("preprocess0_")[1] for name in names(plain)] == [
        *("bn", "conv", "channel_scale", "prelu")
    ]
    same = preprocess(second, 0, "imagenet", context, "prelu", 8)
    assert names(same)[-1] == "cell1_preprocess0_plus_input"
    strided = preprocess(first, 0, "imagenet", context, "prelu", 8)
    assert isinstance(strided[1], FactorizedReduction) and "plus_input" not in names(strided)[-1]
    assert chain(strided, tf.zeros([1, 8, 8, 8])).shape == (1, 4, 4, 8)


def test_the_cifar_stem_has_its_norm_behind_the_convolution():
    context = Context("", 8)
    assert [layer.name for layer in cifar_stem(8, context, "prelu")] == [
        *("stem_conv", "stem_bn", "stem_relu")
    ]
    assert cifar_stem(8, context)[0].name == "stem_bn"


@pytest.mark.parametrize("settings", [{}, {"stem": "imagenet", "input_shape": (32, 32, 3)}])
def test_costs_are_planned_as_they_are_counted(settings):
    settings = {**SMALL, **settings}
    model = build_network(BATS, **settings)
    plan, built = planned_costs(BATS, **settings), count_costs(model)
    planned, counted = ({layer.name: layer for layer in costs.layers} for costs in (plan, built))
    assert planned == counted
    assert plan.peak_activation_bytes == built.peak_activation_bytes


def test_round_trips(tmp_path):
    """The configuration, and weights of real kernels that a binary network starts from."""
    config = NetworkConfig.from_dict(SMALL)
    assert NetworkConfig.from_dict(config.to_dict()) == config
    assert Genotype.from_json(BATS.to_json()) == BATS
    real, binary = build_network(BATS, config.replace(kernels="real")), build_network(BATS, config)
    save_weights(real, tmp_path / "weights.h5")
    load_weights(binary, tmp_path / "weights.h5")
    x = tf.random.stateless_normal([2, 8, 8, 3], [0, 0])
    again = keras.models.clone_model(binary)
    again.set_weights(binary.get_weights())
    np.testing.assert_array_equal(again(x), binary(x))
    assert np.any(real(x) != binary(x))


def test_groups_divide_the_channels_of_bats_operations():
    with pytest.raises(BnasLarqError, match="Groups divide .* Received: groups=3, channels=8"):
        NetworkConfig(channels=8, groups=3)
    with pytest.raises(BnasLarqError, match="at least two .* Received: groups=8, channels=8"):
        NetworkConfig(channels=8, groups=8)
    with pytest.raises(BnasLarqError, match="bin_group_….* have groups. Received: groups=2"):
        build_network(Genotype.published("bnas_cifar"), channels=8, cells=1, groups=2)


def test_a_scheme_with_convolutions_of_its_own_has_no_groups():
    place = Context("place", CHANNELS, scheme="circulant", groups=GROUPS)
    with pytest.raises(BnasLarqError, match="Convolutions of the scheme circulant have no groups"):
        build_operation("bin_group_conv_3x3", place)
