"""Weight files: exchanged between equal networks only; nothing is assigned if one does not fit."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.errors import RunError, WeightsError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.networks.weight_files import load_weights, save_weights

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]


def network(cell=CELL, drop_path=False, **settings):
    """One cell of one node on 8×8 images, freshly initialised."""
    size = {"input_shape": (8, 8, 3), "num_classes": 3, "channels": 2, "cells": 1, **settings}
    return build_network(Genotype(cell, cell), drop_path=drop_path, **size)


def filled(model):
    """The model with weights that no initialiser gives, each of them different."""
    for index, weight in enumerate(model.weights):
        count = weight.shape.num_elements()
        weight.assign(np.linspace(0.1, 0.9, count).reshape(weight.shape) + index / 100)
    return model


def values(model):
    return {weight.name: weight.numpy() for weight in model.weights}


def assert_same(model, expected):
    assert values(model).keys() == expected.keys()
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def trained():
    return filled(network())


@pytest.fixture
def file(trained, tmp_path):
    return save_weights(trained, tmp_path / "weights.h5")


# -- round trips -----------------------------------------------------------------------------------


def test_round_trip(trained, file):
    assert_same(load_weights(network(), file), values(trained))
    assert [path.name for path in file.parent.iterdir()] == ["weights.h5"]


@pytest.mark.parametrize(
    ("scheme", "last"),
    [
        ("sign-scale", {"activation_gradient": "annealed"}),
        ("pcnn", {"activation_gradient": "annealed"}),
        ("bonn", {"activation_gradient": "annealed"}),
        ("abc-net", {}),
    ],
)
def test_files_fit_the_stages_of_one_network_both_ways(scheme, last, tmp_path):
    """A real network, one with real kernels, the binary one; with every kind of convolution (cells
    are preprocessed by an ordinary one)."""
    cell = [[("bin_sep_conv_3x3", 0), ("identity", 1)]]
    stages = [{"activations": "tanh", "kernels": "real"}, {"kernels": "real"}, last]
    stages = [network(cell, scheme=scheme, reductions=(0,), **stage) for stage in stages]
    for before, after in zip(stages, [*stages[1:], stages[0]], strict=True):
        file = save_weights(filled(before), tmp_path / "weights.h5")
        load_weights(after, file)
        assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
        for layer in after.layers:
            expected = before.get_layer(layer.name).get_weights()
            for value, other in zip(layer.get_weights(), expected, strict=True):
                np.testing.assert_array_equal(value, other, err_msg=layer.name)


def test_half_precision_keeps_what_it_cannot_hold(tmp_path):
    """Variances behind a convolution of ±1 without scales are large."""
    norm = keras.layers.BatchNormalization(name="norm")
    model = filled(keras.Sequential([keras.Input((2,)), norm]))
    norm.moving_mean.assign([65504.0, 0.1])
    norm.moving_variance.assign([65505.0, 0.1])
    load_weights(model, save_weights(model, tmp_path / "weights.h5", half=True))
    assert norm.moving_mean.numpy().tolist() == [65504.0, np.float16(0.1)]
    assert norm.moving_variance.numpy().tolist() == [65505.0, np.float32(0.1)]


@pytest.mark.parametrize("saved_with", [False, True])
def test_networks_with_and_without_drop_path_share_files(tmp_path, saved_with):
    saved = filled(network(drop_path=saved_with))
    path = save_weights(saved, tmp_path / "weights.h5")
    loaded = load_weights(network(drop_path=not saved_with), path)
    assert len(loaded.layers) != len(saved.layers)
    assert_same(loaded, values(saved))


def test_keras_reads_our_files_and_we_read_those_of_keras(trained, file, tmp_path):
    model = network()
    model.load_weights(file)
    assert_same(model, values(trained))
    trained.save_weights(tmp_path / "keras.h5")
    assert_same(load_weights(network(), tmp_path / "keras.h5"), values(trained))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_weights_in_a_whole_saved_model_are_found(tmp_path):
    model = filled(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")]))
    model.save(tmp_path / "model.h5")
    again = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    assert_same(load_weights(again, tmp_path / "model.h5"), values(model))


def test_more_layers_than_an_attribute_can_name(tmp_path):
    """210 names of 320 letters are more than the 64 KiB that HDF5 allows for one attribute."""

    def wide():
        inputs = keras.Input((1,))
        flat = [keras.layers.Activation("linear", name=f"{i:0320d}")(inputs) for i in range(210)]
        return keras.Model(inputs, [*flat, keras.layers.Dense(2, name="dense")(inputs)])

    saved, loaded, by_keras = filled(wide()), wide(), wide()
    path = save_weights(saved, tmp_path / "weights.h5")
    assert_same(load_weights(loaded, path), values(saved))
    by_keras.load_weights(path)
    assert_same(by_keras, values(saved))


def test_equal_weights_give_equal_bytes(trained, file, tmp_path):
    again = save_weights(trained, tmp_path / "again.h5")
    assert again.read_bytes() == file.read_bytes()


def test_a_full_disk_leaves_the_old_file(trained, file, full_disk):
    before = file.read_bytes()
    with (
        full_disk(1000),
        pytest.raises(RunError, match="must be written to disk. Received: .*large"),
    ):
        save_weights(network(), file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["weights.h5"]


# -- without the classifier ------------------------------------------------------------------------


def test_without_top_the_classifier_is_left_over(file, trained):
    for settings in ({"include_top": False}, {"include_top": False, "pooling": "avg"}):
        body = network(**settings)
        load_weights(body, file, without_top=True)
        expected = {n: v for n, v in values(trained).items() if not n.startswith("classifier")}
        assert_same(body, expected)
    refused(network(include_top=False), file, "of layer 'classifier', which the network lacks")


@pytest.mark.parametrize("num_classes", [3, 7])
def test_a_new_classifier_keeps_its_weights(file, trained, num_classes):
    model = network(num_classes=num_classes)
    head = model.get_layer("classifier").get_weights()
    load_weights(model, file, without_top=True)
    for value, expected in zip(model.get_layer("classifier").get_weights(), head, strict=True):
        np.testing.assert_array_equal(value, expected)
    for name, value in values(model).items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(value, values(trained)[name])


def test_a_body_and_its_file_need_no_classifier(tmp_path):
    body = filled(network(include_top=False))
    path = save_weights(body, tmp_path / "body.h5")
    assert_same(load_weights(network(include_top=False), path), values(body))
    load_weights(network(), path, without_top=True)
    refused(network(), path, "without the weights of layer 'classifier'")


def test_without_top_everything_else_must_fit(file):
    model = network(channels=3)
    before = values(model)
    with pytest.raises(WeightsError, match="must have the network's shapes"):
        load_weights(model, file, without_top=True)
    assert_same(model, before)


def test_foreign_layers_keep_their_weights(file, trained):
    image = keras.Input((8, 8, 3))
    model = network(input_tensor=keras.layers.Conv2D(3, 1, name="own")(image))
    kernel = model.get_layer("own").get_weights()[0]
    refused(model, file, "without the weights of layer 'own'")
    load_weights(model, file, foreign=["own"])
    np.testing.assert_array_equal(model.get_layer("own").get_weights()[0], kernel)
    assert_same(model, {**values(trained), **{w.name: w.numpy() for w in model.weights[:2]}})


# -- refused: nothing is assigned ------------------------------------------------------------------


def refused(model, path, message):
    before = values(model)
    with pytest.raises(WeightsError, match=message) as error:
        load_weights(model, path)
    assert "\n" not in str(error.value)
    assert_same(model, before)


@pytest.mark.parametrize("settings", [{"channels": 3}, {"num_classes": 4}])
def test_another_size(file, settings):
    message = (
        r"must have the network's shapes. Received: \(.*\) for '.*' of shape \(.*\) in .*h5. Use"
    )
    refused(network(**settings), file, message)


def test_only_the_last_layer_differs_and_still_nothing_is_assigned(file):
    refused(network(num_classes=4), file, r"Received: \(.*\) for 'classifier.*kernel:0' of shape")


def test_another_genotype(file):
    message = (
        "belong to the network .* Received: .*without the weights of layer '.*bin_conv_5x5.*'. Use"
    )
    refused(network([[("bin_conv_5x5", 0), ("max_pool_3x3", 1)]]), file, message)


def test_a_part_of_the_genotype(file):
    """All that this network needs is in the file, and still it is the file of another one."""
    message = (
        "Received: .* with weights of layer '.*bin_conv_3x3.*', which the network lacks. Use the"
    )
    refused(network([[("max_pool_3x3", 0), ("max_pool_3x3", 1)]]), file, message)


def test_more_cells(file):
    refused(network(cells=2), file, "without the weights of layer 'cell1")


def test_fewer_cells(tmp_path):
    path = save_weights(network(cells=2), tmp_path / "weights.h5")
    refused(network(), path, r"(shapes. Received|with weights of layer 'cell1)")


def test_truncated_files(file):
    model, content = network(), file.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        refused(
            model, file, r"must be an intact HDF5 file. Received: .*h5 \(.*\). Restore or retrain"
        )
    file.write_bytes(content[:-1])
    refused(model, file, "must be an intact HDF5 file")


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_other_files(tmp_path, content):
    (tmp_path / "weights.h5").write_bytes(content)
    refused(network(), tmp_path / "weights.h5", "must be an intact HDF5 file")


def test_damaged_files(file):
    """Twenty random bytes replaced, many times: one sentence, or numbers of the right shape."""
    model, content = network(), file.read_bytes()
    before, generator, refusals = values(model), np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(content)
        for place in generator.integers(len(content), size=20):
            damaged[place] = generator.integers(256)
        file.write_bytes(damaged)
        try:
            load_weights(model, file)
        except WeightsError:
            refusals += 1
            assert_same(model, before)
        before = values(model)
    assert refusals > 30


def test_hdf5_without_keras_layout(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dense"] = np.zeros(3)
    refused(network(), tmp_path / "a.h5", "without the weights of layer")


@pytest.mark.parametrize("name", ["gone.h5", ""])
def test_missing_files(tmp_path, name):
    refused(
        network(), tmp_path / name, "read from an HDF5 file. Received: .*, which does not exist"
    )


@pytest.mark.parametrize("way", ["external data", "external link", "soft link", "virtual"])
def test_files_that_refer_to_other_files_are_refused(trained, file, tmp_path, way):
    """HDF5 would read any file of this machine as weights, and so could a stranger's entry."""
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as other:
        other["bias"] = np.zeros(3, "float32")
    with h5py.File(file, "a") as weights:
        (name,) = (n for n in weights["classifier"].attrs["weight_names"] if "bias" in str(n))
        del weights["classifier"][name]
        if way == "external data":
            where = [(str(secret), 0, 12)]
            weights["classifier"].create_dataset(name, (3,), "float32", external=where)
        elif way == "external link":
            weights["classifier"][name] = h5py.ExternalLink(str(secret), "/bias")
        elif way == "soft link":
            weights["classifier"][name] = h5py.SoftLink("/elsewhere")
        else:
            layout = h5py.VirtualLayout((3,), "float32")
            layout[:] = h5py.VirtualSource(str(secret), "bias", (3,))
            weights["classifier"].create_virtual_dataset(name, layout)
    before = values(model := network())
    with pytest.raises(WeightsError, match="intact HDF5.*reference to somewhere else"):
        load_weights(model, file)
    assert_same(model, before)


def test_a_claim_of_size_takes_no_memory(file):
    with h5py.File(file, "r+") as content:
        group = content["stem_conv"]
        name = group.attrs["weight_names"][0]
        del group[name]
        group.create_dataset(name, shape=(1 << 45,), dtype="f4", chunks=(1 << 20,))
    with pytest.raises(WeightsError, match="must have the network's shapes"):
        load_weights(network(), file)


@pytest.mark.parametrize("value", [h5py.Empty("f4"), "text"])
def test_what_is_no_numbers_is_refused(file, value):
    with h5py.File(file, "r+") as content:
        group = content["stem_conv"]
        name = group.attrs["weight_names"][0]
        del group[name]
        group[name] = value
    with pytest.raises(WeightsError, match="holds no floating-point numbers"):
        load_weights(network(), file)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(trained, file, value):
    with h5py.File(file, "r+") as content:
        content["classifier/classifier/bias:0"][1] = value
    before = values(trained)
    with pytest.raises(WeightsError, match="'/classifier/.*bias:0' holds NaN or infinity"):
        load_weights(trained, file)
    assert_same(trained, before)
