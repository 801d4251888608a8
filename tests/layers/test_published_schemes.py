"""Schemes of other systems in networks of both kinds: trained, counted, saved and deployed."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq import (
    Genotype,
    NetworkConfig,
    ResidualConfig,
    SearchSpace,
    SuperNet,
    build_binary_duo,
    build_network,
    build_residual_network,
    count_costs,
    decouple,
    planned_costs,
)
from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.export.exporter import export_network
from bnas_larq.export.nested_models import flattened
from bnas_larq.layers.context import Context
from bnas_larq.networks.saved_models import load_saved_model
from bnas_larq.train_settings import TrainSettings, training_plan
from bnas_larq.training.recipe_training import check_stages

SCHEMES = (
    *("binarynet", "xnor-k", "xnor-plus-plus", "xnor-plus-plus-channel", "bi-real", "react"),
    *("real-to-binary", "circulant", "binary-duo", "pcnn-4", "abc-net-3x5"),
)
BLOCKS = {"input_shape": (8, 8, 3), "num_classes": 3, "widths": (8, 16), "blocks": (1, 1)}
CELLS = {"input_shape": (8, 8, 3), "num_classes": 3, "cells": 3, "channels": 4}


def network(kind: str, scheme: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    if kind == "residual":
        return build_residual_network(**BLOCKS, scheme=scheme, block_order="bn-sign-conv-act-add")
    return build_network(Genotype.published("bnas_imagenet"), **CELLS, scheme=scheme)


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_trains_and_is_saved_and_deployed_in_1_bit(scheme, tmp_path):
    pytest.importorskip("larq_compute_engine")
    model = network("residual", scheme)
    before = model.get_weights()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(), np.arange(8) % 3, batch_size=4, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        assert not np.array_equal(weight.numpy(), old), weight.name
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        again = keras.models.load_model(tmp_path / name)
        np.testing.assert_array_equal(again(images()), model(images()))
    report = export_network(model, tmp_path / "model.tflite", images())
    pairs = 3 * 5 if scheme == "abc-net-3x5" else 1
    assert report["binary_convolutions"] == 2 * pairs
    assert report["parity"]["equal_predictions"] == 1.0


@pytest.mark.parametrize("scheme", ["binarynet", "abc-net", "abc-net-3x5", "pcnn", "pcnn-4"])
def test_kernels_start_and_stay_within_equal_bounds(scheme):
    """At first U(−1/√n, 1/√n), n the fan-in; then within ±1."""
    keras.utils.set_random_seed(0)
    (conv,) = Context("edge", 32, scheme=scheme).binary_conv(3)
    conv.build((None, 8, 8, 32))
    bound = 1 / np.sqrt(3 * 3 * 32)
    assert 0.95 * bound < np.abs(conv.kernel).max() <= bound
    np.testing.assert_array_equal(conv.kernel.constraint(tf.constant([-2.0, 0.5])), [-1.0, 0.5])


@pytest.mark.parametrize("scheme", ["react", "real-to-binary"])
def test_cells_have_the_layers_too(scheme):
    model = network("cells", scheme)
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    kind = {"react": "threshold", "real-to-binary": "gated"}[scheme]
    around = {layer.name for layer in model.layers if layer.name.endswith(f"_{kind}")}
    assert around == {f"{layer.name.removesuffix('_conv')}_{kind}" for layer in binary}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_costs_are_those_of_the_built_network(scheme):
    pairs = [
        (ResidualConfig(**BLOCKS, scheme=scheme), None),
        (NetworkConfig(**CELLS, scheme=scheme), Genotype.published("bnas_cifar")),
    ]
    if scheme == "abc-net-3x5":
        pairs.pop()  # the cells have dilated convolutions
    for config, genotype in pairs:
        planned = planned_costs(genotype, config)
        counted = count_costs(build_network(genotype, config))
        assert {layer.name: layer for layer in planned.layers} == {
            layer.name: layer for layer in counted.layers
        }
        assert planned.peak_activation_bytes == counted.peak_activation_bytes


@pytest.mark.parametrize("scheme", ["circulant", "binary-duo"])
def test_unbounded_kernels_give_no_warning(scheme, caplog, tmp_path):
    """Of larq, that its kernels may starve; still for layers that it is not meant for."""
    models = [network(kind, scheme) for kind in ("residual", "cells")]
    models.append(build_residual_network(**BLOCKS, scheme=scheme, activations="clip"))
    models[0].save(tmp_path / "model.keras")
    flattened(load_saved_model(tmp_path / "model.keras"))
    size = {"widths": (4, 8), "blocks": (1, 1), "last_width": 8, "input_shape": (8, 8, 3)}
    decouple(build_binary_duo(**size))
    assert "starved" not in caplog.text
    lq.layers.QuantConv2D(2, 3, kernel_quantizer="ste_sign")
    assert "starved weights" in caplog.text


def test_a_gate_costs_two_small_convolutions():
    gated, plain = (
        count_costs(build_residual_network(**BLOCKS, scheme=scheme))
        for scheme in ("real-to-binary", "binarynet")
    )
    assert gated.binary_macs == plain.binary_macs
    macs = 8 * 1 + 1 * 8 + 16 * 2 + 2 * 16
    assert gated.full_precision_macs - plain.full_precision_macs == macs
    scales = 8 + 16
    assert gated.bytes - plain.bytes == 4 * (macs + scales)


def test_xnors_k_is_a_convolution_of_one_channel():
    scaled, plain = (
        count_costs(build_residual_network(**BLOCKS, scheme=scheme))
        for scheme in ("xnor-k", "xnor")
    )
    assert (scaled.binary_macs, scaled.bytes) == (plain.binary_macs, plain.bytes)
    assert scaled.full_precision_macs - plain.full_precision_macs == 3 * 3 * (8 * 8 + 4 * 4)


def test_xnors_k_multiplies_the_output_of_the_convolution():
    model = network("residual", "xnor-k")
    plain = network("residual", "xnor")
    plain.set_weights(model.get_weights())
    layers = [plain.get_layer("block0_0_bn").output, plain.get_layer("block0_0_conv").output]
    norm, convolved = keras.Model(plain.inputs, layers)(images())
    scaled = keras.Model(model.inputs, model.get_layer("block0_0_scaled").output)(images())
    window = np.full((3, 3, 1, 1), 1 / 9, np.float32)
    means = tf.reduce_mean(tf.abs(norm), axis=-1, keepdims=True)
    expected = convolved * tf.nn.conv2d(means, window, 1, "SAME")
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)


def test_bi_real_is_larqs():
    conv = network("residual", "bi-real").get_layer("block0_0_conv")
    x = tf.constant([-1.5, -0.5, 0.25, 2.0])
    gradients = []
    for quantizer in (conv.input_quantizer, lq.quantizers.ApproxSign()):
        with tf.GradientTape() as tape:
            tape.watch(x)
            signs = quantizer(x)
        gradients.append(tape.gradient(signs, x).numpy())
    np.testing.assert_array_equal(*gradients)
    assert isinstance(conv.kernel_quantizer, lq.quantizers.MagnitudeAwareSign)


def test_supernets_refuse_layers_around_convolutions():
    space = SearchSpace.named("bnas")
    with pytest.raises(BnasLarqError, match="Received: 'react'. Search with sign-scale"):
        SuperNet(space, num_classes=3, cells=3, channels=4, scheme="react")


def test_k_needs_same_padding():
    with pytest.raises(BnasLarqError, match="SAME padding. Received: padding='valid'"):
        build_network(
            Genotype.published("bnas_cifar"), **CELLS, scheme="xnor-k", padding="symmetric"
        )


@pytest.mark.parametrize("scheme", ["bi-real", "react", "abc-net"])
@pytest.mark.parametrize("setting", [{"activation_clip": 1.5}, {"activation_gradient": "approx"}])
def test_a_sign_of_its_own_keeps_its_gradient(scheme, setting):
    with pytest.raises(BnasLarqError, match="has its gradient, too. Received: .*or use sign-scale"):
        ResidualConfig(**BLOCKS, scheme=scheme, **setting)
    ResidualConfig(**BLOCKS, scheme=scheme, activations="leaky-clip", activation_clip=1.5)


def test_real_activations_have_no_k():
    """K stands for the magnitudes that signs lose."""
    names = {
        layer.name
        for layer in build_residual_network(**BLOCKS, scheme="xnor-k", activations="clip").layers
    }
    assert "block0_0_conv" in names and "block0_0_scaled" not in names


def test_scales_of_pixels_refuse_crops():
    plan = training_plan(TrainSettings(stages=[{"crop_size": 6}, {}]))
    with pytest.raises(RecipeError, match="fit one image size. Received: crop_size 6"):
        check_stages(plan, ResidualConfig(**BLOCKS, scheme="xnor-plus-plus"))
