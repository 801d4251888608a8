"""Counted costs beside larq's summary: where both agree, and where they differ on purpose."""

from __future__ import annotations

import pytest
from counted_network import small_network

from bnas_larq.backend import keras, lq
from bnas_larq.costs.accounting import count_costs
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network


@pytest.fixture(scope="module")
def larq_zoo():
    """Imported late: it needs the Keras 2 that bnas_larq.backend has switched on."""
    import larq_zoo

    return larq_zoo


def assert_macs_agree(model):
    costs, profile = count_costs(model), lq.models.ModelProfile(model)
    assert costs.binary_macs == profile.op_count("mac", 1)
    assert costs.full_precision_macs == profile.op_count("mac", 32)
    assert costs.parameters == model.count_params()
    return costs, profile


def test_agrees_with_larq_on_a_small_network():
    model = small_network()
    costs, profile = assert_macs_agree(model)
    # larq takes two of BatchNorm's four vectors (scale and offset of the first one here) as fused
    # into the others; we count what is stored
    fused = 2 * 16
    assert costs.trainable_parameters == profile.weight_count(trainable=True) + fused
    assert costs.bytes == profile.memory // 8 + 4 * fused


@pytest.mark.parametrize(
    ("genotype", "settings"),
    [
        ("bnas_cifar", {"channels": 4, "cells": 3}),
        ("bnas_imagenet", {"input_shape": (96, 96, 3), "channels": 8, "cells": 2}),
        ("bnas_imagenet", {"stem": "imagenet", "stem_groups": 4, "channels": 8, "cells": 1}),
    ],
)
def test_agrees_with_larq_on_our_networks(genotype, settings):
    model = build_network(Genotype.published(genotype), **settings)
    costs, profile = assert_macs_agree(model)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    # two vectors of each BatchNorm remain for larq, scale and offset go; see above
    fused = sum(norm.count_params() - 2 * norm.moving_mean.shape[0] for norm in norms)
    assert costs.parameters == profile.weight_count() + fused
    # larq knows no scales of kernels: one for each output channel of a binary convolution
    scales = sum(layer.output_shape[-1] for layer in costs.layers if layer.binary_macs)
    assert costs.bytes == profile.memory // 8 + 4 * fused + 4 * scales


def test_agrees_with_larq_on_quicknet(larq_zoo):
    costs, profile = assert_macs_agree(
        larq_zoo.sota.QuickNetSmall(input_shape=(64, 64, 3), weights=None)
    )
    assert costs.binary_macs > 0 and costs.uncounted == ()


def test_agrees_with_larq_on_birealnet_at_the_papers_size(larq_zoo):
    model = larq_zoo.literature.BiRealNet(input_shape=(224, 224, 3), weights=None)
    costs, _ = assert_macs_agree(model)
    # Bi-Real Net's own table says 1.63e8; the paper rounds its parts
    assert costs.ops_paper == pytest.approx(1.63e8, rel=0.01)
    # each of its 16 binary convolutions keeps its scales
    scales = sum(
        layer.output_shape[-1] for layer in costs.layers if layer.binary_macs and layer.parameters
    )
    latent = sum(layer.parameters for layer in costs.layers if layer.binary_macs)
    assert costs.bytes == latent // 8 + 4 * scales + 4 * (costs.parameters - latent)


def test_deliberate_differences_from_larq():
    """larq calls a separable convolution's second half 1-bit, and counts a shared layer once."""
    inputs = keras.Input((8, 8, 4))
    quantized = lq.layers.QuantSeparableConv2D(
        4,
        3,
        padding="same",
        input_quantizer="ste_sign",
        depthwise_quantizer="ste_sign",
        pointwise_quantizer="ste_sign",
        depthwise_constraint="weight_clip",
        pointwise_constraint="weight_clip",
    )
    once = keras.Model(inputs, quantized(inputs))
    depthwise, pointwise = 8 * 8 * 3 * 3 * 4, 8 * 8 * 4 * 4
    assert count_costs(once).layers[0].macs == {1: depthwise, 32: pointwise}
    assert lq.models.ModelProfile(once).op_count("mac", 1) == depthwise + pointwise

    shared = keras.layers.Conv2D(4, 3, padding="same")
    twice = count_costs(keras.Model(inputs, shared(shared(inputs))))
    assert twice.full_precision_macs == 2 * (8 * 8 * 3 * 3 * 4 * 4)
    assert twice.parameters == 3 * 3 * 4 * 4 + 4
