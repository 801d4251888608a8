"""Networks of genotypes are Keras models like any: saved, cloned, frozen, trained, headless."""

from __future__ import annotations

import numpy as np
import pytest
from small_network import GENOTYPES, SMALL, images, settled, small

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.cells import DropPath
from bnas_larq.networks.network import build_network
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.saved_models import load_saved_model
from bnas_larq.networks.weight_files import load_weights, save_weights

# -- a Keras model like any ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "padding", "drop_path"),
    [
        ("bnas_cifar", "same", False),
        ("bnas_cifar", "symmetric", True),
        ("bnas_imagenet", "same", True),
    ],
)
def test_survives_saving_and_cloning(name, padding, drop_path, tmp_path):
    model = settled(small(name, padding=padding, drop_path=drop_path))
    expected = model(images()).numpy()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images()), expected, atol=1e-6)
    clone = keras.models.clone_model(model)
    assert [layer.name for layer in clone.layers] == [layer.name for layer in model.layers]
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(images()), expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_survives_saving_as_hdf5(tmp_path):
    model = settled(small("bnas_cifar"))
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    np.testing.assert_allclose(loaded(images()), model(images()), atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("scheme", ["sign-scale", "pcnn", "abc-net", "bonn", "full-precision"])
def test_further_operations_survive_every_kind_of_file(scheme, tmp_path):
    cell = [[("identity", 0), ("bin_sep_conv_3x3", 1)], [("bin_dil_sep_conv_3x3", 0), ("none", 2)]]
    genotype = Genotype(cell, [[("identity", 0), ("bin_conv_3x3_linear", 1)]])
    settings = {"input_shape": (8, 8, 3), "num_classes": 3, "channels": 2, "cells": 3}
    model = build_network(genotype, shortcut=False, scheme=scheme, **settings)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for suffix in ("keras", "h5"):
        model.save(tmp_path / f"model.{suffix}")
        loaded = load_saved_model(tmp_path / f"model.{suffix}")
        np.testing.assert_array_equal(loaded(images), model(images))
        assert len(latent_kernels(loaded)) == len(latent_kernels(model))
    save_weights(model, tmp_path / "weights.h5")
    again = build_network(genotype, shortcut=False, scheme=scheme, **settings)
    load_weights(again, tmp_path / "weights.h5")
    for one, other in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_lambda_layers_and_every_layer_is_registered():
    model = small(padding="symmetric", drop_path=True)
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)
    ours = {type(layer) for layer in model.layers if "bnas_larq" in type(layer).__module__}
    assert DropPath in ours
    for kind in ours:
        assert keras.utils.get_registered_name(kind).startswith("bnas_larq>")


def test_freezing_and_thawing():
    model = small("bnas_cifar")
    before = [weight.name for weight in model.trainable_weights]
    model.trainable = False
    assert model.trainable_weights == []
    assert len(model.non_trainable_weights) == len(model.weights)
    model.trainable = True
    assert [weight.name for weight in model.trainable_weights] == before


def test_a_frozen_network_is_a_feature_extractor():
    model = small("bnas_cifar")
    model.trainable = False
    features = keras.Model(model.input, model.get_layer("pool").output)
    head = keras.Sequential([features, keras.layers.Dense(2)])
    head.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kept = [weight.numpy() for weight in model.weights]
    head.fit(images(), tf.constant([0, 1, 0, 1]), verbose=0)
    for weight, value in zip(model.weights, kept, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_weights_are_shared_between_both_drop_path_forms(tmp_path):
    with_drops, without = small("bnas_cifar", drop_path=True), settled(small("bnas_cifar"))
    assert any(isinstance(layer, DropPath) for layer in with_drops.layers)
    shapes = [[(w.name, w.shape) for w in model.weights] for model in (with_drops, without)]
    assert shapes[0] == shapes[1]
    without.save_weights(tmp_path / "weights.h5")
    with_drops.load_weights(tmp_path / "weights.h5", by_name=True)
    np.testing.assert_array_equal(with_drops(images()), without(images()))


def test_trains():
    """Latent kernels move, stay centred and clamped, and the loss falls."""
    keras.utils.set_random_seed(0)
    model = small("bnas_cifar", cells=1, channels=4)
    model.compile(
        keras.optimizers.Adam(0.03), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    labels = tf.constant([0, 1, 2, 3])
    history = model.fit(images(), labels, batch_size=4, epochs=40, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    for layer in model.layers:
        if getattr(layer, "kernel_quantizer", None):
            (kernel,) = layer.get_weights()
            assert np.abs(kernel).max() <= 1.0
            if np.abs(kernel).max() < 1.0:  # clamping comes after centring
                np.testing.assert_allclose(kernel.mean(axis=2), 0.0, atol=1e-6)


def test_every_trainable_weight_gets_a_gradient():
    for name in GENOTYPES:
        model = small(name)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images(), training=True) ** 2)
        gradients = tape.gradient(loss, model.trainable_weights)
        missing = [
            w.name for w, g in zip(model.trainable_weights, gradients, strict=True) if g is None
        ]
        assert missing == []


def test_classifier_activation():
    probabilities = small(classifier_activation="softmax")(images())
    np.testing.assert_allclose(tf.reduce_sum(probabilities, -1), np.ones(4), rtol=1e-5)


# -- without the top, on a tensor ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "reduce"), [(None, None), ("avg", tf.reduce_mean), ("max", tf.reduce_max)]
)
def test_without_top(pooling, reduce):
    whole = settled(small())
    model = small(include_top=False, pooling=pooling)
    named = {layer.name: layer for layer in whole.layers}
    for layer in model.layers:
        layer.set_weights(named[layer.name].get_weights() if layer.weights else [])
    features = keras.Model(whole.input, whole.get_layer("pool").input)(images())
    assert features.shape == (4, 2, 2, 4 * 8)
    expected = features if reduce is None else reduce(features, axis=[1, 2])
    np.testing.assert_allclose(model(images()), expected, rtol=1e-6)
    assert "classifier" not in [layer.name for layer in model.layers]


def test_with_top_pooling_changes_nothing():
    names = [layer.name for layer in small().layers]
    assert [layer.name for layer in small(pooling="max").layers] == names


def test_on_an_input_of_ones_own():
    image = keras.Input((16, 24, 3), name="photo")
    settings = {key: value for key, value in SMALL.items() if key != "input_shape"}
    model = build_network(
        Genotype.published("bnas_imagenet"), input_tensor=image, include_top=False, **settings
    )
    assert model.input is image
    assert model.output_shape == (None, 4, 6, 4 * 8)


def test_on_the_output_of_other_layers():
    image = keras.Input((6, 6, 3))
    tensor = keras.layers.ZeroPadding2D(1)(keras.layers.Conv2D(3, 1, name="own")(image))
    model = small(input_tensor=tensor)
    assert model.get_layer("own").kernel.ref() in {weight.ref() for weight in model.weights}
    assert model.input_shape == (None, 6, 6, 3)
    alone = small()
    alone.set_weights([w for w in model.get_weights()[2:]])
    expected = alone(keras.Model(image, tensor)(tf.ones([1, 6, 6, 3])))
    np.testing.assert_allclose(model(tf.ones([1, 6, 6, 3])), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "average"}, "None, 'avg' or 'max'. Received: 'average'; did you mean 'avg'"),
        ({"input_tensor": np.zeros([1, 8, 8, 3])}, "is a Keras tensor, .* Received: ndarray"),
        ({"input_tensor": tf.zeros([1, 8, 8, 3])}, "is a Keras tensor, .* Received: EagerTensor"),
    ],
)
def test_impossible_tops_and_tensors_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        small(**settings)


def test_a_tensor_must_not_contradict_the_shape():
    message = r"Received: a tensor of \(9, 9, 3\) with input_shape=\(8, 8, 3\)"
    with pytest.raises(BnasLarqError, match=message):
        small(input_tensor=keras.Input((9, 9, 3)))
    with pytest.raises(
        BnasLarqError, match=r"all known and at most 10,000. Received: \(None, None, 3\)"
    ):
        build_network(Genotype.published("bnas_cifar"), input_tensor=keras.Input((None, None, 3)))
