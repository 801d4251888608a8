"""Costs as visible arithmetic, and against larq's own summary."""

from __future__ import annotations

import json

import pytest
from counted_network import BINARY, small_network

from bnas_larq.backend import keras, lq
from bnas_larq.costs.accounting import count_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.operations import Context, build_operation
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.networks.network import build_network


def single(layer, shape=(32, 32, 16)):
    """Cost of one layer alone on an input of `shape`."""
    inputs = keras.Input(shape)
    return count_costs(keras.Model(inputs, layer(inputs))).layers[0]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.Conv2D(8, 3, padding="same"), 32 * 32 * 3 * 3 * 16 * 8),
        (keras.layers.Conv2D(8, 3, padding="valid"), 30 * 30 * 3 * 3 * 16 * 8),
        (keras.layers.Conv2D(8, 3, strides=2, padding="same"), 16 * 16 * 3 * 3 * 16 * 8),
        (keras.layers.Conv2D(8, (1, 5), strides=(2, 1)), 16 * 28 * 1 * 5 * 16 * 8),
        (keras.layers.Conv2D(8, 3, padding="same", groups=4), 32 * 32 * 3 * 3 * (16 // 4) * 8),
        (keras.layers.Conv2D(8, 3, dilation_rate=2, padding="same"), 32 * 32 * 3 * 3 * 16 * 8),
        (keras.layers.Conv2D(8, 3, dilation_rate=2, padding="valid"), 28 * 28 * 3 * 3 * 16 * 8),
        (keras.layers.DepthwiseConv2D(5, depth_multiplier=2, padding="same"), 32 * 32 * 5 * 5 * 32),
        (
            keras.layers.SeparableConv2D(8, 3, strides=2, padding="same"),
            16 * 16 * 3 * 3 * 16 + 16 * 16 * 16 * 8,
        ),
        (keras.layers.Conv2DTranspose(8, 3, strides=2, padding="same"), 32 * 32 * 3 * 3 * 16 * 8),
        (keras.layers.Dense(10), 32 * 32 * 16 * 10),
    ],
)
def test_full_precision_macs(layer, expected):
    cost = single(layer)
    assert (cost.full_precision_macs, cost.binary_macs) == (expected, 0)


def test_channels_first_counts_pixels_and_not_channels():
    cost = single(keras.layers.Conv2D(8, 3, data_format="channels_first"), shape=(16, 32, 24))
    assert cost.full_precision_macs == 30 * 22 * 3 * 3 * 16 * 8


def test_locally_connected():
    cost = single(keras.layers.LocallyConnected2D(2, 3), shape=(8, 8, 4))
    assert cost.full_precision_macs == 6 * 6 * 3 * 3 * 4 * 2


def test_one_dimension():
    cost = single(keras.layers.Conv1D(8, 3, padding="same"), shape=(64, 6))
    assert cost.full_precision_macs == 64 * 3 * 6 * 8


def test_a_mac_is_1_bit_only_if_both_operands_are():
    both = lq.layers.QuantConv2D(8, 3, padding="same", **BINARY)
    only_input = lq.layers.QuantConv2D(8, 3, padding="same", input_quantizer="ste_sign")
    only_kernel = lq.layers.QuantConv2D(
        8, 3, padding="same", kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
    )
    macs = 32 * 32 * 3 * 3 * 16 * 8
    assert single(both).macs == {1: macs}
    assert single(only_input).macs == {32: macs}
    assert single(only_kernel).macs == {32: macs}
    ternary = {**BINARY, "kernel_quantizer": "ste_tern"}
    assert single(lq.layers.QuantConv2D(8, 3, padding="same", **ternary)).macs == {2: macs}


@pytest.mark.parametrize(
    ("between", "binary"),
    [
        ([keras.layers.Activation(lq.quantizers.SteSign())], True),
        ([lq.quantizers.SteSign()], True),
        ([keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.MaxPooling2D(1)], True),
        (
            [keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.Reshape((16, 64, 16))],
            True,
        ),
        ([keras.layers.Conv2D(16, 1, activation=lq.quantizers.SteSign())], True),
        (
            [keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.AveragePooling2D(1)],
            False,
        ),
        (
            [keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.BatchNormalization()],
            False,
        ),
        ([keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.ReLU()], False),
        ([keras.layers.Activation(lq.quantizers.SteSign()), keras.layers.ZeroPadding2D(0)], False),
    ],
)
def test_the_sign_may_be_an_earlier_layer(between, binary):
    inputs = x = keras.Input((32, 32, 16))
    for layer in between:
        x = layer(x)
    kernel = {key: BINARY[key] for key in ("kernel_quantizer", "kernel_constraint")}
    x = lq.layers.QuantConv2D(8, 3, padding="same", name="last", **kernel)(x)
    cost = count_costs(keras.Model(inputs, x)).layers[-1]
    assert cost.macs == {1 if binary else 32: 32 * 32 * 3 * 3 * 16 * 8}


def test_concatenation_is_1_bit_if_all_its_parts_are():
    inputs = keras.Input((8, 8, 4))
    sign = keras.layers.Activation(lq.quantizers.SteSign())(inputs)
    kernel = {key: BINARY[key] for key in ("kernel_quantizer", "kernel_constraint")}
    pure = keras.layers.Concatenate()([sign, sign])
    mixed = keras.layers.Concatenate()([sign, inputs])
    outputs = [
        lq.layers.QuantConv2D(2, 1, name="pure", **kernel)(pure),
        lq.layers.QuantConv2D(2, 1, name="mixed", **kernel)(mixed),
    ]
    macs = {layer.name: layer.macs for layer in count_costs(keras.Model(inputs, outputs)).layers}
    assert macs == {"pure": {1: 8 * 8 * 8 * 2}, "mixed": {32: 8 * 8 * 8 * 2}}


def test_totals_bytes_and_parameters():
    costs = count_costs(small_network())
    stem, binary, dense = 32 * 32 * 3 * 3 * 3 * 16, 16 * 16 * 3 * 3 * 16 * 32, 32 * 10
    assert costs.full_precision_macs == stem + dense
    assert costs.binary_macs == binary
    assert costs.ops_paper == costs.ops_honest == stem + dense + binary / 64
    latent = 3 * 3 * 16 * 32
    batch_norms = 4 * 16 + 2 * 32
    other = 3 * 3 * 3 * 16 + batch_norms + 32 * 10 + 10
    assert costs.parameters == latent + other
    assert costs.trainable_parameters == latent + other - 2 * 16 - 2 * 32
    assert costs.bytes == latent // 8 + 4 * other


@pytest.mark.parametrize("quantizer", [SignScale(), lq.quantizers.MagnitudeAwareSign()])
def test_scaled_kernels_store_one_scale_per_output_channel(quantizer):
    settings = {**BINARY, "kernel_quantizer": quantizer}
    cost = single(lq.layers.QuantConv2D(24, 3, use_bias=False, **settings))
    assert cost.bytes == 3 * 3 * 16 * 24 // 8 + 4 * 24
    assert cost.parameters == 3 * 3 * 16 * 24
    assert cost.binary_macs == 30 * 30 * 3 * 3 * 16 * 24


def test_depthwise_kernels_store_one_scale_per_filter():
    (layer,) = Context("place", 16).binary_depthwise(3)
    cost = single(layer)
    assert cost.bytes == 3 * 3 * 16 // 8 + 4 * 16
    assert cost.binary_macs == 32 * 32 * 3 * 3 * 16


def test_pcnn_stores_one_scale_per_layer_and_no_projection():
    (layer,) = Context("place", 24, scheme="pcnn").binary_conv(3)
    cost = single(layer)
    assert cost.bytes == 3 * 3 * 16 * 24 // 8 + 4
    # Training moves the projection too, one for all filters.
    assert cost.trainable_parameters == 3 * 3 * 16 * 24 + 3 * 3 * 16
    assert cost.binary_macs == 32 * 32 * 3 * 3 * 16 * 24


def test_a_factorised_reduction_reads_half_of_the_pixels_with_half_of_the_filters():
    layer = build_operation("identity", Context("place", 16, strides=2))[-1]
    cost = single(layer)
    assert cost.binary_macs == 16 * 16 * 16 * 16
    assert cost.bytes == 16 * 16 // 8 + 4 * 16


def test_the_full_precision_twin_counts_four_bytes_and_no_binary_mac():
    place = Context("place", 16, scheme="full-precision")
    for (layer,), weights in (
        (place.binary_conv(3), 3 * 3 * 16 * 16),
        (place.binary_depthwise(3), 3 * 3 * 16),
    ):
        cost = single(layer)
        assert (cost.binary_macs, cost.full_precision_macs) == (0, 32 * 32 * weights)
        assert cost.bytes == 4 * weights


@pytest.mark.parametrize(
    ("kind", "macs", "parameters"),
    [
        # 2×2 from 16 to 32 channels at 8², and from 32 to 64 at 4²; BatchNorm in front, and bias.
        ("conv", 8**2 * 4 * 16 * 32 + 4**2 * 4 * 32 * 64, 4 * (16 * 32 + 32 * 64)),
        ("depthwise", 8**2 * 4 * 32 + 4**2 * 4 * 64, 4 * (32 + 64)),
        ("pool", 0, 32 + 64),
        ("none", 0, 0),
    ],
)
def test_shortcuts_of_each_kind_beside_none(kind, macs, parameters):
    if macs:
        parameters += 4 * (16 + 32) + (32 + 64)
    genotype = Genotype.published("bnas_imagenet")
    settings = {"input_shape": (16, 16, 3), "cells": 4, "channels": 4}
    costs, without = (
        count_costs(build_network(genotype, shortcut=shortcut, **settings))
        for shortcut in (kind, "none")
    )
    assert costs.shortcut_macs == macs
    assert costs.ops_honest - without.ops_honest == macs
    assert costs.ops_paper - without.ops_paper == macs / 64
    assert costs.binary_macs == without.binary_macs
    assert costs.parameters - without.parameters == parameters


def test_shortcut_convolutions_are_divided_in_the_papers_convention_only():
    inputs = keras.Input((32, 32, 16))
    shortcut = lq.layers.QuantConv2D(
        64, 2, strides=2, padding="same", name="cell2_shortcut_conv", use_bias=True
    )(inputs)
    x = lq.layers.QuantConv2D(64, 3, strides=2, padding="same", **BINARY)(inputs)
    costs = count_costs(keras.Model(inputs, keras.layers.Add()([x, shortcut])))
    fp, binary = 16 * 16 * 2 * 2 * 16 * 64, 16 * 16 * 3 * 3 * 16 * 64
    assert costs.shortcut_macs == costs.full_precision_macs == fp
    assert costs.ops_honest == costs.ops("honest") == fp + binary / 64
    assert costs.ops_paper == costs.ops("paper") == (fp + binary) / 64
    with pytest.raises(BnasLarqError, match="Received: 'honset'; did you mean 'honest'"):
        costs.ops("honset")
    assert "cell2_shortcut_conv *" in costs.table()


def test_bnas_d_has_the_operations_its_paper_prints():
    """BNAS (arXiv 2002.06963) prints 1.48e8 for BNAS-D; its shortcuts are not really binary."""
    model = build_network(
        Genotype.published("bnas_imagenet"),
        input_shape=(224, 224, 3),
        num_classes=1000,
        channels=64,
        cells=12,
    )
    costs = count_costs(model)
    stem = 112**2 * 3 * 3 * 3 * 32 + 56**2 * 3 * 3 * 32 * 64 + 28**2 * 3 * 3 * 64 * 64
    shortcuts = 14**2 * 2 * 2 * 256 * 512 + 7**2 * 2 * 2 * 512 * 1024
    assert costs.shortcut_macs == shortcuts
    assert costs.full_precision_macs == stem + shortcuts + 1024 * 1000
    assert costs.ops_paper == pytest.approx(1.476e8, rel=1e-3)
    assert costs.ops_honest == pytest.approx(3.50e8, rel=1e-3)


def backbone(size):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(inputs)
    outputs = lq.layers.QuantConv2D(8, 3, padding="same", name="binary", **BINARY)(x)
    return keras.Model(inputs, outputs, name="backbone")


@pytest.mark.parametrize("size", [16, None])
def test_nested_models_are_counted_at_the_size_they_are_called_with(size):
    inner = backbone(size)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    calls_before = len(inner.get_layer("stem")._inbound_nodes)
    costs = count_costs(model)
    assert [layer.name for layer in costs.layers[:2]] == ["backbone/stem", "backbone/binary"]
    assert costs.layers[0].full_precision_macs == 8 * 8 * 3 * 3 * 3 * 8
    assert costs.binary_macs == 8 * 8 * 3 * 3 * 8 * 8
    assert costs.parameters == model.count_params()
    assert len(inner.get_layer("stem")._inbound_nodes) == calls_before


def test_an_open_input_size_needs_an_input_shape():
    with pytest.raises(BnasLarqError, match="fixed input size. Received: .*stem.* input_shape"):
        count_costs(backbone(None))
    costs = count_costs(backbone(None), input_shape=(24, 24, 3))
    assert costs.binary_macs == 12 * 12 * 3 * 3 * 8 * 8
    with pytest.raises(BnasLarqError, match="that the model accepts. Received: .*24, 24, 7"):
        count_costs(backbone(32), input_shape=(24, 24, 7))


def test_frozen_layers_are_not_trainable():
    model = backbone(8)
    model.get_layer("stem").trainable = False
    costs = count_costs(model)
    assert costs.trainable_parameters == 3 * 3 * 8 * 8 + 8


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(BnasLarqError, match="along the graph .*Received: .*Subclassed"):
        count_costs(Subclassed())


def test_layers_of_unknown_use_are_named():
    inputs = keras.Input((6, 4))
    outputs = keras.layers.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    costs = count_costs(keras.Model(inputs, outputs))
    assert costs.uncounted == ("attention",)
    assert "not counted in: attention" in costs.table()


def test_activations_with_weights_are_counted_by_convention():
    """PReLU keeps [1, 1, channels]: a vector, which multiplies no matrix."""
    layer = keras.layers.PReLU(shared_axes=[1, 2], name="prelu")
    inputs = keras.Input((8, 8, 4))
    costs = count_costs(keras.Model(inputs, layer(inputs)))
    assert (costs.uncounted, costs.parameters, costs.full_precision_macs) == ((), 4, 0)


def test_to_dict_is_json_and_the_table_has_every_layer():
    costs = count_costs(small_network())
    restored = json.loads(json.dumps(costs.to_dict()))
    assert restored["binary_macs"] == sum(row["binary_macs"] for row in restored["layers"])
    assert restored["ops_honest"] == costs.ops_honest
    table = costs.table()
    assert all(layer.name in table for layer in costs.layers)
    assert f"{costs.bytes:,} bytes" in table
