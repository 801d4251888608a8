"""Saved Keras models are loaded, code in them is not run."""

from __future__ import annotations

import json
import tempfile
import zipfile
from contextlib import nullcontext

import h5py
import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.activations import SchemeOptions
from bnas_larq.layers.convolutions import convolution
from bnas_larq.networks.network import build_network
from bnas_larq.networks.saved_models import load_saved_model

SUFFIXES = (".h5", ".keras")

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


@pytest.fixture(scope="module")
def model():
    """A backbone under a head, with TensorFlow's own operations between them."""
    body = build_network(
        Genotype.load("bnas_cifar"),
        input_shape=(8, 8, 3),
        cells=1,
        channels=4,
        include_top=False,
        name="body",
    )
    image = keras.Input((8, 8, 3))
    x = tf.nn.relu(body(image / 2.0))[:, 1:, 1:]
    x = tf.reshape(x, [-1, 7 * 7 * 16])
    x = lq.layers.QuantDense(3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip")(x)
    model = keras.Model(image, keras.layers.Softmax()(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_saved_model_is_the_same_again(model, suffix, tmp_path):
    model.save(tmp_path / f"model{suffix}")
    loaded = load_saved_model(tmp_path / f"model{suffix}")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    assert loaded.optimizer is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_convolutions_of_every_stage_are_known(suffix, tmp_path):
    stages = [
        SchemeOptions("leaky-clip", "real"),
        SchemeOptions(activation_gradient="approx", activation_clip=2.0),
        SchemeOptions(activation_gradient="annealed"),
    ]
    layers = [
        convolution(
            3, 3, name=f"stage{number}", input_scheme="pcnn", kernel_scheme="pcnn", options=options
        )
        for number, options in enumerate(stages)
    ]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    model.save(tmp_path / f"model{suffix}")
    loaded = load_saved_model(tmp_path / f"model{suffix}")
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded(images), model(images))
    for layer, own in zip(loaded.layers, layers, strict=True):
        assert type(layer) is type(own)
        assert layer.input_quantizer.get_config() == own.input_quantizer.get_config()


def rewritten(path, change):
    """The file with another configuration."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        contents["config.json"] = change(contents["config.json"].decode()).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = change(file.attrs["model_config"])
    return path


def replacing(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


def of_another_class(module, name):
    """The first softmax becomes something of another module."""

    def change(text):
        def visit(value):
            if isinstance(value, list):
                return [visit(item) for item in value]
            if not isinstance(value, dict):
                return value
            if value.get("class_name") == "Softmax":
                value = {**value, "module": module, "class_name": name, "registered_name": None}
            return {key: visit(item) for key, item in value.items()}

        return json.dumps(visit(json.loads(text)))

    return change


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (of_another_class("os", "system"), "os.system"),
        (of_another_class("subprocess", "Popen"), "subprocess.Popen"),
        (of_another_class("keras.utils", "get_file"), "keras.utils.get_file"),
        (of_another_class("keras.layers", "Lambda"), "Python code in a Lambda layer"),
        (replacing('"nn.relu"', '"io.write_file"'), "the operation tf.io.write_file"),
        (replacing('"nn.relu"', '"numpy_function"'), "the operation tf.numpy_function"),
        (replacing('"nn.relu"', '"compat.v1.write_file"'), "the operation tf.compat.v1.write_file"),
        (replacing('"__operators__.getitem"', '"io.write_file"'), "the operation tf.io.write_file"),
        (of_another_class("keras", "layers.Lambda"), "Python code in a Lambda layer"),
        (of_another_class("keras", "utils.get_file"), "keras.utils.get_file"),
        (of_another_class("keras.layers", "ClassMethod"), "a ClassMethod, which calls anything"),
        (of_another_class("keras", "x.TensorFlowOpLayer"), "a TensorFlowOpLayer, which calls"),
    ],
)
def test_a_file_that_would_run_code_is_refused(model, suffix, change, named, tmp_path):
    path = tmp_path / f"model{suffix}"
    model.save(path)
    with pytest.raises(BnasLarqError, match=f"runs no code. Received: .* with {named}"):
        load_saved_model(rewritten(path, change))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_lambda_layer_is_refused(suffix, tmp_path):
    image = keras.Input((4,))
    path = tmp_path / f"model{suffix}"
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(path)
    with pytest.raises(BnasLarqError, match="Python code in a Lambda layer"):
        load_saved_model(path)


def test_a_file_of_both_formats_is_read_as_keras_reads_it(tmp_path):
    image = keras.Input((4,))
    path = tmp_path / "model.h5"
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(path)
    keras.Model(image, keras.layers.Dense(2)(image)).save(tmp_path / "clean.keras")
    with open(path, "ab") as file:  # HDF5 ends where it says, an archive begins at the end
        file.write((tmp_path / "clean.keras").read_bytes())
    assert zipfile.is_zipfile(path)
    with pytest.raises(BnasLarqError, match="Python code in a Lambda layer"):
        load_saved_model(path)


def test_weights_that_keras_would_unpickle_are_not_read(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.weights.npz", b"")
    with pytest.raises(BnasLarqError, match="npz in place of weights in HDF5 may hold code"):
        load_saved_model(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_in_another_file_are_not_read(model, suffix, tmp_path):
    path, other = tmp_path / f"model{suffix}", tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones(3)
    model.save(path)
    if suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file["model_weights"]["more"] = h5py.ExternalLink(str(other), "x")
    else:
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            file["more"] = h5py.ExternalLink(str(other), "x")
        with zipfile.ZipFile(path) as archive:
            text = archive.read("config.json")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", text)
            archive.write(tmp_path / "weights.h5", "model.weights.h5")
    with pytest.raises(BnasLarqError, match="'more' is a reference to somewhere else"):
        load_saved_model(path)


def test_a_vocabulary_in_another_file_is_not_read(tmp_path):
    path = tmp_path / "model.keras"
    lookup = keras.layers.StringLookup(vocabulary=["a", "b"], input_shape=(1,))
    keras.Sequential([lookup]).save(path)
    assert load_saved_model(path).layers[0].get_vocabulary() == ["[UNK]", "a", "b"]
    change = replacing('"vocabulary": ["a", "b"]', '"vocabulary": "/etc/hostname"')
    with pytest.raises(BnasLarqError, match="vocabulary of another file, /etc/hostname"):
        load_saved_model(rewritten(path, change))


def test_an_archive_that_unpacks_to_far_more_is_refused_unread(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]).save(path)
    for name, size in (("assets/zeros", 100_000_000), ("config.json", 40_000_000)):
        bomb = tmp_path / "bomb.keras"
        bomb.write_bytes(path.read_bytes())
        with pytest.warns(UserWarning, match="Duplicate") if "config" in name else nullcontext():
            with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(name, bytes(size))
        with pytest.raises(BnasLarqError, match=r"bomb.keras \(which unpacks to 1?[04]0,0"):
            load_saved_model(bomb)


def test_nothing_stays_in_the_temporary_folder(tmp_path, monkeypatch):
    """Keras unpacks files of layers there, and then fails for want of weights."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = tmp_path / "model.keras"
    keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]).save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("assets/vocabulary.txt", "a")
    assert load_saved_model(path).count_params() == 8
    h5py.File(tmp_path / "empty.h5", "w").close()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(tmp_path / "empty.h5", "model.weights.h5")
    with pytest.raises(BnasLarqError, match="must be whole"):
        load_saved_model(path)
    assert not any((tmp_path / "temporary").iterdir())
    assert tempfile.tempdir == str(tmp_path / "temporary")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_registered_class_is_loaded(suffix, tmp_path):
    @keras.utils.register_keras_serializable("somebody")
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    image = keras.Input((4,))
    keras.Model(image, Doubled()(image)).save(tmp_path / f"model{suffix}")
    loaded = load_saved_model(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded(np.ones((1, 4), np.float32)), np.full((1, 4), 2.0))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_keras_3_is_called_so(suffix, tmp_path):
    keras_3 = pytest.importorskip("keras", minversion="3")
    path = tmp_path / f"model{suffix}"
    keras_3.Sequential([keras_3.Input((4,)), keras_3.layers.Dense(2)]).save(path)
    message = f"needs Keras 2 .*Received: .*model{suffix}, which Keras {keras_3.__version__} wrote"
    with pytest.raises(BnasLarqError, match=message):
        load_saved_model(path)


def test_what_is_no_saved_model_is_a_sentence(model, tmp_path):
    for suffix in SUFFIXES:
        model.save(tmp_path / f"whole{suffix}")
        content = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: len(content) // 2])
        (tmp_path / f"foreign{suffix}").write_bytes(b"GIF89a" * 100)
    for name in ("cut.h5", "cut.keras", "foreign.h5", "foreign.keras"):
        with pytest.raises(BnasLarqError, match=f"must be whole.*Received: .*{name}"):
            load_saved_model(tmp_path / name)
    model.save_weights(tmp_path / "model.h5")
    with pytest.raises(BnasLarqError, match="with weights alone"):
        load_saved_model(tmp_path / "model.h5")
    with pytest.raises(BnasLarqError, match="absent.h5, which does not exist"):
        load_saved_model(tmp_path / "absent.h5")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(BnasLarqError, match="ends with .h5 or .keras"):
        load_saved_model(tmp_path / "text.txt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layers_larger_than_the_file_are_not_allocated(suffix, tmp_path):
    """A billion units, of which the file holds sixteen."""
    path = tmp_path / f"model{suffix}"
    keras.Sequential([keras.layers.Dense(16, input_shape=(8,))]).save(path)
    load_saved_model(path)
    with pytest.raises(BnasLarqError, match="describes more weights than it holds"):
        load_saved_model(rewritten(path, replacing('"units": 16', '"units": 1000000000')))


def test_data_sets_larger_than_the_file_are_not_read(tmp_path):
    path = tmp_path / "model.h5"
    keras.Sequential([keras.layers.Dense(16, input_shape=(8,))]).save(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (900_000_000,), "f4")
    with pytest.raises(BnasLarqError, match="'huge' claims 3,600,000,000 bytes, which are not"):
        load_saved_model(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_that_are_not_finite_are_refused(suffix, tmp_path):
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    model.layers[0].bias.assign([0.0, np.nan])
    model.save(tmp_path / f"model{suffix}")
    with pytest.raises(BnasLarqError, match="weights are finite numbers. Received: .*bias"):
        load_saved_model(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"units": ' + "9" * 5000 + "}", "[", b"\xff"])
def test_a_damaged_configuration_is_a_sentence(text, tmp_path):
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = text
    with pytest.raises(BnasLarqError, match="must be whole"):
        load_saved_model(tmp_path / "model.h5")
