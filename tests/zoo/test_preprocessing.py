"""From image files to normalised inputs, and from outputs to names of classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import keras, tf
from bnas_larq.errors import DataError, ZooError
from bnas_larq.zoo.factories import BNASD
from bnas_larq.zoo.preprocessing import decode_predictions, load_image, preprocess_input

NAME = "bnasd-cifar10-test"


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_imagenet_is_what_torchvision_does():
    expected = (image() / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    result = preprocess_input(image())
    assert isinstance(result, np.ndarray) and result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)
    torch = keras.applications.imagenet_utils.preprocess_input(
        image().astype("float32"), mode="torch"
    )
    np.testing.assert_allclose(result, torch, atol=1e-5)


@pytest.mark.parametrize("weights", ["cifar10", NAME])
def test_an_entrys_own_normalisation(zoo_entry, weights):
    means, deviations = zoo_entry.normalization.mean, zoo_entry.normalization.std
    expected = (image() / 255.0 - means) / deviations
    np.testing.assert_allclose(preprocess_input(image(), weights), expected, atol=1e-5)


def test_runs_and_variants(zoo_entry, run_folder):
    expected = preprocess_input(image(), NAME)
    np.testing.assert_array_equal(preprocess_input(image(), run_folder), expected)
    np.testing.assert_array_equal(preprocess_input(image(), "cifar10", variant="bnas-d"), expected)
    with pytest.raises(ZooError, match="bnas-e"):
        preprocess_input(image(), "cifar10", variant="bnas-e")


def test_numbers_tensors_and_keras_tensors_give_the_same():
    expected = preprocess_input(image())
    np.testing.assert_array_equal(preprocess_input(image()[0]), expected[0])
    np.testing.assert_array_equal(preprocess_input(image().tolist()), expected)
    np.testing.assert_array_equal(preprocess_input(image().astype("float64")), expected)
    tensor = preprocess_input(tf.constant(image()))
    assert tf.is_tensor(tensor)
    np.testing.assert_array_equal(tensor, expected)
    mapped = tf.data.Dataset.from_tensors(image()).map(preprocess_input)
    np.testing.assert_array_equal(next(iter(mapped)), expected)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    inside = keras.Model(inputs, preprocess_input(inputs))
    np.testing.assert_allclose(inside(image()), expected, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.zeros((32, 32)), np.zeros((2, 32, 32, 1)), 3])
def test_other_shapes_are_refused(wrong):
    with pytest.raises(DataError, match="height, width, 3"):
        preprocess_input(wrong)


def test_from_a_file_to_a_name(zoo_entry, tmp_path):
    Image.fromarray(image()[0]).resize((50, 40)).save(tmp_path / "thing.png")
    picture = load_image(tmp_path / "thing.png", 32)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    assert load_image(tmp_path / "thing.png").shape == (40, 50, 3)
    assert load_image(str(tmp_path / "thing.png"), (20, 30)).shape == (20, 30, 3)
    predictions = BNASD(weights=NAME)(preprocess_input(picture[None], NAME))
    ((best, *others),) = decode_predictions(predictions, NAME, top=3)
    index = int(np.argmax(predictions))
    assert best == (str(index), zoo_entry.class_names[index], float(np.max(predictions)))
    assert len(others) == 2 and best[2] >= others[0][2] >= others[1][2]
    with pytest.raises(DataError, match="absent.png"):
        load_image(tmp_path / "absent.png")


def test_decoding_many(zoo_entry):
    scores = np.array([[0.1] * 9 + [0.9], [-3.0] + [-5.0] * 9])
    first, second = decode_predictions(scores, "cifar10")
    assert [len(first), len(second)] == [5, 5]
    assert first[0] == ("9", zoo_entry.class_names[9], 0.9)
    assert [number for number, _, _ in second] == ["0", "1", "2", "3", "4"]  # ties in order
    assert len(decode_predictions(scores, "cifar10", top=99)[0]) == 10


@pytest.mark.parametrize(
    ("scores", "top", "message"),
    [
        (np.zeros((1, 7)), 5, "7 columns for the 10 classes of 'bnasd-cifar10-test'"),
        (np.zeros(10), 5, "Give a batch"),
        (np.zeros((1, 10)), 0, "top=0"),
    ],
)
def test_decoding_what_does_not_fit(zoo_entry, scores, top, message):
    with pytest.raises(ZooError, match=message):
        decode_predictions(scores, NAME, top=top)


@pytest.mark.parametrize("weights", [None, "", 7])
def test_weights_that_are_neither_name_nor_path(weights):
    with pytest.raises(ZooError, match=f"folder of an entry or run. Received: {weights!r}"):
        preprocess_input(image(), weights)


def test_imagenets_names_are_keras_own(tmp_path, monkeypatch):
    """Keras keeps the list it downloaded for as long as the process lives; here a short cut."""
    from tf_keras.src.applications import imagenet_utils

    index = {str(number): [f"n{number:08d}", f"thing_{number}"] for number in range(1000)}
    monkeypatch.setattr(imagenet_utils, "CLASS_INDEX", json.loads(json.dumps(index)))
    scores = np.zeros((1, 1000), np.float32)
    scores[0, 7], scores[0, 3] = 2.0, 1.0
    assert decode_predictions(scores, top=2) == [
        [("n00000007", "thing_7", 2.0), ("n00000003", "thing_3", 1.0)]
    ]
    assert decode_predictions(scores, top=2) == [
        [(a, b, float(c)) for a, b, c in one]
        for one in keras.applications.imagenet_utils.decode_predictions(scores, top=2)
    ]
