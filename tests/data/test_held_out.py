"""Which images are held out: the same in memory and streamed, and a fair share of each class."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bnas_larq.data import load_dataset

CLASSES, EACH = 3, 40
COUNT = CLASSES * EACH


def write(folder, name, *, by_class: bool):
    """A data set without a test part; TFDS shuffles it unless `by_class`."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), np.uint8)
    tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(4, 4, 3)),
                "label": tfds.features.ClassLabel(num_classes=CLASSES),
            }
        ),
        split_datasets={
            "train": [(n, {"image": images[n], "label": n // EACH}) for n in range(COUNT)]
        },
        data_dir=str(folder),
        disable_shuffling=by_class,
    ).download_and_prepare()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    write(folder, "by_class", by_class=True)
    write(folder, "mixed", by_class=False)
    return str(folder)


@pytest.mark.parametrize("name", ["by_class", "mixed"])
@pytest.mark.parametrize("options", [{}, {"seed": 5}, {"limit": 50, "seed": 1}])
def test_memory_and_stream_hold_out_the_same_images(folder, name, options):
    memory = load_dataset(name, data_dir=folder, **options)
    streamed = load_dataset(name, data_dir=folder, memory_limit_mb=0, **options)
    assert streamed.train.streamed and not memory.train.streamed
    assert memory.describe()["fingerprints"] == streamed.describe()["fingerprints"]
    parts = [(memory.validation, streamed.validation), (memory.test, streamed.test)]
    parts += zip(memory.search_halves(0), streamed.search_halves(0), strict=True)
    for held, read in parts:
        positions = range(len(held))
        np.testing.assert_array_equal(held.images_at(positions), read.images_at(positions))
        for one, other in zip(
            held.batches(7, seed=1, epoch=2, shuffle=True),
            read.batches(7, seed=1, epoch=2, shuffle=True),
            strict=True,
        ):
            for values, same in zip(one, other, strict=True):
                np.testing.assert_array_equal(values, same)


@pytest.mark.parametrize("limit_mb", [0, 2000])
def test_a_set_in_the_order_of_its_classes_is_split_fairly(folder, limit_mb):
    data = load_dataset("by_class", data_dir=folder, memory_limit_mb=limit_mb)
    assert np.bincount(data.test.labels).tolist() == [EACH // 5] * CLASSES
    parts = [data.train, data.validation, *data.search_halves(0)]
    for part in parts:
        counts = np.bincount(part.labels, minlength=CLASSES)
        assert counts.max() - counts.min() <= 1
    _, labels, _ = next(iter(data.train.batches(32, shuffle=True)))
    assert set(labels.numpy()) == set(range(CLASSES))


@pytest.mark.parametrize("options", [{}, {"seed": 3}, {"memory_limit_mb": 0}, {"limit": 20}])
def test_the_test_part_of_a_shuffled_set_is_that_of_earlier_releases(folder, options):
    stored = tfds.builder("mixed", data_dir=folder).as_dataset(
        split="train", read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    images = np.stack([record["image"] for record in stored.as_numpy_iterator()])
    start = np.random.RandomState(20021108).randint(COUNT)
    expected = images[np.sort((start + np.arange(COUNT // 5)) % COUNT)]
    test = load_dataset("mixed", data_dir=folder, **options).test
    np.testing.assert_array_equal(test.images_at(range(len(test))), expected)


def test_the_memory_limit_leaves_cifar_as_it_was(shared):
    """What the split of 2,000 images was before records were read one by one."""
    options = {"data_dir": str(shared / "data" / "tfds"), "limit": 2000, "seed": 0}
    memory = load_dataset("cifar10", **options)
    streamed = load_dataset("cifar10", memory_limit_mb=1, **options)
    prints = memory.describe()["fingerprints"]
    assert prints == streamed.describe()["fingerprints"]
    assert prints["validation"].startswith("14085a96c8dd1101")
