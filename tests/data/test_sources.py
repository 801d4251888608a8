"""The embedded data set, and what is the same for every source."""

import json

import numpy as np
import pytest
from sklearn import datasets

from bnas_larq.data import load_dataset
from bnas_larq.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_parts_cover_all_digits_once(digits):
    parts = [digits.train, digits.validation, digits.test]
    assert sorted(index for part in parts for index in part.indices) == list(range(1797))
    assert digits.test.num_examples == round(0.2 * 1797)
    assert digits.validation.num_examples == round(0.1 * (1797 - 359))
    assert digits.num_classes == 10 and digits.image_shape == (8, 8, 3)
    assert digits.class_names == tuple("0123456789")


def test_grey_becomes_rgb(digits):
    bunch = datasets.load_digits()
    images = digits.test.images_at(range(359))
    expected = np.round(bunch.images[digits.test.indices] * 255 / 16)
    assert images.dtype == np.uint8 and images.max() == 255
    for channel in range(3):
        np.testing.assert_array_equal(images[..., channel], expected)
    np.testing.assert_array_equal(digits.test.labels, bunch.target[digits.test.indices])


def test_the_test_part_is_stratified_and_never_moves(digits):
    counts = np.bincount(digits.test.labels)
    np.testing.assert_allclose(counts, 0.2 * np.bincount(datasets.load_digits().target), atol=1)
    for other in (load_dataset("digits", seed=5), load_dataset("digits", limit=50)):
        np.testing.assert_array_equal(other.test.indices, digits.test.indices)
        assert other.describe()["fingerprints"]["test"] == digits.describe()["fingerprints"]["test"]
    moved = load_dataset("digits", seed=5).validation
    assert not np.array_equal(moved.indices, digits.validation.indices)


def test_search_halves_are_disjoint_and_leave_validation_alone(digits):
    first, second = digits.search_halves(seed=0)
    assert sorted([*first.indices, *second.indices]) == digits.train.indices.tolist()
    assert abs(first.num_examples - second.num_examples) <= 1
    again, _ = digits.search_halves(seed=0)
    other, _ = digits.search_halves(seed=1)
    np.testing.assert_array_equal(first.indices, again.indices)
    assert not np.array_equal(first.indices, other.indices)


def test_limit_is_seeded_and_nested(digits):
    small, again, other = (load_dataset("digits", limit=100, seed=seed) for seed in (0, 0, 1))
    assert small.train.num_examples == 90 and small.validation.num_examples == 10
    np.testing.assert_array_equal(small.train.indices, again.train.indices)
    assert not np.array_equal(small.train.indices, other.train.indices)
    assert not set(small.train.indices) & set(digits.test.indices)
    whole = load_dataset("digits", limit=10**9)
    np.testing.assert_array_equal(whole.train.indices, digits.train.indices)


def test_no_validation_on_demand():
    dataset = load_dataset("digits", validation_fraction=0.0)
    assert dataset.validation is None
    assert dataset.train.num_examples == 1797 - 359
    assert dataset.describe()["sizes"]["validation"] == 0


@pytest.mark.parametrize("size, shape", [(16, (16, 16, 3)), ((4, 6), (4, 6, 3))])
def test_images_are_resized(digits, size, shape):
    resized = load_dataset("digits", image_size=size)
    assert resized.image_shape == resized.train.image_shape == shape
    np.testing.assert_array_equal(resized.train.indices, digits.train.indices)
    means = [data.test.images_at(range(50)).mean() for data in (resized, digits)]
    assert abs(means[0] - means[1]) < 10


def test_description_is_json(digits):
    description = json.loads(json.dumps(digits.describe()))
    assert description["sizes"] == {"train": 1294, "validation": 144, "test": 359}
    assert description["name"] == "digits" and description["streamed"] is False
    assert len(set(description["fingerprints"].values())) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1"),
        ({"validation_fraction": -0.1}, "Received: -0.1"),
        ({"limit": 0}, "limit counts training examples. Received: 0"),
        ({"limit": 1}, "at least one example in both parts. Received: 1 examples"),
        ({"image_size": 0}, "image_size is one side or"),
        ({"image_size": (8, 8, 3)}, "image_size is one side or"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        load_dataset("digits", **arguments)


def test_training_on_all_adds_what_was_split_off(digits):
    """BNAS trains its final network on all 50,000 images, though 5,000 chose the genotype."""
    everything = digits.training_examples("all")
    assert digits.training_examples() is digits.train
    assert len(everything) == len(digits.train) + len(digits.validation)
    indices = [
        np.concatenate([batch[2] for batch in part.batches(500).as_numpy_iterator()])
        for part in (everything, digits.train, digits.validation)
    ]
    assert set(indices[0]) == set(indices[1]) | set(indices[2])
    whole = load_dataset("digits", validation_fraction=0.0)
    assert whole.training_examples("all") is whole.train
