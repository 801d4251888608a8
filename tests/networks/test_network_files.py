"""A trained network in a folder, loaded whole, without its top, with a new one, behind a tensor."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import read_json, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights

IMAGES = tf.random.stateless_normal([2, 8, 8, 3], [1, 2])


@pytest.fixture(scope="module")
def trained():
    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=3, channels=2, cells=2)
    return build_network(Genotype.published("bnas_imagenet"), config), config


@pytest.fixture
def stored(trained, tmp_path):
    model, config = trained
    genotype = Genotype.published("bnas_imagenet")
    network = StoredNetwork(
        tmp_path, genotype, config, ("a", "b", "c"), {"mean": [0.5], "std": [0.1]}, {"name": "x"}
    )
    network.save()
    save_weights(model, network.weights)
    return StoredNetwork.load(tmp_path)


def test_round_trip(stored, trained):
    assert stored.config == trained[1]
    assert stored.class_names == ("a", "b", "c")
    assert (stored.normalization["mean"], stored.data) == ([0.5], {"name": "x"})
    assert stored.geometry == Geometry((8, 8), "resize")
    np.testing.assert_allclose(stored.load_model()(IMAGES), trained[0](IMAGES), atol=1e-6)


def test_without_top_and_at_another_size(stored, trained):
    pooled = keras.Model(trained[0].input, trained[0].get_layer("pool").output)
    body = stored.load_model(include_top=False, pooling="avg")
    np.testing.assert_allclose(body(IMAGES), pooled(IMAGES), atol=1e-6)
    larger = stored.load_model(include_top=False, input_shape=(100, 104, 3))
    # the stem stays the one that the weights belong to
    assert larger.output_shape == (None, 100, 104, 4 * 2)


def test_a_new_top(stored, trained):
    model = stored.load_model(new_top=True, num_classes=5)
    assert model.output_shape == (None, 5)
    np.testing.assert_array_equal(
        model.get_layer("stem_conv").kernel, trained[0].get_layer("stem_conv").kernel
    )


def test_behind_layers_of_ones_own(stored, trained):
    image = keras.Input((8, 8, 3))
    tensor = keras.layers.Conv2D(3, 1, name="own")(image)
    model = stored.load_model(input_tensor=tensor)
    expected = trained[0](keras.Model(image, tensor)(IMAGES))
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-6)


def test_what_is_missing_is_named(stored, tmp_path):
    stored.weights.unlink()
    with pytest.raises(RunError, match="without weights"):
        stored.load_model()
    (tmp_path / "network.json").unlink()
    with pytest.raises(RunError, match="A trained network needs network.json"):
        StoredNetwork.load(tmp_path)


def test_unknown_settings_are_refused(stored):
    with pytest.raises(BnasLarqError, match="Received: 'clases'"):
        stored.load_model(clases=3)


@pytest.mark.parametrize(
    "change",
    [
        {"normalization": [1]},
        {"data": "x"},
        {"data": {"evaluation": "zoom"}},
        {"data": {"evaluation": "center-crop", "crop_share": 2}},
        {"config": {"cells": "5"}},
        {"config": {"input_shape": [8, 8, 3], "full_precision": [1]}},
        {"config": {"input_shape": [8, 8, 3], "classifier_activation": "nothing"}},
    ],
)
def test_a_description_of_other_kinds_is_a_sentence(stored, change):
    path = stored.folder / "network.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(RunError, match="network.json.*Received: .*network.json. Restore it"):
        StoredNetwork.load(stored.folder)


def test_networks_of_earlier_releases_keep_their_relu(tmp_path):
    """They had it behind BNAS-UCB's preprocessing, too, and their network.json does not say so."""
    genotype = Genotype.load("random:bnas-ucb-none:1")
    config = NetworkConfig((8, 8, 3), num_classes=2, channels=4, cells=1)
    StoredNetwork(tmp_path, genotype, config, ("a", "b"), {}, {}).save()
    path = tmp_path / "network.json"
    assert StoredNetwork.load(tmp_path).config.preprocess == "auto"
    values = json.loads(path.read_text())
    del values["config"]["preprocess"]
    path.write_text(json.dumps(values))
    assert StoredNetwork.load(tmp_path).config.preprocess == "relu"


@pytest.mark.parametrize(("switch", "kind"), [(True, "conv"), (False, "none")])
def test_earlier_releases_stored_whether_there_is_a_shortcut(stored, switch, kind):
    path = stored.folder / "network.json"
    values = read_json(path)
    assert values["config"]["shortcut"] == "conv"
    write_json(path, {**values, "config": {**values["config"], "shortcut": switch}})
    assert StoredNetwork.load(stored.folder).config.shortcut == kind


def test_stages_of_one_network_are_kept_and_older_files_are_binary(stored, tmp_path):
    options = {"activations": "leaky-clip", "kernels": "real"}
    options |= {"activation_gradient": "annealed", "activation_clip": 2.0}
    config = stored.config.replace(**options)
    dataclasses.replace(stored, config=config).save()
    assert StoredNetwork.load(tmp_path).config == config
    values = read_json(tmp_path / "network.json")
    older = {key: value for key, value in values["config"].items() if key not in options}
    write_json(tmp_path / "network.json", {**values, "config": older})
    assert StoredNetwork.load(tmp_path).config == stored.config


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"cells": 10**9}, "at most 1,000 cells|less than or equal"),
        ({"channels": 10**9}, "at most 1,000 cells|less than or equal"),
        ({"input_shape": [10**9, 8, 3]}, "at most 10,000"),
        ({"num_classes": 10**9}, "names all"),
        ({"classifier_activation": "get"}, "an activation that Keras knows"),
        ({"classifier_activation": "serialize"}, "an activation that Keras knows"),
        ({"cells": True}, "'cells' must be a number"),
        ({"activations": "thanh"}, "'activations' must be"),
        ({"kernels": "real", "scheme": "full-precision"}, "A scheme that binarises nothing"),
        ({"activation_clip": -1.0}, "'activation_clip' must be"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_built(stored, change, rule):
    path = stored.folder / "network.json"
    values = read_json(path)
    write_json(path, {**values, "config": {**values["config"], **change}})
    with pytest.raises(BnasLarqError, match=rule):
        StoredNetwork.load(stored.folder)


@pytest.mark.parametrize(
    "size",
    [
        {"cells": 10**9},
        {"channels": 10**9},
        {"num_classes": 10**9},
        {"cells": 1000, "channels": 10_000},
        {"input_shape": (10**9, 8, 3)},
        {"classifier_activation": "get"},
    ],
)
def test_networks_beyond_any_memory_are_not_built(size):
    with pytest.raises(BnasLarqError, match="at most|No network of more than|activation is one"):
        build_network(Genotype.published("bnas_cifar"), **size)
