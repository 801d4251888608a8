"""Factories: what weights bring, what contradicts them, and Keras models like any."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, RunError, WeightsError, ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.zoo import factories
from bnas_larq.zoo.factories import BNASA, BNASD, BNASE, BNASDv2
from bnas_larq.zoo.variants import VARIANTS

SHAPE, CLASSES, CELLS, CHANNELS = (32, 32, 3), 10, 3, 4
FEATURES = 4 * (4 * CHANNELS)  # 4 nodes, channels doubled twice
#: For what needs no weights: one cell.
LEAST = {"input_shape": (8, 8, 3), "num_classes": 4, "cells": 1, "channels": 2}
#: The entry's own size.
TINY = {"input_shape": SHAPE, "num_classes": CLASSES, "cells": CELLS, "channels": CHANNELS}


def images(*shape: int, count: int = 2) -> tf.Tensor:
    return tf.random.stateless_normal([count, *(shape or SHAPE)], [1, 2])


def names(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.name: weight.numpy() for weight in model.weights}


def assert_same_weights(model: keras.Model, expected: keras.Model) -> None:
    """All weights of `model` are in `expected`, by name, with the same values."""
    known = values(expected)
    assert model.weights
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, known[name], err_msg=name)


@pytest.fixture(scope="module")
def trained(stored_entry) -> keras.Model:
    """The network of the entry, built without the factories; returns logits."""
    return stored_entry.load_model()


# -- without weights -------------------------------------------------------------------------------


def test_sizes_that_nobody_gives_are_the_variants():
    arguments = inspect.signature(BNASD).parameters.values()
    assert [*inspect.signature(BNASDv2).parameters.values()][1:] == [*arguments]
    assert inspect.signature(BNASDv2).parameters["convention"].default == "honest"
    assert all(argument.kind == inspect.Parameter.KEYWORD_ONLY for argument in arguments)
    model = BNASD(cells=1, include_top=False)
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 28, 28, 4 * 64)
    model = BNASD(input_shape=(8, 8, 3), channels=2, genotype="bnas_cifar", include_top=False)
    assert max(int(name[4:].split("_")[0]) for name in names(model) if "cell" in name) == 12 - 1


def test_the_images_size_chooses_the_stem():
    size = {"cells": 3, "channels": 8, "include_top": False, "convention": "paper"}
    small = BNASDv2(input_shape=(88, 88, 3), **size)
    large = BNASDv2(input_shape=(96, 96, 3), **size)
    assert small.get_layer("stem_conv").groups == 1
    assert [large.get_layer(f"stem{i}_conv").groups for i in range(3)] == [1, 4, 4]


def test_v2_in_both_conventions():
    size = {"input_shape": (8, 8, 3), "cells": 3, "channels": 2}
    honest, paper = (names(BNASDv2(convention=kind, **size)) for kind in ("honest", "paper"))
    assert names(BNASDv2(**size)) == honest
    assert "cell1_shortcut_scale" in honest and "cell1_shortcut_conv" in paper
    with pytest.raises(BnasLarqError, match="'paper' or 'honest'. Received: 'papers'"):
        BNASDv2(convention="papers")


def test_other_cells():
    cells = Genotype.published("bnas_cifar")
    expected = names(build_network(cells, **LEAST))
    for genotype in ("bnas_cifar", cells):
        assert names(BNASD(genotype=genotype, **LEAST)) == expected


def test_softmax_is_the_default():
    model = BNASD(**LEAST)
    np.testing.assert_allclose(tf.reduce_sum(model(images(8, 8, 3)), -1), [1.0, 1.0], rtol=1e-5)
    logits = BNASD(classifier_activation=None, **LEAST)
    logits.set_weights(model.get_weights())
    np.testing.assert_allclose(
        tf.nn.softmax(logits(images(8, 8, 3))), model(images(8, 8, 3)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": 32}, "all known. Received: 32"),
        ({"input_shape": (None, None, 3)}, "all known"),
        ({"input_shape": (32, 32)}, "all known"),
        ({"classifier_activation": "sofmax"}, "Received: classifier_activation='sofmax'"),
        ({"pooling": "mean", "include_top": False}, "'mean'"),
        ({"num_classes": 1}, "at least two classes"),
        ({"padding": "valid"}, "Padding is"),
        ({"cells": 0}, "at least one cell"),
        ({"genotype": "bnas_cifr"}, "did you mean 'bnas_cifar'"),
        ({"input_tensor": "image"}, "all known"),
        ({"input_tensor": np.zeros((1, 32, 32, 3))}, "Keras tensor"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(BnasLarqError, match=message):
        BNASD(**{**TINY, **arguments})


# -- weights ---------------------------------------------------------------------------------------


def test_a_data_sets_name_brings_the_entrys_network_and_says_so(zoo_entry, trained):
    with pytest.warns(UserWarning) as caught:
        model = BNASD(input_shape=(32, 32, 3), num_classes=10, weights="cifar10")
    assert_same_weights(model, trained)
    np.testing.assert_allclose(model(images()), tf.nn.softmax(trained(images())), atol=1e-6)
    (warning,) = [one for one in caught if "weights found" in str(one.message)]
    assert warning.filename == __file__
    text = str(warning.message)
    assert "'bnasd-cifar10-test'" in text and "99.00%" in text and zoo_entry.genotype in text
    assert f"{CELLS} cells of {CHANNELS} channels" in text and "12 cells of 64 channels" in text


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": "bnasd-cifar10-test"},
        {
            "weights": "cifar10",
            "genotype": "bnas_cifar",
            "cells": CELLS,
            "channels": CHANNELS,
            "padding": "same",
        },
    ],
)
def test_no_warning_about_what_was_named(zoo_entry, trained, arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = BNASD(classifier_activation=None, **arguments)
    np.testing.assert_array_equal(model(images()), trained(images()))


def test_folders(zoo_entry, trained, run_folder, monkeypatch):
    for folder in (zoo_entry.folder, str(run_folder), str(zoo_entry.folder) + "/"):
        model = BNASD(weights=folder, classifier_activation=None)
        np.testing.assert_array_equal(model(images()), trained(images()))
    monkeypatch.chdir(run_folder.parent)
    assert_same_weights(BNASD(weights=f"./{run_folder.name}"), trained)
    # A run belongs to no variant; an entry does.
    assert_same_weights(BNASA(weights=run_folder), trained)
    with pytest.raises(ZooError, match="own variant.*bnas-d.*for bnas-a"):
        BNASA(weights=zoo_entry.folder)


def test_a_weight_file(zoo_entry, trained, tmp_path):
    path = save_weights(trained, tmp_path / "weights.h5")
    sizes = {**TINY, "genotype": "bnas_cifar"}
    assert_same_weights(BNASD(weights=path, **sizes), trained)
    assert_same_weights(BNASD(weights=str(path), include_top=False, **sizes), trained)
    with pytest.raises(WeightsError):
        BNASD(weights=path, **TINY)
    images_in = keras.Input(SHAPE)
    scaled = keras.layers.BatchNormalization(name="scaled")(images_in)
    assert_same_weights(
        keras.Model(scaled, BNASD(weights=path, input_tensor=scaled, **sizes).output), trained
    )


def test_a_model_without_top_keeps_its_own_weight_file(tmp_path):
    backbone = BNASD(include_top=False, **LEAST)
    path = save_weights(backbone, tmp_path / "backbone.h5")
    assert_same_weights(BNASD(include_top=False, weights=path, **LEAST), backbone)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("cifar10", ZooError, "'cifar10' for bnas-e, which nobody published.*bnas-larq run"),
        ("bnasd-cifar10-test", ZooError, "for bnas-e"),
        ("no/such.h5", WeightsError, "'no/such.h5', where nothing is"),
        ("", WeightsError, "Received: ''"),
        (3, WeightsError, "Received: 3"),
        (".", RunError, "needs network.json"),
    ],
)
def test_weights_that_are_not_there(zoo_entry, tmp_path, monkeypatch, weights, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        BNASE(weights=weights)


def test_tampered_weights_are_refused(zoo_copy):
    file = zoo_copy.folder / "weights.h5"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ZooError, match="as they were published"):
        BNASD(weights=zoo_copy.folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 12}, "cells=12 for the entry 'bnasd-cifar10-test', which has cells=3"),
        ({"channels": 64}, "channels=64 for .* channels=4"),
        ({"padding": "symmetric"}, "padding='symmetric' for .* padding='same'"),
        ({"genotype": "bnas_imagenet"}, "genotype='g-.* for .* genotype='g-"),
        ({"num_classes": 7}, "num_classes=7 for .* has 10.*include_top=False.*bnas-larq finetune"),
        ({"input_shape": (16, 16, 3)}, r"\(16, 16, 3\) for .* takes \(32, 32, 3\)"),
        ({"input_tensor": keras.Input((16, 16, 3))}, r"\(16, 16, 3\) for"),
        ({"input_shape": (32, 32, 1), "include_top": False}, "not of other channels"),
        ({"input_shape": (96, 96, 3), "include_top": False}, "weights belong to one"),
        ({"classifier_activation": "sigmoid"}, "trained classifier ends in 'softmax'"),
    ],
)
def test_arguments_that_contradict_the_weights(zoo_entry, arguments, message):
    with pytest.raises(ZooError, match=message):
        BNASD(weights="bnasd-cifar10-test", **arguments)


# -- without top -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_features(zoo_entry, trained, pooling):
    model = BNASD(weights="bnasd-cifar10-test", include_top=False, pooling=pooling)
    assert_same_weights(model, trained)
    features = keras.Model(trained.input, trained.get_layer("pool").input)(images())
    pooled = {None: lambda x: x, "avg": np.mean, "max": np.max}[pooling]
    expected = features if pooling is None else pooled(features, axis=(1, 2))
    np.testing.assert_allclose(model(images()), expected, atol=1e-5)


def test_without_top_images_may_have_another_size(zoo_entry, trained):
    model = BNASD(
        weights="bnasd-cifar10-test", include_top=False, input_shape=(48, 64, 3), num_classes=7
    )
    assert_same_weights(model, trained)
    assert model.output_shape == (None, 12, 16, FEATURES)


# -- input tensors ---------------------------------------------------------------------------------


def test_input_tensors(zoo_entry, trained):
    inputs = keras.Input(SHAPE)
    model = BNASD(weights="bnasd-cifar10-test", input_tensor=inputs, classifier_activation=None)
    assert model.input is inputs
    np.testing.assert_array_equal(model(images()), trained(images()))
    # Layers between the input and the network become part of the model; their weights stay.
    doubled = keras.layers.Conv2D(3, 1, kernel_initializer="ones", name="mix")(inputs)
    model = BNASD(weights="bnasd-cifar10-test", input_tensor=doubled, classifier_activation=None)
    summed = tf.repeat(tf.reduce_sum(images(), -1, keepdims=True), 3, axis=-1)
    np.testing.assert_allclose(model(images()), trained(summed), atol=1e-4)
    with pytest.raises(ZooError, match="Omit one of them"):
        BNASD(input_tensor=inputs, input_shape=(16, 16, 3))


# -- a Keras model like any ------------------------------------------------------------------------


def backbone(**settings) -> keras.Model:
    return BNASD(weights="bnasd-cifar10-test", include_top=False, pooling="avg", **settings)


def functional() -> keras.Model:
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(backbone()(inputs)))


def sequential() -> keras.Model:
    return keras.Sequential([backbone(), keras.layers.Dense(3, name="head")])


def fit(model: keras.Model) -> None:
    # Eagerly: tracing the network's graph would take longer than the four images.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    model.fit(images(count=4), tf.constant([0, 1, 2, 0]), batch_size=2, verbose=0)


@pytest.mark.parametrize("make", [functional, sequential])
def test_backbone_under_a_users_head_frozen_and_thawed(zoo_entry, trained, make):
    model = make()
    body, head = model.get_layer("bnas_d"), model.get_layer("head")
    body.trainable = False
    assert model.trainable_weights == head.trainable_weights
    before = head.kernel.numpy()
    fit(model)
    assert_same_weights(body, trained)  # BatchNorm's statistics among them
    assert not np.array_equal(head.kernel.numpy(), before)
    body.trainable = True
    assert len(model.trainable_weights) == len(body.trainable_weights) + 2
    fit(model)
    known = values(trained)
    moved = {name for name, value in values(body).items() if not np.array_equal(value, known[name])}
    assert {w.name for w in body.trainable_weights if "conv" in w.name} <= moved
    assert any("moving_mean" in name for name in moved)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [functional, sequential])
def test_saved_and_loaded(zoo_entry, make, suffix, tmp_path):
    model = make()
    model(images())
    model.save(tmp_path / f"model{suffix}")
    loaded = keras.models.load_model(tmp_path / f"model{suffix}")
    np.testing.assert_allclose(loaded(images()), model(images()), atol=1e-5)
    types = [[type(layer) for layer in m.get_layer("bnas_d").layers] for m in (loaded, model)]
    assert types[0] == types[1]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_every_layer_of_ours_is_found_again_inside_an_h5_file(tmp_path):
    body = BNASD(**{**LEAST, "cells": 3, "padding": "symmetric", "genotype": "bnas_cifar"})
    model = keras.Sequential([body])
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(loaded(images(8, 8, 3)), model(images(8, 8, 3)), atol=1e-5)
    types = {type(layer).__name__ for layer in loaded.layers[0].layers}
    assert {"SymmetricQuantConv2D", "SymmetricPooling2D"} <= types


def test_saved_and_loaded_as_a_saved_model(tmp_path):
    """One small cell: TensorFlow traces every layer of this format three times."""
    inputs = keras.Input((8, 8, 3))
    body = BNASD(include_top=False, pooling="avg", genotype="bnas_cifar", **LEAST)
    model = keras.Model(inputs, keras.layers.Dense(3)(body(inputs)))
    model.save(tmp_path / "model", save_format="tf")
    loaded = keras.models.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded(images(8, 8, 3)), model(images(8, 8, 3)), atol=1e-5)
    assert names(loaded.get_layer("bnas_d")) == names(body)


@pytest.mark.parametrize("make", [functional, backbone])
def test_cloned(zoo_entry, make):
    model = make()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(images()), model(images()), atol=1e-6)
    own = {id(weight) for weight in model.weights}
    assert not any(id(weight) in own for weight in clone.weights)


def test_two_sizes_in_one_model(zoo_entry, trained):
    near, far = keras.Input(SHAPE), keras.Input((48, 48, 3))
    parts = [backbone(input_tensor=near), backbone(input_shape=(48, 48, 3), name="far")]
    model = keras.Model([near, far], keras.layers.Concatenate()([parts[0].output, parts[1](far)]))
    assert model.output_shape == (None, 2 * FEATURES)
    for part in parts:
        assert_same_weights(part, trained)


def test_every_factory_is_a_variants():
    public = {name for name in vars(factories) if name.startswith("BNAS")}
    assert public == {one.factory for one in VARIANTS.values()}


def test_numbers_that_are_not_the_authors_say_so():
    ours = "groups, cells and width are this package's choice"
    assert ours in BNASDv2.__doc__ and ours not in BNASD.__doc__
