"""Nested models: one graph, and converted, named and judged as such."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.multiplications import calls
from bnas_larq.errors import ExportError
from bnas_larq.export.exporter import export_network
from bnas_larq.export.lint import lint
from bnas_larq.export.nested_models import flattened
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network

L = keras.layers


def backbone(**settings):
    """It works on 4×4, where dilated kernels overhang."""
    settings = {"input_shape": (4, 4, 3), "cells": 1, "channels": 4, "pooling": "avg", **settings}
    return build_network(
        Genotype.load("bnas_imagenet"), include_top=False, name="backbone", **settings
    )


@pytest.fixture(scope="module")
def nested(with_statistics):
    """A backbone under a head that is a model too, behind a user's own layers."""
    image = keras.Input((8, 8, 3), name="camera")
    x = L.AveragePooling2D()(image) / 2.0
    x = L.Dropout(0.2)(backbone()(x, training=False))
    head = keras.Sequential([L.Dense(6, activation="relu"), L.Dense(3)], name="head")
    return with_statistics(keras.Model(image, head(x), name="mine"))


def images(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def test_a_model_without_models_in_it_is_taken_as_it_is(small_network):
    assert flattened(small_network) is small_network


def test_a_nested_model_becomes_one_graph_of_equal_outputs(nested):
    before = [len(layer.inbound_nodes) for layer in nested.get_layer("backbone").layers]
    flat = flattened(nested)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    names = [layer.name for layer in flat.layers]
    assert {"backbone/stem_conv", "backbone/pool"} <= set(names)
    assert sum(name.startswith("head/") for name in names) == 2
    np.testing.assert_array_equal(flat(images(3, 8, 8, 3)), nested(images(3, 8, 8, 3)))
    assert [len(layer.inbound_nodes) for layer in nested.get_layer("backbone").layers] == before


def test_a_nested_model_is_exported_exactly_and_layer_by_layer(nested, tmp_path):
    report = export_network(nested, tmp_path / "model.tflite", images(12, 8, 8, 3))
    assert report["parity"]["equal_predictions"] == 1.0
    assert report["parity"]["max_abs_difference"] < 1e-4 * report["parity"]["max_abs_output"]
    assert any(name.startswith("backbone/cell0_") for name in report["exact_padding"])
    assert {row["named_by"] for row in report["convolutions"]} == {"kernel"}
    in_file = {row["name"]: row["binary"] for row in report["convolutions"]}
    found = lint(nested)
    assert {layer.name for layer in found.binary} == {name for name, b in in_file.items() if b}
    assert {layer.name for layer in found.not_binary} == set(report["not_binary_because"])
    # The costs of the nested model and of its flat form agree, name by name.
    costs = {layer.name: layer.macs for layer in count_costs(nested).layers}
    assert costs == {layer.name: layer.macs for layer in count_costs(flattened(nested)).layers}


def test_a_sequential_model_around_a_backbone_of_any_size(with_statistics):
    inner = keras.Input((None, None, 3))
    x = lq.layers.QuantConv2D(
        4, 5, padding="same", input_quantizer="ste_sign", kernel_quantizer="ste_sign", name="conv"
    )(inner)
    body = keras.Model(inner, L.GlobalAveragePooling2D()(x), name="body")
    model = with_statistics(keras.Sequential([L.InputLayer((4, 4, 3)), body, L.Dense(2)]))
    flat = flattened(model)
    assert flat.get_layer("body/conv").input_shape == (None, 4, 4, 3)
    np.testing.assert_array_equal(flat(images(2, 4, 4, 3)), model(images(2, 4, 4, 3)))
    # 5×5 on 4×4: seen only at the size it is called with.
    assert list(lint(model).constants) == ["exact padding of body/conv"]


def test_shared_layers_stay_shared():
    inner = keras.Input((4, 4, 2))
    conv = L.Conv2D(2, 3, padding="same", name="conv")
    body = keras.Model(inner, conv(inner) * 2.0 + inner, name="body")
    outer = keras.Input((4, 4, 2))
    model = keras.Model(outer, tf.concat([body(body(outer)), conv(outer)], -1))
    flat = flattened(model)
    convs = [layer for layer in flat.layers if isinstance(layer, L.Conv2D)]
    assert len(convs) == 1 and sum(node.layer is convs[0] for node in calls(flat)) == 3
    np.testing.assert_allclose(flat(images(2, 4, 4, 2)), model(images(2, 4, 4, 2)), rtol=1e-6)


def test_inputs_of_another_type_are_cast_as_keras_does():
    image = keras.Input((4, 4, 1), dtype="uint8")
    inner = keras.Input((4, 4, 1))
    model = keras.Model(image, keras.Model(inner, L.Flatten()(inner) / 2.0)(image))
    pixels = np.full((1, 4, 4, 1), 255, np.uint8)
    np.testing.assert_array_equal(flattened(model)(pixels), model(pixels))


def test_models_and_layers_that_cannot_be_looked_into_are_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    class Stubborn(L.Layer):
        def __init__(self, size):
            super().__init__()
            self.size = size

        def call(self, inputs):
            return inputs

    image = keras.Input((4, 4, 1))
    with pytest.raises(ExportError, match="a Subclassed without a graph"):
        flattened(keras.Model(image, Subclassed(name="inside")(image)))
    inner = keras.Input((4, 4, 1))
    body = keras.Model(inner, Stubborn(3)(inner), name="body")
    with pytest.raises(ExportError, match="Received: 'body/stubborn'.*get_config"):
        flattened(keras.Model(image, body(image)))
