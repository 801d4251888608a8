"""Export with the real converter and the real interpreter."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import ExportError
from bnas_larq.export.converter import convert
from bnas_larq.export.exporter import export_network
from bnas_larq.export.layer_precision import judge
from bnas_larq.export.padding import overhangs, with_exact_padding
from bnas_larq.export.parity import check_agreement, check_parity
from bnas_larq.export.tflite_file import read_convolutions

BINARY = ["conv1", "conv3", "conv5", "dil3", "dil5", "small5", "small_dil5", "strided"]
FLOAT = ["shortcut", "stem"]


def test_every_prediction_of_the_file_equals_keras(small_network, exported, pictures):
    parity = check_parity(small_network, exported, pictures)
    assert parity.images == 60
    assert parity.equal_predictions == 1.0
    assert parity.mean_abs_difference <= parity.max_abs_difference < 1e-4 * parity.max_abs_output


def test_the_file_is_listed_layer_by_layer(small_network, exported):
    records = {record.name: record for record in read_convolutions(exported, small_network)}
    assert sorted(name for name, record in records.items() if record.binary) == BINARY
    assert sorted(name for name, record in records.items() if not record.binary) == [
        "classifier",
        *FLOAT,
    ]
    assert {record.named_by for record in records.values()} == {"kernel"}
    assert records["conv5"].kernel == (5, 5, 33, 12)
    assert records["conv5"].bytes == 12 * 5 * 5 * 2 * 4  # 33 channels take two 32-bit words
    assert records["shortcut"].kernel == (2, 2, 36, 36)
    assert records["shortcut"].bytes == 36 * 2 * 2 * 36 * 4
    assert records["classifier"].kind == "dense"


def test_without_a_model_the_file_is_listed_by_tensor_names(exported):
    records = read_convolutions(exported)
    assert sum(record.binary for record in records) == len(BINARY)
    assert {record.named_by for record in records} == {"tensor"}


def test_layers_with_equal_kernels_are_named_in_order(pictures):
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", kernel_initializer="ones", name="first")(image)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(4, 3, padding="same", kernel_initializer="ones", name="second")(x)
    model = keras.Model(image, x)
    assert [record.name for record in read_convolutions(convert(model), model)] == [
        "first",
        "second",
    ]


def test_small_maps_are_padded_exactly_and_the_model_stays_as_it_was(small_network, pictures):
    before = [weight.copy() for weight in small_network.get_weights()]
    clone, names = with_exact_padding(small_network)
    assert sorted(names) == ["dil5", "small5", "small_dil5"]
    np.testing.assert_allclose(clone(pictures), small_network(pictures), atol=1e-3, rtol=1e-5)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, small_network.get_weights(), strict=True)
    )
    assert type(small_network.get_layer("dil5")) is lq.layers.QuantConv2D


@pytest.mark.parametrize(
    ("size", "kernel_size", "dilation", "strides"),
    [(1, 3, 1, 1), (2, 3, 1, 1), (2, 5, 2, 1), (4, 5, 1, 2), (4, 3, 2, 1), (7, 5, 2, 1)],
)
def test_kernels_larger_than_the_map_export_exactly(size, kernel_size, dilation, strides):
    image = keras.Input((size, size, 5))
    layer = lq.layers.QuantConv2D(
        6,
        kernel_size,
        strides=strides,
        dilation_rate=dilation,
        padding="same",
        bias_initializer="random_normal",
        activation="relu",
        input_quantizer="ste_sign",
        kernel_quantizer="ste_sign",
        name="conv",
    )
    model = keras.Model(image, keras.layers.Flatten()(layer(image)))
    assert overhangs(layer)
    content = convert(model)
    assert [record.binary for record in read_convolutions(content, model)] == [True]
    images = np.random.default_rng(0).normal(size=(4, size, size, 5)).astype(np.float32)
    assert check_parity(model, content, images).max_abs_difference < 1e-4


@pytest.mark.parametrize("size", [(1, 4), (4, 1), (1, 1)])
def test_maps_one_pixel_high_or_wide_export_exactly(size):
    """All kinds of binary convolutions beside each other, without ReLU."""
    settings = {"padding": "same", "kernel_quantizer": "ste_sign"}

    def binary(kernel_size=3, **more):
        more = {"input_quantizer": "ste_sign", **settings, **more}
        return lq.layers.QuantConv2D(5, kernel_size, **more)

    image = keras.Input((*size, 8))
    branches = [
        binary()(image),
        keras.layers.BatchNormalization()(binary(use_bias=False)(image)),
        binary()(binary()(image)),
        binary(strides=2)(image),
        binary(dilation_rate=2)(image),
        binary((3, 1))(image),
        binary((1, 3))(image),
        # Its sign is a layer of its own.
        binary(input_quantizer=None)(lq.quantizers.SteSign()(image)),
    ]
    depthwise = {"input_quantizer": "ste_sign", "depthwise_quantizer": "ste_sign"}
    branches.append(lq.layers.QuantDepthwiseConv2D(3, padding="same", **depthwise)(image))
    outputs = keras.layers.Concatenate()([keras.layers.Flatten()(branch) for branch in branches])
    model = keras.Model(image, outputs)
    content = convert(model)
    judged = {name: verdict.binary for name, verdict in judge(model).items()}
    records = read_convolutions(content, model)
    assert {record.name: record.binary for record in records} == judged
    assert sum(judged.values()) == 9
    images = np.random.default_rng(0).normal(size=(4, *size, 8)).astype(np.float32)
    assert check_parity(model, content, images).max_abs_difference < 1e-4


def test_the_report_is_plain_data_and_matches_the_file(small_network, pictures, tmp_path):
    path = tmp_path / "model.tflite"
    report = json.loads(json.dumps(export_network(small_network, path, pictures[:8])))
    assert report["bytes"] == path.stat().st_size
    assert (report["binary_convolutions"], report["float_convolutions"]) == (
        len(BINARY),
        len(FLOAT),
    )
    assert sorted(report["not_binary_because"]) == ["classifier", *FLOAT]
    assert "by design" in report["not_binary_because"]["stem"]
    assert report["exact_padding"] == ["dil5", "small5", "small_dil5"]
    assert report["parity"]["equal_predictions"] == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    with pytest.raises(ExportError, match=r"Received: .*model\.tflite, which exists"):
        export_network(small_network, path, pictures[:8])


@pytest.mark.parametrize("damage", ["empty", "foreign", "half", "tail", "head"])
def test_a_damaged_file_is_an_export_error(small_network, exported, pictures, damage):
    content = {
        "empty": b"",
        "foreign": b"GIF89a" * 200,
        "half": exported[: len(exported) // 2],
        "tail": exported[:-20],
        "head": exported[:8] + bytes(400) + exported[408:],
    }[damage]
    with pytest.raises(ExportError, match=r"intact flatbuffer\. Received: \d+ bytes"):
        read_convolutions(content)
    with pytest.raises(ExportError):
        check_parity(small_network, content, pictures[:1])


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 9, 8, 3), (8, 8, 3)])
def test_images_of_another_shape_are_refused(small_network, exported, shape):
    with pytest.raises(ExportError, match=r"shape \[number, 8, 8, 3\]\. Received: "):
        check_parity(small_network, exported, np.zeros(shape, np.float32))


def test_weights_that_are_not_finite_are_noticed(pictures):
    image = keras.Input((8, 8, 3))
    model = keras.Model(
        image,
        keras.layers.Conv2D(2, 1, kernel_initializer=keras.initializers.Constant(np.nan))(image),
    )
    with pytest.raises(ExportError, match="finite outputs"):
        check_parity(model, convert(model), pictures[:1])


def test_models_that_cannot_be_exported_say_why():
    image = keras.Input((None, None, 3))
    with pytest.raises(ExportError, match="fixed height, width and channels"):
        convert(keras.Model(image, keras.layers.Conv2D(2, 1)(image)))

    class Foreign(keras.layers.Layer):
        def call(self, inputs):
            return tf.math.betainc(inputs, inputs, inputs)

    image = keras.Input((4, 4, 3))
    with pytest.raises(ExportError, match="Received: 'model.*', which uses Betainc"):
        convert(keras.Model(image, Foreign()(image)))

    image = keras.Input((4, 4, 3))
    half = keras.layers.Conv2D(2, 1, dtype="mixed_bfloat16", name="half")
    with pytest.raises(ExportError, match="float32 models. Received: another precision in half"):
        convert(keras.Model(image, half(image)))


def test_a_missing_compute_engine_is_a_sentence(small_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "larq_compute_engine", None)
    with pytest.raises(ExportError, match="pip install 'larq-compute-engine"):
        convert(small_network)


def test_conversion_writes_nothing_on_the_terminal(small_network, capfd):
    convert(small_network)
    os.write(2, b"still here\n")
    assert capfd.readouterr() == ("", "still here\n")


def test_a_file_of_another_function_is_refused(small_network, exported, pictures):
    check_agreement(check_parity(small_network, exported, pictures))
    other = keras.models.clone_model(small_network)
    other.set_weights(small_network.get_weights())
    other.get_layer("stem").set_weights([-small_network.get_layer("stem").get_weights()[0]])
    with pytest.raises(ExportError, match="must compute what its Keras model does"):
        check_agreement(check_parity(other, exported, pictures))


def test_another_functions_probabilities_of_many_classes_are_refused(pictures):
    """Whose mean difference is at most 2 % for a hundred classes."""

    def network(seed):
        keras.utils.set_random_seed(seed)
        image = keras.Input((8, 8, 3))
        features = keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(image))
        return keras.Model(image, keras.layers.Dense(100, activation="softmax")(features))

    model = network(0)
    content = convert(model)
    check_agreement(check_parity(model, content, pictures))
    with pytest.raises(ExportError, match="must compute what its Keras model does"):
        check_agreement(check_parity(network(1), content, pictures), "int8")
