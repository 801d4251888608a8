"""Export of networks that are built from genotypes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.export.converter import convert
from bnas_larq.export.exporter import export_network
from bnas_larq.export.layer_precision import judge
from bnas_larq.export.lint import lint
from bnas_larq.export.lint_text import lint_text
from bnas_larq.export.parity import check_parity
from bnas_larq.export.tflite_file import read_convolutions
from bnas_larq.genotype import Genotype
from bnas_larq.layers.convolutions import convolution
from bnas_larq.networks.network import build_network


@pytest.fixture(scope="module")
def network(with_statistics):
    """Builds small networks with statistics as after training."""

    def build(genotype, **settings):
        size = {"num_classes": 5, "cells": 3, "channels": 6}
        return with_statistics(build_network(Genotype.load(genotype), **size, **settings))

    return build


def test_everything_but_stem_shortcut_and_classifier_is_one_bit(network, tmp_path):
    """8×8 images: the last cell works on 2×2, smaller than every kernel but 1×1."""
    model = network("bnas_imagenet", input_shape=(8, 8, 3))
    images = np.random.default_rng(2).normal(size=(40, 8, 8, 3)).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["parity"]["equal_predictions"] == 1.0
    assert sorted(report["not_binary_because"]) == [
        "cell1_shortcut_conv",
        "cell2_shortcut_conv",
        "classifier",
        "stem_conv",
    ]
    assert all("by design" in reason for reason in report["not_binary_because"].values())
    assert report["exact_padding"]
    convolutions = [layer.name for layer in model.layers if layer.name.endswith("_conv")]
    listed = [row["name"] for row in report["convolutions"] if row["kind"] == "convolution"]
    assert sorted(listed) == sorted(convolutions)
    assert {row["named_by"] for row in report["convolutions"]} == {"kernel"}


@pytest.mark.parametrize(
    ("kind", "precise"),
    [("pool", []), ("depthwise", ["cell1_shortcut_conv", "cell2_shortcut_conv"])],
)
def test_cheap_shortcuts_compute_the_same_in_the_file(kind, precise, tmp_path):
    """With odd sizes on the way: 9×9, 5×5, 3×3."""
    model = small([("max_pool_3x3", 0), ("bin_conv_3x3", 1)], shortcut=kind, input_shape=(9, 9, 3))
    for weight in model.weights:
        if "shortcut_scale" in weight.name:
            weight.assign(np.random.default_rng(3).uniform(0.5, 1.5, weight.shape))
    images = np.random.default_rng(2).normal(size=(8, 9, 9, 3)).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["parity"]["max_abs_difference"] < 1e-4
    assert sorted(report["not_binary_because"]) == [*precise, "classifier", "stem_conv"]
    assert all("by design" in reason for reason in report["not_binary_because"].values())


@pytest.mark.parametrize("gradient", ["ste", "approx", "annealed"])
def test_the_signs_gradient_changes_nothing_in_the_file(gradient):
    model = small([("bin_conv_3x3", 0)], cells=1, activation_gradient=gradient, activation_clip=2.0)
    content = convert(model)
    assert [row.name for row in read_convolutions(content, model) if row.binary] == [
        "cell0_preprocess0_conv",
        "cell0_node0_from0_bin_conv_3x3_conv",
    ]
    images = np.random.default_rng(2).normal(size=(8, 8, 8, 3)).astype(np.float32)
    assert check_parity(model, content, images).max_abs_difference < 1e-4


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kernels": "real"}, "has no kernel quantizer .*a network with real kernels"),
        ({"kernels": "real", "scheme": "pcnn", "activations": "tanh"}, "has no kernel quantizer"),
        ({"kernels": "real", "scheme": "bonn", "activations": "clip"}, "has no kernel quantizer"),
        ({"activations": "leaky-clip"}, "its input is real, behind leaky-clip"),
    ],
)
def test_real_stages_export_in_full_precision_and_lint_says_why(settings, reason):
    model = small([("bin_conv_5x5", 0)], cells=1, input_shape=(4, 4, 3), **settings)
    found = lint(model)
    verdict = {layer.name: layer for layer in found.layers}["cell0_node0_from0_bin_conv_5x5_conv"]
    assert verdict.cause == "design" and re.search(reason, verdict.reason)
    assert verdict.bytes == 5 * 5 * 4 * 4 * 4 + 4 * 4 * verdict.meant  # and its scales
    assert found.ops == found.outside_ops and found.constants == {}
    assert "were meant to be 1-bit" not in lint_text(found)
    content = convert(model)
    assert not any(row.binary for row in read_convolutions(content, model))
    images = np.random.default_rng(2).normal(size=(8, 4, 4, 3)).astype(np.float32)
    assert check_parity(model, content, images).max_abs_difference < 1e-4


def small(cell, **settings):
    """Three cells of one node, each of which reduces or not, with statistics as after training."""
    size = {"input_shape": (8, 8, 3), "channels": 4, "cells": 3, "shortcut": False}
    genotype = Genotype([cell], [cell])
    model = build_network(genotype, num_classes=3, **{**size, **settings})
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                near = 1.0 if "gamma" in weight.name or "variance" in weight.name else 0.0
                weight.assign(near + generator.uniform(-0.2, 0.2, weight.shape))
    return model


@pytest.mark.parametrize(
    ("operations", "settings", "float_kinds"),
    [
        (("identity", "bin_dil_conv_3x3_linear"), {}, set()),
        (("identity", "bin_conv_3x3_linear"), {"input_shape": (7, 7, 3), "scheme": "pcnn"}, set()),
        (("bin_res_conv_3x3", "bin_res_dil_conv_5x5"), {"shortcut": "pool"}, set()),
        # Larq Compute Engine has no 1-bit depthwise kernel: those stay float, and compute the same.
        (("bin_sep_conv_3x3", "bin_dil_sep_conv_5x5"), {}, {"depthwise"}),
        (("bin_sep_conv_3x3", "identity"), {"scheme": "sign-scale-centred"}, {"depthwise"}),
    ],
    ids=["skip", "pcnn", "residual", "separable", "blind"],
)
def test_further_operations_and_schemes_compute_the_same_in_the_file(
    operations, settings, float_kinds, tmp_path
):
    model = small([(operations[0], 0), (operations[1], 1)], **settings)
    images = np.random.default_rng(2).normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["parity"]["max_abs_difference"] < 1e-4
    assert {row["named_by"] for row in report["convolutions"]} == {"kernel"}
    assert report["memory"]["peak_activations"] == count_costs(model).peak_activation_bytes
    designed = {"stem_conv", "classifier"}
    lost = {row["kind"] for row in report["convolutions"] if not row["binary"]}
    assert lost == {"convolution", "dense"} | float_kinds
    for row in report["convolutions"]:
        assert row["binary"] == (row["kind"] == "convolution" and row["name"] not in designed)
    verdicts = judge(model)
    assert all(verdicts[row["name"]].binary == row["binary"] for row in report["convolutions"])


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("scheme", ["sign-scale", None])
def test_strided_convolutions_with_symmetric_padding_compute_the_same_in_the_file(
    size, kernel_size, scheme
):
    images = keras.Input((size, size, 4))
    layer = convolution(
        3,
        kernel_size,
        name="conv",
        strides=2,
        padding="symmetric",
        input_scheme=scheme,
        kernel_scheme=scheme,
    )
    model = keras.Model(images, layer(images))
    pictures = np.random.default_rng(0).normal(size=(2, size, size, 4)).astype(np.float32)
    assert check_parity(model, convert(model), pictures).max_abs_difference < 1e-5
    margin = kernel_size // 2
    read = pictures if scheme is None else np.where(pictures < 0, -1.0, 1.0)
    padded = np.pad(read, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    with lq.context.quantized_scope(True):
        kernel = keras.backend.get_value(layer.kernel)
    expected = tf.nn.conv2d(padded.astype(np.float32), kernel, 2, "VALID")
    np.testing.assert_allclose(model(pictures), expected, atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kind", ["float", "binary", "depthwise", "two readers"])
def test_explicit_margins_before_strided_convolutions_compute_the_same_in_the_file(size, kind):
    """As ResNets and MobileNets of keras.applications pad."""
    images = keras.Input((size, size, 4))
    padded = keras.layers.ZeroPadding2D(1)(images)
    if kind == "depthwise":
        outputs = keras.layers.DepthwiseConv2D(3, 2)(padded)
    elif kind == "binary":
        quantizers = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
        outputs = lq.layers.QuantConv2D(3, 3, 2, **quantizers)(padded)
    else:
        outputs = keras.layers.Conv2D(3, 3, 2)(padded)
    if kind == "two readers":
        outputs = keras.layers.Add()([outputs, keras.layers.MaxPooling2D(3, 2)(padded)[..., :3]])
    model = keras.Model(images, outputs)
    pictures = np.random.default_rng(0).normal(size=(2, size, size, 4)).astype(np.float32)
    assert check_parity(model, convert(model), pictures).max_abs_difference < 1e-5


@pytest.mark.parametrize(("channels", "groups", "binary"), [(8, 4, False), (64, 2, True)])
def test_grouped_convolutions_are_1_bit_from_32_channels_for_each_group_on(
    channels, groups, binary, tmp_path
):
    """BATS' operations and preprocessing. Larq Compute Engine's default kernel runs no groups."""
    cell = [("bin_group_conv_3x3", 0), ("bin_group_dil_conv_5x5", 1)]
    model = small(cell, channels=channels, groups=groups, scheme="binarynet")
    images = np.random.default_rng(2).normal(size=(4, 8, 8, 3)).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["parity"]["max_abs_difference"] < 1e-3
    rows = {row["name"]: row["binary"] for row in report["convolutions"]}
    verdicts = judge(model)
    assert rows == {name: verdict.binary for name, verdict in verdicts.items()}
    grouped = {name for name in rows if "_bin_group_" in name}
    assert len(grouped) == 2 * 3 and {rows[name] for name in grouped} == {binary}
    assert all(rows[name] for name in rows if "preprocess" in name)
    text = lint_text(lint(model))
    if binary:
        assert "With groups, which only Larq Compute Engine's indirect kernels run" in text
    else:
        assert "each of its 4 groups reads 2 input channels" in text
        assert {verdicts[name].cause for name in grouped} == {"groups"}
