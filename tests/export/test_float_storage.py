"""Full-precision kernels stored as float16 and int8, with the real interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.errors import ExportError
from bnas_larq.export.compute_engine import compute_engine
from bnas_larq.export.converter import convert
from bnas_larq.export.exporter import export_network
from bnas_larq.export.flatbuffer import read_graph
from bnas_larq.export.float_storage import with_float_storage
from bnas_larq.export.lint import lint
from bnas_larq.export.parity import check_agreement, check_parity
from bnas_larq.export.tflite_file import read_convolutions
from bnas_larq.fitting.rounded_kernels import round_to_int8

#: Weights of the small network's full-precision kernels.
STEM, SHORTCUT, CLASSIFIER = 3 * 3 * 3 * 33, 2 * 2 * 36 * 36, 36 * 10
#: Bytes of a further tensor, operation and name, at most.
STRUCTURE = 250


@pytest.fixture(scope="module")
def stored(exported):
    """The small network's file by storage."""
    return {name: with_float_storage(exported, name) for name in ("float32", "float16", "int8")}


@pytest.mark.parametrize(("storage", "each", "scale"), [("float16", 2, 0), ("int8", 1, 4 + 8)])
def test_kernels_take_a_half_or_a_quarter(stored, small_network, storage, each, scale):
    """A scale has a zero point of 8 bytes beside it."""
    records = {r.name: r for r in read_convolutions(stored[storage], small_network)}
    floats = {name: record for name, record in records.items() if not record.binary}
    weights = {"stem": STEM, "shortcut": SHORTCUT, "classifier": CLASSIFIER}
    assert {name: record.bytes for name, record in floats.items()} == {
        name: each * count for name, count in weights.items()
    }
    assert {record.stored for record in floats.values()} == {storage}
    assert {record.named_by for record in records.values()} == {"kernel"}
    saved = (4 - each) * sum(weights.values()) - scale * (33 + 36 + 10)
    missing = len(stored[storage]) - (len(stored["float32"]) - saved)
    assert 0 < missing < 3 * STRUCTURE + 1000  # aligned anew


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_nothing_else_in_the_file_changes(stored, storage):
    """All operations of Larq Compute Engine keep their constants and options, byte for byte."""
    before, after = read_graph(stored["float32"]), read_graph(stored[storage])
    restored = after.restored()
    assert len(restored) == 3
    kept = [o for o in after.operations if o.outputs[0] not in restored]
    assert kept == list(before.operations)
    for index, tensor in enumerate(before.tensors):
        if index not in restored:
            assert after.tensors[index] == tensor
    assert any(operation.custom == "LceBconv2d" for operation in kept)


@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("options", [{}, {"num_threads": 2}, {"use_xnnpack": True}])
def test_the_interpreter_computes_with_the_rounded_kernels(
    small_network, stored, pictures, storage, options
):
    """In float32: a Keras network with the same rounded kernels gives the same outputs."""
    rounded = keras.models.clone_model(small_network)
    rounded.set_weights(small_network.get_weights())
    if storage == "int8":
        round_to_int8(rounded)
    else:
        for name in ("stem", "shortcut", "classifier"):
            kernel, *bias = rounded.get_layer(name).get_weights()
            # The scale of the BatchNorm behind the stem is folded into its kernel before.
            scale = folded_scale(small_network) if name == "stem" else np.float32(1)
            kernel = (kernel * scale).astype(np.float16).astype(np.float32) / scale
            rounded.get_layer(name).set_weights([kernel, *bias])
    interpreter = compute_engine().testing.Interpreter(stored[storage], **options)
    outputs = np.concatenate([interpreter.predict(picture[None]) for picture in pictures[:16]])
    expected = np.asarray(rounded(pictures[:16]))
    # A value within rounding of 0 may get the opposite sign in some image.
    close = np.abs(outputs - expected).max(1) < 1e-3 * np.abs(expected).max()
    assert close.mean() >= 0.75
    original = np.asarray(small_network(pictures[:16]))
    assert (np.abs(outputs - original).max(1) > 1e-3 * np.abs(expected).max()).any() or (
        storage == "float16"
    )


def folded_scale(model):
    gamma, _, _, variance = model.get_layer("stem_bn").get_weights()
    return gamma / np.sqrt(variance + model.get_layer("stem_bn").epsilon)


def test_small_kernels_and_float32_stay_as_they_are(exported, pictures):
    assert with_float_storage(exported, "float32") is exported
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="few")(image)  # 3 · 3 · 3 · 4 = 108 weights
    model = keras.Model(image, keras.layers.Conv2D(64, 1, name="enough")(x))  # 4 · 64 = 256
    content = with_float_storage(convert(model), "int8")
    assert {record.name: record.stored for record in read_convolutions(content, model)} == {
        "few": "float32",
        "enough": "int8",
    }
    check_agreement(check_parity(model, content, pictures[:2]))


def test_depthwise_shared_and_transposed_kernels(pictures):
    """One scale for each output channel, and one kernel for two calls."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(32, 1, name="wide")(image)
    shared = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1, name="depthwise")
    x = keras.layers.Conv2DTranspose(16, 3, strides=2, name="up")(shared(shared(x)))
    model = keras.Model(image, keras.layers.Flatten()(x))
    content = with_float_storage(convert(model), "int8")
    graph = read_graph(content)
    constants = [graph.tensors[index] for index in graph.restored().values()]
    assert sorted((len(t.content), len(t.scales), t.axis) for t in constants) == [
        (3 * 3 * 32, 32, 3),
        (3 * 3 * 16 * 32, 16, 0),
    ]
    parity = check_parity(model, content, pictures[:2])
    assert parity.max_abs_difference < 0.02 * parity.max_abs_output


def test_a_rounded_network_loses_nothing_by_int8_kernels(small_network, pictures):
    """Its file computes what the file with float32 kernels does."""
    rounded = keras.models.clone_model(small_network)
    rounded.set_weights(small_network.get_weights())
    round_to_int8(rounded)
    content = convert(rounded)
    interpreters = [
        compute_engine().testing.Interpreter(with_float_storage(content, storage))
        for storage in ("float32", "int8")
    ]
    before, after = (
        np.concatenate([interpreter.predict(picture[None]) for picture in pictures[:16]])
        for interpreter in interpreters
    )
    close = np.abs(before - after).max(1) < 1e-5 * np.abs(before).max()
    assert close.mean() >= 0.9  # a value within rounding of 0 may get the opposite sign


def test_what_cannot_be_stored_is_refused(exported):
    with pytest.raises(ExportError, match=r"float16, int8\. Received: 'int4'; did you mean 'int8'"):
        with_float_storage(exported, "int4")
    image = keras.Input((8, 8, 3))
    large = keras.layers.Conv2D(64, 3, kernel_initializer=keras.initializers.Constant(1e5))
    content = convert(keras.Model(image, large(image)))
    with pytest.raises(ExportError, match=r"values below 65,504\. Received: 1e\+05 in "):
        with_float_storage(content, "float16")
    with_float_storage(content, "int8")


def test_the_report_says_storage_memory_and_accuracy(small_network, pictures, tmp_path):
    labels = np.asarray(small_network(pictures)).argmax(1)
    labels[:6] = (labels[:6] + 1) % 10
    path = tmp_path / "model.tflite"
    options = {"labels": labels, "float_storage": "int8"}
    report = export_network(small_network, path, pictures, **options)
    assert report["float_storage"] == "int8"
    assert report["memory"] == {
        "restored_kernels": 4 * (STEM + SHORTCUT + CLASSIFIER),
        "peak_activations": lint(small_network).peak_activation_bytes,
    }
    assert report["parity"]["keras_accuracy"] == 54 / 60
    assert report["parity"]["accuracy"] == pytest.approx(54 / 60, abs=0.1)
    with pytest.raises(ExportError, match="Received: 'half'"):
        export_network(small_network, path, pictures, float_storage="half", overwrite=True)
    # The lint knows the difference in advance.
    sizes = lint(small_network).bytes_by_storage
    assert sizes["float32"] - sizes["float16"] == 2 * (STEM + SHORTCUT + CLASSIFIER)
    assert sizes["float32"] - sizes["int8"] == 3 * (STEM + SHORTCUT + CLASSIFIER) - 4 * 79


def test_too_coarse_kernels_are_told_from_wrong_conversions(small_network, exported, pictures):
    other = keras.models.clone_model(small_network)
    other.set_weights(small_network.get_weights())
    classifier = other.layers[-1]
    classifier.set_weights([-weights for weights in classifier.get_weights()])
    parity = check_parity(other, exported, pictures)
    with pytest.raises(ExportError, match="stored as int8 are too coarse"):
        check_agreement(parity, "int8")
