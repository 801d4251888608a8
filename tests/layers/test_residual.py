"""Residual binary convolutions: against NumPy, in final networks, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.genotype import Genotype
from bnas_larq.layers.operations import (
    Context,
    PlusInput,
    build_chain,
    build_operation,
    chain,
    layers_of,
    sharing_of,
)
from bnas_larq.networks.network import build_network
from bnas_larq.spaces import SearchSpace, preprocessing_of

RESIDUAL = [name for name in SearchSpace.bnas_residual().normal if "conv" in name]


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("supernet", [True, False])
def test_input_or_its_mean_is_added_behind_batch_norm_and_prelu_follows(name, strides, supernet):
    x = np.random.default_rng(0).normal(1.0, 2.0, (2, 8, 8, 4)).astype(np.float32)
    layers = build_operation(name, Context("place", 4, strides, supernet=supernet))
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, chain(layers, inputs))
    convolution = [layer for layer in layers if not isinstance(layer, PlusInput)][-3]
    assert isinstance(convolution, lq.layers.QuantConv2D)
    middle = keras.Model(inputs, model.get_layer("place_conv").output)(x, training=True).numpy()
    normal = (middle - middle.mean((0, 1, 2))) / np.sqrt(middle.var((0, 1, 2)) + 1e-5)
    added = x if strides == 1 else x.reshape(2, 4, 2, 4, 2, 4).mean((2, 4))
    total = normal + added
    slopes = model.get_layer("place_prelu").alpha
    assert slopes.shape == (1, 1, 4) and np.all(slopes == 0.25)
    slopes.assign(np.reshape([0.5, -1.0, 0.0, 2.0], slopes.shape))
    expected = np.where(total > 0, total, total * slopes.numpy())
    np.testing.assert_allclose(model(x, training=True), expected, atol=1e-4)


def test_chains_are_built_without_a_call():
    layers = build_operation("bin_res_conv_5x5", Context("place", 6, 2, supernet=True, edges=3))
    assert build_chain(layers, (None, 8, 8, 2)).as_list() == [None, 4, 4, 6]
    assert [layer.name.removeprefix("place_") for layer in layers_of(layers)] == [
        *("bn", "sign", "conv", "behind_bn"),
        *("input_pool", "repeat", "plus_input", "prelu"),
    ]
    assert sharing_of("bin_res_conv_5x5") == sharing_of("bin_res_dil_conv_3x3", 2) == "channels"


def test_the_space_has_a_pooled_shortcut_and_no_relu():
    space = SearchSpace.named("bnas-residual")
    assert space.normal == space.reduce == ("none", "max_pool_3x3", "avg_pool_3x3", *RESIDUAL)
    assert space.shortcut == "pool"
    assert preprocessing_of(space.normal) == "linear"
    assert preprocessing_of([*RESIDUAL, "bin_conv_3x3"]) == "relu"


CELL = [[("bin_res_conv_3x3", 0), ("bin_res_dil_conv_5x5", 1)]]


@pytest.mark.parametrize("settings", [{}, {"padding": "symmetric"}, {"scheme": "full-precision"}])
def test_costs_are_planned_as_they_are_counted(settings):
    genotype = Genotype(CELL, CELL)
    settings = {"input_shape": (8, 8, 3), "channels": 4, "cells": 3, "shortcut": "pool", **settings}
    model = build_network(genotype, drop_path=True, **settings)
    plan, built = planned_costs(genotype, **settings), count_costs(model)
    planned, counted = ({layer.name: layer for layer in costs.layers} for costs in (plan, built))
    assert planned == counted
    # Nothing but larq's, Keras' and this package's own layers, each by itself.
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    name = "cell1_node0_from0_bin_res_conv_3x3"
    by_name = {key.removeprefix(f"{name}_"): layer for key, layer in counted.items()}
    macs = 4 * 4 * 3 * 3 * 8 * 8  # 4×4 outputs of 8 filters that read 3×3×8
    if not settings.get("scheme"):
        assert (by_name["conv"].binary_macs, by_name["conv"].full_precision_macs) == (macs, 0)
        assert by_name["conv"].bits == 3 * 3 * 8 * 8 + 32 * 8
    assert by_name["behind_bn"].parameters == 4 * 8
    assert (by_name["prelu"].parameters, by_name["prelu"].bits) == (8, 32 * 8)


def test_gradients_reach_the_input_past_the_sign():
    """Where the sign passes none, the sum does."""
    inputs = keras.Input((4, 4, 2))
    context = Context("place", 2)
    model = keras.Model(inputs, chain(build_operation("bin_res_conv_3x3", context), inputs))
    x = 100.0 * tf.random.stateless_normal([1, 4, 4, 2], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = model(x)
    np.testing.assert_allclose(tape.gradient(outputs, x), np.where(outputs > 0, 1.0, 0.25))
