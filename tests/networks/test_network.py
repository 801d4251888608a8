"""Final networks: equal to the authors' program, the papers' sizes, and Keras models like any."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.layers.cells import DropPath
from bnas_larq.layers.convolutions import convolution
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.saved_models import load_saved_model
from bnas_larq.networks.weight_files import load_weights, save_weights

SMALL = {"input_shape": (8, 8, 3), "num_classes": 4, "channels": 2, "cells": 3}
GENOTYPES = ["bnas_cifar", "bnas_imagenet"]


def small(genotype: str = "bnas_imagenet", **settings) -> keras.Model:
    return build_network(Genotype.load(genotype), **{**SMALL, **settings})


def images(count: int = 4) -> tf.Tensor:
    return tf.random.stateless_normal([count, 8, 8, 3], [1, 2])


def settled(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a random value (variances positive), so that nothing is at its default."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        values = draw.uniform(0.5, 1.5, weight.shape)
        weight.assign(values if "bn" in weight.name else draw.normal(0.0, 0.5, weight.shape))
    return model


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# -- the authors' program --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixture", "name"),
    [("open_cifar_zeroise", "bnas_cifar"), ("open_cifar_cell", "bnas_imagenet")],
)
def test_logits_equal_the_authors_program(authors, fixture, name):
    file, genotype = authors(fixture), Genotype.published(name)
    model = build_network(genotype, channels=6, cells=5, num_classes=10, padding="symmetric")
    file.fill_network(model, genotype)
    np.testing.assert_allclose(model(file.images), file["logits"], atol=1e-4)
    # What was binary there is binary here, but for the dead branches that we leave out: both
    # reduction cells of `bnas_cifar` never use their newer input.
    binary = [layer for layer in model.layers if getattr(layer, "kernel_quantizer", None)]
    assert len(binary) == len(file["binarized"]) - (2 if name == "bnas_cifar" else 0)


def test_padding_is_what_the_fixture_tells_apart(authors):
    file, genotype = authors("open_cifar_cell"), Genotype.published("bnas_imagenet")
    model = build_network(genotype, channels=6, cells=5, num_classes=10, padding="same")
    file.fill_network(model, genotype)
    assert np.abs(model(file.images) - file["logits"]).max() > 1e-2


# -- sizes -----------------------------------------------------------------------------------------


def test_parameters_of_bnas_a():
    model = build_network(Genotype.published("bnas_cifar"), channels=36, cells=20)
    # The paper's layout has 52,704 more in the branches of the reduction cells' unused input.
    assert trainable(model) == 5_578_252 - 52_704 == 5_525_548


def test_parameters_of_bnas_f():
    model = build_network(
        Genotype.published("bnas_imagenet"),
        input_shape=(224, 224, 3),
        num_classes=1000,
        channels=68,
        cells=15,
    )
    assert trainable(model) == 39_781_442


def test_parameters_of_a_small_network_by_hand():
    pools = [[Edge("max_pool_3x3", 0)], [Edge("bin_conv_3x3", 1)]]
    model = build_network(Genotype(pools, pools), **{**SMALL, "cells": 1})
    stem = 2 * 3 + 3 * 3 * 3 * (3 * 2)
    preprocess = 2 * (2 * 6 + 6 * 2)
    edge = 2 * 2 + 3 * 3 * 2 * 2
    classifier = (2 * 2) * 4 + 4
    assert trainable(model) == stem + preprocess + edge + classifier


def test_shapes_behind_the_imagenet_stem():
    model = build_network(
        Genotype.published("bnas_imagenet"), input_shape=(224, 224, 3), channels=8, cells=4
    )
    shape = {layer.name: layer.output_shape for layer in model.layers}
    assert shape["stem0_conv"] == (None, 112, 112, 8 // 2)
    assert shape["stem1_bn"] == (None, 56, 56, 8)
    assert shape["stem2_bn"] == (None, 28, 28, 8)
    # The first cell counts as "after a reduction": 3×3 with stride 2 on the older input.
    assert shape["cell0_preprocess0_conv"] == (None, 28, 28, 8)
    assert model.get_layer("cell0_preprocess0_conv").kernel_size == (3, 3)
    # Cells 1 and 2 reduce, 4//3 and 2·4//3.
    sides = [shape[f"cell{index}_concat"][1:] for index in range(4)]
    assert sides == [(28, 28, 4 * 8), (14, 14, 4 * 16), (7, 7, 4 * 32), (7, 7, 4 * 32)]


def test_shapes_behind_the_cifar_stem():
    model = build_network(Genotype.published("bnas_cifar"), channels=6, cells=5)
    shape = {layer.name: layer.output_shape[1:] for layer in model.layers}
    assert shape["stem_conv"] == (32, 32, 3 * 6)
    sides = [shape[f"cell{index}_concat"] for index in range(5)]
    # Cells 1 and 3 reduce: 5//3 and 2·5//3.
    assert sides == [(32, 32, 24), (16, 16, 48), (16, 16, 48), (8, 8, 96), (8, 8, 96)]


@pytest.mark.parametrize("name", GENOTYPES)
def test_every_convolution_but_stem_and_shortcut_is_binary(name):
    model = small(name, input_shape=(32, 32, 3))
    for layer in model.layers:
        if isinstance(layer, lq.layers.QuantConv2D):
            precise = layer.name.startswith("stem") or "shortcut" in layer.name
            assert (layer.kernel_quantizer is None) == precise, layer.name
            assert (layer.input_quantizer is None) == precise, layer.name


def test_batch_norm_before_the_strided_preprocess_has_no_scale_in_cifar_networks():
    for stem, affine in (("cifar", False), ("imagenet", True)):
        model = small(stem=stem, input_shape=(32, 32, 3))
        assert model.get_layer("cell2_preprocess0_bn").scale == affine
        assert model.get_layer("cell2_preprocess1_bn").scale


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_full_precision_patterns_and_shortcut_setting(padding):
    plain = small(padding=padding)
    other = small(padding=padding, full_precision=("cell2_*",), shortcut=False)
    precise = {
        layer.name
        for layer in other.layers
        if isinstance(layer, lq.layers.QuantConv2D) and layer.kernel_quantizer is None
    }
    assert any(name.startswith("cell2_node") for name in precise)
    assert not any(name.startswith("cell1_node") for name in precise)
    assert any("shortcut" in layer.name for layer in plain.layers)
    assert not any("shortcut" in layer.name for layer in other.layers)


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


# -- grouped stem ----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_grouped_stem(padding):
    """Four groups: four convolutions side by side, forward and backward, on the CPU too."""
    settings = {"input_shape": (96, 96, 3), "channels": 8, "cells": 1, "padding": padding}
    grouped = small(stem_groups=4, **settings)
    kernels = {name: grouped.get_layer(f"{name}_conv").kernel for name in ("stem1", "stem2")}
    assert kernels["stem1"].shape == (3, 3, (8 // 2) // 4, 8)
    assert kernels["stem2"].shape == (3, 3, 8 // 4, 8)
    assert small(**settings).get_layer("stem2_conv").kernel.shape == (3, 3, 8, 8)

    layer, x = grouped.get_layer("stem2_conv"), tf.random.stateless_normal([2, 9, 9, 8], [3, 4])
    parts = [
        convolution(
            2,
            3,
            name=f"part{index}",
            strides=2,
            padding=padding,
            input_scheme=None,
            kernel_scheme=None,
        )
        for index in range(4)
    ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.sin(layer(x)))
    by_layer = tape.gradient(loss, [x, layer.kernel])
    for index, part in enumerate(parts):
        part.build((None, 9, 9, 2))
        part.set_weights([layer.get_weights()[0][..., 2 * index : 2 * index + 2]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = [part(piece) for part, piece in zip(parts, tf.split(x, 4, -1), strict=True)]
        loss_of_parts = tf.reduce_sum(tf.sin(tf.concat(outputs, -1)))
    of_x, *of_kernels = tape.gradient(loss_of_parts, [x, *[part.kernel for part in parts]])
    np.testing.assert_allclose(loss, loss_of_parts, rtol=1e-5)
    np.testing.assert_allclose(by_layer[0], of_x, atol=1e-5)
    np.testing.assert_allclose(by_layer[1], tf.concat(of_kernels, -1), atol=1e-4)


# -- settings --------------------------------------------------------------------------------------


def test_config_round_trip():
    config = NetworkConfig(channels=16, cells=8, full_precision=("cell7_*",), padding="symmetric")
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "stem_groups" in config.to_dict() and not any(k[0] == "_" for k in config.to_dict())
    model = build_network(Genotype.published("bnas_cifar"), NetworkConfig(**SMALL), channels=4)
    assert model.get_layer("cell0_preprocess1_conv").filters == 4


def test_stem_follows_the_size_of_the_input():
    assert NetworkConfig(input_shape=(95, 200, 3)).stem == "cifar"
    assert NetworkConfig(input_shape=(96, 96, 3)).stem == "imagenet"
    assert NetworkConfig(input_shape=(224, 224, 3), stem="cifar").stem == "cifar"


def test_an_automatic_stem_follows_a_new_size_and_another_does_not():
    large = {"input_shape": (96, 96, 3)}
    automatic = NetworkConfig(**SMALL)
    assert automatic.replace(**large).stem == "imagenet"
    assert automatic.replace(**large).replace(input_shape=(32, 32, 3)).stem == "cifar"
    assert automatic.replace(stem="cifar", **large).stem == "cifar"
    assert NetworkConfig(**SMALL, stem="cifar").replace(**large).stem == "cifar"
    # what was saved belongs to weights, which fit one stem only
    assert NetworkConfig.from_dict(automatic.to_dict()).replace(**large).stem == "cifar"
    model = build_network(Genotype.published("bnas_cifar"), automatic, **large)
    assert model.get_layer("stem2_conv") is not None
    with pytest.raises(BnasLarqError, match="Received: 'imput_shape'; did you mean"):
        automatic.replace(imput_shape=(96, 96, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "at least two classes, and at most 100,000. Received: num_classes=1"),
        ({"cells": 0}, "at least one cell .* Received: cells=0"),
        ({"channels": 1}, "two channels .* Received: cells=20, channels=1"),
        ({"stem_groups": 2}, "CIFAR stem.*has no groups. Received: stem_groups=2"),
        ({"stem": "imagenet", "stem_groups": 4, "channels": 12}, "Received: stem_groups=4, chan"),
        ({"stem": "imagenet", "stem_groups": 0}, "must divide .* Received: stem_groups=0"),
        ({"stem": "cifra"}, "Received: 'cifra'; did you mean 'cifar'"),
        ({"padding": "symetric"}, "Received: 'symetric'; did you mean 'symmetric'"),
        ({"scheme": "sign-scal"}, "Received: 'sign-scal'; did you mean 'sign-scale'"),
        ({"input_shape": (32, 32)}, r"\(height, width, channels\).* Received: \(32, 32\)"),
        ({"input_shape": (None, 32, 3)}, "all known and at most 10,000. Received"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        NetworkConfig(**settings)
    with pytest.raises(BnasLarqError, match=message):
        build_network(Genotype.published("bnas_cifar"), **settings)


def test_unknown_setting_in_a_file_is_refused():
    with pytest.raises(BnasLarqError, match="Received: 'chanels'; did you mean 'channels'"):
        NetworkConfig.from_dict({"chanels": 16})


def relu_layers(model):
    """Names of the ReLU behind preprocessing convolutions."""
    return {
        layer.name for layer in model.layers if "preprocess" in layer.name and "relu" in layer.name
    }


UCB = "random:bnas-ucb-none:1"


@pytest.mark.parametrize(
    ("genotype", "preprocess", "expected"),
    [
        ("bnas_cifar", "auto", True),
        (UCB, "auto", False),
        (UCB, "relu", True),
        ("bnas_cifar", "linear", False),
    ],
)
def test_bnas_ucb_has_no_relu_behind_binary_convolutions(genotype, preprocess, expected):
    """Nor behind those that preprocess a cell's inputs: it would erase the −1 side."""
    model = small(genotype, preprocess=preprocess)
    assert bool(relu_layers(model)) == expected
    if genotype == UCB and not expected:
        assert {layer.name for layer in model.layers if "relu" in layer.name} == {"stem_relu"}
