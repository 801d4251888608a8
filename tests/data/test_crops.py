"""Pictures of varied sizes: what is cut out of them, in training and in evaluation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data import Augmentation, Normalization, load_dataset, training_pipeline
from bnas_larq.data.augmentation import random_boxes
from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import DataError

SIZE = 96
MIDDLE = Geometry((SIZE, SIZE), "center-crop")
CROPS = Augmentation(random_resized_crop=True)


@pytest.fixture(params=["tfds", "folder"])
def kind(request):
    return request.param


@pytest.fixture
def load(kind, varied_pictures):
    """Loads 40 training images."""

    def loaded(**options):
        options = {"image_size": SIZE, "evaluation": "center-crop", "limit": 40, **options}
        return load_dataset(**varied_pictures.source(kind), validation_fraction=0.0, **options)

    return loaded


@pytest.fixture
def original(kind, varied_pictures):
    """The picture of a part and a label, as the source's own decoder reads it."""

    def decoded(part: str, label: int) -> Image.Image:
        jpeg = varied_pictures.jpeg(part, label)
        if kind == "tfds":
            return Image.fromarray(tf.io.decode_image(jpeg).numpy())
        return Image.open(io.BytesIO(jpeg))

    return decoded


def batches(data, augmentation=CROPS, start_epoch=0):
    stream = training_pipeline(
        data.train, batch_size=8, seed=3, normalization=Normalization(), augmentation=augmentation
    )
    dataset = stream.dataset(start_epoch).take(stream.steps_per_epoch)
    return [np.rint(images.numpy() * 255).astype(np.uint8) for images, _ in dataset]


def expected_crops(data, epoch: int, original) -> np.ndarray:
    """One epoch of crops of the original pictures, made one by one."""
    pictures = [original("train", label) for label in data.train.labels]
    sizes = tf.constant([(picture.height, picture.width) for picture in pictures])
    order = data.train.order(3, epoch, shuffle=True)

    def boxes(number: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(order).map(
            lambda index: random_boxes(
                index[None], *tf.unstack(tf.gather(sizes, index)), seed=3, epoch=number
            )[0]
        )

    drawn = tf.data.Dataset.range(epoch, epoch + 1).flat_map(boxes)
    return np.stack(
        [MIDDLE.apply(pictures[i], box.numpy()) for i, box in zip(order, drawn, strict=True)]
    )


def assert_rounded_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Scaling a part of a picture rounds otherwise, see `bnas_larq.data.jpeg_crops`."""
    differences = np.abs(found.astype(int) - expected)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.1


@pytest.mark.parametrize("limit_mb", [0, 2000])
def test_random_resized_crops_are_cut_from_the_original(load, original, limit_mb):
    data = load(keep_originals=True, memory_limit_mb=limit_mb)
    assert data.train.streamed and data.test.streamed == (limit_mb == 0)
    sizes = {original("train", label).size for label in data.train.labels}
    assert len(sizes) > 20 and (SIZE, SIZE) not in sizes
    assert_rounded_alike(np.concatenate(batches(data)), expected_crops(data, 0, original))


def test_an_epoch_of_crops_can_be_repeated(load, original):
    data = load(keep_originals=True)
    again = np.concatenate(batches(data, start_epoch=2))
    assert_rounded_alike(again, expected_crops(data, 2, original))
    np.testing.assert_array_equal(again, np.concatenate(batches(data, start_epoch=2)))
    assert np.abs(again.astype(int) - np.concatenate(batches(data))).max() > 50


def test_the_other_changes_are_made_to_the_crops(load):
    data = load(keep_originals=True)
    both = Augmentation(random_resized_crop=True, flip=True)
    mirrored = 0
    for plain, changed in zip(
        np.concatenate(batches(data)), np.concatenate(batches(data, both)), strict=True
    ):
        is_mirrored = not np.array_equal(plain, changed)
        np.testing.assert_array_equal(changed, plain[:, ::-1] if is_mirrored else plain)
        mirrored += is_mirrored
    assert 0 < mirrored < 40


@pytest.mark.parametrize("evaluation", ["resize", "center-crop"])
def test_evaluation_is_the_same_in_memory_and_streamed(load, original, evaluation):
    streamed = load(evaluation=evaluation, memory_limit_mb=0)
    memory = load(evaluation=evaluation)
    assert not memory.test.streamed and not memory.train.streamed
    expected = [
        Geometry((SIZE, SIZE), evaluation).apply(original("test", label))
        for label in streamed.test.labels
    ]
    for data in (memory, streamed):
        np.testing.assert_array_equal(data.test.images_at(range(len(expected))), expected)
        assert data.describe()["evaluation"] == evaluation
    assert memory.describe()["fingerprints"] == streamed.describe()["fingerprints"]
    assert memory.normalization() == streamed.normalization()
    for one, other in zip(
        batches(memory, Augmentation(flip=True)),
        batches(streamed, Augmentation(flip=True)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_crops_of_what_is_resized_already_are_refused(load):
    with pytest.raises(DataError, match="pictures in memory, already resized.*keep_originals=True"):
        batches(load())


def test_the_digits_can_be_cropped():
    digits = load_dataset("digits", image_size=16, evaluation="center-crop", crop_share=0.5)
    small = load_dataset("digits")
    expected = Geometry((16, 16), "center-crop", 0.5).apply(
        Image.fromarray(small.test.images_at([0])[0])
    )
    np.testing.assert_array_equal(digits.test.images_at([0])[0], expected)


def test_a_centre_crop_needs_a_size(load):
    with pytest.raises(DataError, match="Set image_size"):
        load(image_size=None)
