"""Residual networks become files whose binary convolutions are 1-bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bnas_larq import build_residual_network, count_costs
from bnas_larq.backend import keras, lq
from bnas_larq.export.converter import convert
from bnas_larq.export.exporter import export_network
from bnas_larq.export.flatbuffer import read_graph
from bnas_larq.export.fused_relu import with_fused_relus
from bnas_larq.export.lint import lint
from bnas_larq.layers.scaling import LearnedScale

SMALL = {"widths": (4, 8), "blocks": (1, 2), "input_shape": (8, 8, 3)}


@pytest.mark.parametrize(
    ("settings", "binary_convolutions", "float_convolutions"),
    [
        ({"transition": "depthwise", "nonlinearity": "prelu"}, 3, 2),
        ({"transition": "conv-max-pool", "blocks": (0, 1)}, 1, 2),
        (
            {
                "transition": "pool-conv",
                "strided_blocks": True,
                "block_order": "sign-conv-bn-add-act",
                "nonlinearity": "rprelu",
            },
            3,
            2,
        ),
        (
            {
                "transition": "binary-conv",
                "strided_blocks": True,
                "block_convolutions": 2,
                "block_order": "sign-conv-bn-add-act",
                "nonlinearity": "none",
            },
            7,
            1,
        ),
        ({"pad_values": 1, "transition": "conv", "strided_blocks": True, "blocks": (1, 1)}, 2, 2),
        (
            {
                "transition": "blur-conv",
                "block_order": "bn-sign-conv-act-add",
                "stem": "quicknet",
                "input_shape": (16, 16, 3),
            },
            3,
            5,  # three in the stem, the blur and its 1×1
        ),
    ],
)
def test_every_kind_of_layer(
    with_statistics, settings, binary_convolutions, float_convolutions, tmp_path
):
    model = with_statistics(build_residual_network(**{**SMALL, **settings}))
    images = np.random.default_rng(2).normal(size=(8, *model.input_shape[1:])).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["binary_convolutions"] == binary_convolutions
    assert report["float_convolutions"] == float_convolutions
    assert report["parity"]["equal_predictions"] == 1.0


def test_a_chain_of_eight_convolutions_takes_what_is_counted(with_statistics, tmp_path):
    """93,352 bytes are counted; the file also names 55 operations and 96 tensors."""
    model = with_statistics(build_residual_network())
    images = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert (report["binary_convolutions"], report["float_convolutions"]) == (8, 1)
    counted = count_costs(model).bytes
    assert 0.95 * counted < report["bytes"] < 1.15 * counted


@pytest.mark.parametrize(
    ("order", "fused"),
    [
        # A ReLU, a multiplication and an addition of each.
        ("sign-conv-act-bn-add", [3, 3, 3]),
        ("bn-sign-conv-act-add", [3]),
    ],
)
def test_padding_with_ones_fuses_what_follows(with_statistics, order, fused, tmp_path):
    """The same function in a smaller file, whose shortcuts are the only operations behind binary
    convolutions."""
    images = np.random.default_rng(2).normal(size=(8, 8, 8, 3)).astype(np.float32)
    reports, operations = [], []
    for pad_values in (0, 1):
        settings = {**SMALL, "block_order": order, "pad_values": pad_values}
        model = with_statistics(build_residual_network(**settings))
        file = tmp_path / f"{pad_values}.tflite"
        reports.append(export_network(model, file, images))
        operations.append(
            Counter(o.custom or o.code for o in read_graph(file.read_bytes()).operations)
        )
    before, after = operations
    assert after["LceBconv2d"] == 3 and sum((after - before).values()) == 0
    assert list((before - after).values()) == fused
    assert reports[1]["bytes"] < reports[0]["bytes"]
    assert reports[1]["parity"]["equal_predictions"] == 1.0
    assert reports[1]["parity"]["max_abs_difference"] < 1e-3


def test_a_scale_moves_behind_the_relu_of_a_1_bit_convolution_only():
    """One of real inputs would have a multiplication more."""
    image = keras.Input((8, 8, 3))
    binary = {"pad_values": 1.0, "padding": "same", "kernel_quantizer": "magnitude_aware_sign"}
    binary |= {"kernel_constraint": "weight_clip", "use_bias": False}
    real = lq.layers.QuantConv2D(4, 3, **binary)(image)
    model = keras.Model(image, keras.layers.ReLU()(real))
    assert with_fused_relus(model) is model
    signs = lq.layers.QuantConv2D(4, 3, input_quantizer="ste_sign", **binary)(image)
    model = keras.Model(image, keras.layers.ReLU()(signs))
    assert with_fused_relus(model) is not model


def test_lint_counts_a_scale_for_each_channel_and_pixel():
    size = {"widths": (32,), "blocks": (2,), "input_shape": (8, 8, 3)}
    model = build_residual_network(**size, scheme="xnor-plus-plus")
    scales = [layer for layer in model.layers if isinstance(layer, LearnedScale)]
    for number, layer in enumerate(scales, start=2):  # equal ones would be stored once, 1 nowhere
        layer.set_weights(
            [number + np.arange(w.size).reshape(w.shape) for w in layer.get_weights()]
        )
    expected = 4 * 8 * 8 * 32
    contents = [len(tensor.content) for tensor in read_graph(convert(model)).tensors]
    assert contents.count(expected) == len(scales) == 2
    found = {layer.name: layer.bytes for layer in lint(model).layers}
    assert all(found[layer.name] == expected for layer in scales)
