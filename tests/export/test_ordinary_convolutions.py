"""Published systems' convolutions become 1-bit in a file that computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq import build_binary_duo, decouple
from bnas_larq.backend import keras, lq
from bnas_larq.export.exporter import export_network
from bnas_larq.export.layer_precision import judge
from bnas_larq.export.nested_models import flattened
from bnas_larq.layers.circulant import CirculantQuantConv2D
from bnas_larq.layers.coupled_activation import ClippedRound

DUO = {"input_shape": (8, 8, 3), "num_classes": 3, "widths": (4, 6), "blocks": (2, 2)}


def images(side=8):
    return np.random.default_rng(5).normal(size=(8, side, side, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def circulant(with_statistics):
    """Builds a stem, two circulant convolutions, a pool and a classifier."""

    def build(side, channels=8, **settings):
        layers = keras.layers
        x = image = keras.Input((side, side, 3))
        x = layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(x))
        for number in range(2):
            conv = CirculantQuantConv2D(2, padding="same", name=f"conv{number}", **settings)
            x = layers.BatchNormalization()(conv(x))
        x = layers.Dense(3, name="classifier")(layers.GlobalAveragePooling2D()(x))
        return with_statistics(keras.Model(image, x))

    return build


def assert_equal_functions(model, report):
    assert report["parity"]["max_abs_difference"] < 1e-4 * report["parity"]["max_abs_output"] + 1e-5


@pytest.mark.parametrize("orientations", [4, 8])
@pytest.mark.parametrize("side", [6, 2])  # on 2×2 the kernel overhangs
def test_circulant_convolutions_export(circulant, tmp_path, side, orientations):
    model = circulant(side, orientations=orientations)
    report = export_network(model, tmp_path / "network.tflite", images(side))
    assert_equal_functions(model, report)
    records = {record["name"]: record for record in report["convolutions"]}
    for name in ("conv0", "conv1"):
        assert records[name]["binary"] and records[name]["named_by"] == "kernel"
    # The rotated kernel is what the file stores.
    assert records["conv1"]["kernel"] == (3, 3, 2 * orientations, 2 * orientations)
    assert ("conv0" in report["exact_padding"]) == (side == 2)


def test_a_large_rotated_kernel_is_computed_in_advance(tmp_path):
    """The converter would leave one of more than a megabyte to the device."""
    image = keras.Input((2, 2, 256))
    x = CirculantQuantConv2D(64, padding="same", name="conv")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    pictures = np.random.default_rng(5).normal(size=(2, 2, 2, 256)).astype(np.float32)
    report = export_network(model, tmp_path / "network.tflite", pictures)
    assert_equal_functions(model, report)
    assert report["binary_convolutions"] == 1
    assert report["convolutions"][0]["bytes"] == 9 * 256 * 256 // 8


def test_a_decoupled_network_exports(with_statistics, tmp_path):
    model = decouple(with_statistics(build_binary_duo(**DUO, last_width=8)))
    report = export_network(model, tmp_path / "network.tflite", images())
    assert_equal_functions(model, report)
    assert (report["binary_convolutions"], report["float_convolutions"]) == (4, 2)
    assert set(report["not_binary_because"]) == {"stem_conv", "transition1_conv", "classifier"}


def test_the_signs_compute_what_the_steps_do():
    """Also exactly at the threshold, with a bias, strides and kernels of a scale per channel."""
    image = keras.Input((5, 5, 3))
    x = lq.layers.QuantConv2D(
        4,
        3,
        strides=2,
        padding="same",
        bias_initializer="ones",
        input_quantizer=ClippedRound(1),
        kernel_quantizer="magnitude_aware_sign",
    )(image)
    model = keras.Model(image, x)
    ordinary = flattened(model)
    assert ordinary is not model and ordinary.layers[1].pad_values == 1.0
    pictures = np.round(4 * np.random.default_rng(0).uniform(size=(6, 5, 5, 3))).astype("f") / 4
    assert (pictures == 0.5).any()
    np.testing.assert_allclose(ordinary(pictures), model(pictures), rtol=1e-5, atol=1e-5)


def test_a_coupled_network_says_why_it_is_not_1_bit():
    verdict = judge(build_binary_duo(**DUO, last_width=8))["block0_0_conv"]
    assert (verdict.binary, verdict.cause) == (False, "precision")
    assert "its quantised input is not ±1" in verdict.reason
