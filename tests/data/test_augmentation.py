"""Augmentation against plain NumPy, image by image."""

import json

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.data import Augmentation
from bnas_larq.data import augmentation as module
from bnas_larq.data.draws import uniforms
from bnas_larq.errors import DataError

MASK = 2**64 - 1


def splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def numpy_uniforms(seed: int, epoch: int, indices, count: int) -> np.ndarray:
    rows = []
    for index in indices:
        key = splitmix(splitmix(splitmix(seed & MASK) ^ epoch) ^ int(index))
        steps = [(key + step * 0x9E3779B97F4A7C15) & MASK for step in range(count)]
        rows.append([(splitmix(step) >> 40) / 2**24 for step in steps])
    return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)


INDICES = np.array([5, 3, 900_000, 0, 7, 1, 2, 11, 12, 13, 2**40, 4])


@pytest.mark.parametrize("seed, epoch", [(0, 0), (17, 250), (-1, 3)])
def test_draws_equal_the_published_generator(seed, epoch):
    expected = numpy_uniforms(seed, epoch, INDICES, 9)
    np.testing.assert_array_equal(uniforms(seed, epoch, tf.constant(INDICES), 9), expected)
    # Training draws inside graphs.
    pipeline = tf.data.Dataset.from_tensors(INDICES).map(lambda i: uniforms(seed, epoch, i, 9))
    np.testing.assert_array_equal(next(iter(pipeline)), expected)


def test_splitmix_gives_its_reference_numbers():
    # First outputs for the seed 1234567 (the generator's reference test vector).
    state = 1234567
    found = [splitmix((state + step * 0x9E3779B97F4A7C15) & MASK) for step in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_uniform_and_belong_to_the_example():
    draws = uniforms(3, 1, tf.range(20_000, dtype=tf.int64), 4).numpy()
    assert draws.min() >= 0.0 and draws.max() < 1.0
    np.testing.assert_allclose(draws.mean(0), 1 / 2, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 1 / 12, atol=0.003)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(4), atol=0.03)
    np.testing.assert_array_equal(uniforms(3, 1, tf.constant([77], tf.int64), 4)[0], draws[77])


@pytest.mark.parametrize("padding, flip", [(4, True), (4, False), (0, True), (1, True)])
def test_crop_and_flip_equal_numpy(images, padding, flip):
    augmentation = Augmentation(crop_padding=padding, flip=flip)
    found = augmentation.apply(tf.constant(images), tf.constant(INDICES), seed=1, epoch=2)
    assert found.dtype == tf.uint8
    draws = numpy_uniforms(1, 2, INDICES, 7)
    for row, image in enumerate(images):
        padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
        top, left = (draws[row, :2] * (2 * padding + 1)).astype(int)
        expected = padded[top : top + 9, left : left + 7]
        if flip and draws[row, 2] < 0.5:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize("padding", [0, 2])
def test_smaller_crops_equal_numpy(images, padding):
    augmentation = Augmentation(crop_padding=padding, crop_size=5, flip=True)
    found = augmentation.apply(tf.constant(images), tf.constant(INDICES), seed=1, epoch=2)
    assert found.shape == (12, 5, 5, 3)
    draws = numpy_uniforms(1, 2, INDICES, 7)
    for row, image in enumerate(images):
        padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
        room = 9 + 2 * padding - 5 + 1, 7 + 2 * padding - 5 + 1
        top, left = (int(draw * side) for draw, side in zip(draws[row], room, strict=False))
        expected = padded[top : top + 5, left : left + 5]
        if draws[row, 2] < 0.5:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(found[row], expected)


def test_every_corner_of_the_crop_occurs():
    marked = np.zeros((2000, 3, 3, 3), np.uint8)
    marked[:, 1, 1] = 1
    found = Augmentation(crop_padding=1).apply(
        tf.constant(marked), tf.range(2000, dtype=tf.int64), seed=0, epoch=0
    )
    counts = found.numpy()[..., 0].sum(0)
    assert counts.sum() == 2000  # the marked pixel never leaves the crop, and takes each place
    np.testing.assert_allclose(counts, 2000 / 9, rtol=0.25)


def test_the_same_example_changes_alike_in_any_batch_and_differently_in_another_epoch(images):
    augmentation = Augmentation(crop_padding=4, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2))

    def apply(rows, epoch):
        return augmentation.apply(
            tf.constant(images[rows]), tf.constant(INDICES[rows]), seed=0, epoch=epoch
        ).numpy()

    np.testing.assert_array_equal(apply(slice(None), 4)[5:8], apply(slice(5, 8), 4))
    assert not np.array_equal(apply(slice(None), 4), apply(slice(None), 5))


def bilinear(image: np.ndarray, top, left, tall, wide) -> np.ndarray:
    """Scale a box to the image's size; the corners' pixel centres stay the corners'."""
    height, width = image.shape[:2]
    padded = np.pad(image.astype(np.float64), [(0, 1), (0, 1), (0, 0)], mode="edge")
    result = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            row = top + (tall - 1) * y / (height - 1)
            column = left + (wide - 1) * x / (width - 1)
            i, j = int(row), int(column)
            v, u = row - i, column - j
            result[y, x] = (1 - v) * ((1 - u) * padded[i, j] + u * padded[i, j + 1]) + v * (
                (1 - u) * padded[i + 1, j] + u * padded[i + 1, j + 1]
            )
    return result


def test_resized_crop_equals_numpy(images):
    augmentation = Augmentation(random_resized_crop=True)
    found = augmentation.apply(tf.constant(images), tf.constant(INDICES), seed=1, epoch=2).numpy()
    draws = numpy_uniforms(1, 2, INDICES, 27)
    boxes = module.crop_boxes(tf.constant(draws[:, 7:]), tf.constant(draws[:, :2]), 9, 7).numpy()
    for row, image in enumerate(images):
        top, left, tall, wide = boxes[row]
        assert 0 <= top <= 9 - tall and 0 <= left <= 7 - wide
        np.testing.assert_allclose(found[row], bilinear(image, *boxes[row]), atol=0.01)


def test_a_box_of_the_whole_image_changes_nothing(images):
    whole = tf.constant([[0, 0, 9, 7]] * len(images))
    np.testing.assert_allclose(module.resized_crops(tf.constant(images), whole), images, atol=0.01)


def test_resized_crops_never_paint_a_black_border():
    white = tf.fill([500, 64, 64, 3], tf.constant(255, tf.uint8))
    found = Augmentation(random_resized_crop=True).apply(
        white, tf.range(500, dtype=tf.int64), seed=0, epoch=0
    )
    assert float(tf.reduce_min(found)) > 254.9


def test_boxes_have_the_stated_area_and_aspect():
    draws = tf.constant(numpy_uniforms(0, 0, range(2000), 22))
    boxes = module.crop_boxes(draws[:, 2:], draws[:, :2], 224, 224).numpy()
    area = boxes[:, 2] * boxes[:, 3] / 224**2
    aspect = boxes[:, 3] / boxes[:, 2]
    assert 0.075 < area.min() < 0.1 and 0.95 < area.max() <= 1.0
    assert 0.73 < aspect.min() and aspect.max() < 1.36


def test_a_box_falls_back_to_the_centre_when_none_fits():
    # In an image of 10 x 100 the largest area and the aspect ratio 3/4 never fit.
    attempts = tf.concat([tf.fill([1, 10], 0.999), tf.fill([1, 10], 0.0)], axis=1)
    found = module.crop_boxes(attempts, tf.zeros([1, 2]), 10, 100)
    assert found.numpy().tolist() == [[0, (100 - 13) // 2, 10, 13]]  # 10 * 4/3 = 13 wide


def test_color_jitter_equals_numpy(images):
    strength = (0.4, 0.4, 0.4, 0.2)
    augmentation = Augmentation(color_jitter=strength)
    found = augmentation.apply(tf.constant(images), tf.constant(INDICES), seed=1, epoch=2).numpy()
    import colorsys

    draws = numpy_uniforms(1, 2, INDICES, 7)[:, 3:].astype(np.float64)
    luma = np.array([0.299, 0.587, 0.114])
    for row in range(len(images)):
        bright, contrast, saturate = 0.6 + 0.8 * draws[row, :3]
        image = np.clip(images[row] * bright, 0, 255)
        image = np.clip(image * contrast + (image @ luma).mean() * (1 - contrast), 0, 255)
        image = np.clip(image * saturate + (image @ luma)[..., None] * (1 - saturate), 0, 255)
        turn = 0.2 * (2 * draws[row, 3] - 1)
        for y, x in np.ndindex(9, 7):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[y, x] / 255)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
            np.testing.assert_allclose(found[row, y, x], np.array(expected) * 255, atol=0.1)


def plain_color_jitter(images, draws, strength):
    """The formulas channel by channel, as `jitter_colors` would be written without regard to cost.

    Batches of earlier versions were made like this; a resumed run must get the same bits.
    """

    def factor(which):
        low, high = 1.0 - strength[which], 1.0 + strength[which]
        return (low + (high - low) * draws[:, which])[:, None, None, None]

    def blend(images, other, share):
        return tf.clip_by_value(images * share + other * (1.0 - share), 0.0, 255.0)

    def grey(images):
        return tf.reduce_sum(images * (0.299, 0.587, 0.114), axis=-1, keepdims=True)

    images = tf.clip_by_value(tf.cast(images, tf.float32) * factor(0), 0.0, 255.0)
    images = blend(images, tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True), factor(1))
    images = blend(images, grey(images), factor(2))
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(images / 255.0), axis=-1)
    turned = tf.math.floormod(hue + (2.0 * draws[:, 3] - 1.0)[:, None, None] * strength[3], 1.0)
    return tf.image.hsv_to_rgb(tf.stack([turned, saturation, value], axis=-1)) * 255.0


@pytest.mark.parametrize("size", [(9, 7), (64, 48)])
def test_color_jitter_has_the_bits_of_the_plain_formulas(size):
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (16, *size, 3), np.uint8)
    images[:3] = np.arange(0, 255, 100)[:3, None, None, None]  # grey and black: no hue
    draws = tf.constant(generator.random((16, 4)), tf.float32)
    draws = tf.concat([tf.zeros([1, 4]), draws[1:]], axis=0)
    strength = (0.4, 0.4, 0.4, 0.5)
    np.testing.assert_array_equal(
        module.jitter_colors(tf.constant(images), draws, strength),
        plain_color_jitter(tf.constant(images), draws, strength),
    )


def test_resized_crops_read_beyond_the_edge_as_a_mirror_does(images):
    draws = numpy_uniforms(1, 2, INDICES, 27)
    boxes = module.crop_boxes(tf.constant(draws[:, 7:]), tf.constant(draws[:, :2]), 9, 7)
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    top, left, tall, wide = tf.unstack(tf.cast(boxes, tf.float32), axis=1)
    corners = [(top + 1) / 10, (left + 1) / 8, (top + tall) / 10, (left + wide) / 8]
    expected = tf.image.crop_and_resize(padded, tf.stack(corners, 1), tf.range(12), (9, 7))
    np.testing.assert_array_equal(module.resized_crops(tf.constant(images), boxes), expected)


@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_flip_mirrors_the_named_images_and_no_others(images, dtype, share):
    flipped = np.random.default_rng(1).random(12) < share
    found = module.flip(tf.cast(images, dtype), tf.constant(flipped))
    assert found.dtype == dtype and found.shape == images.shape
    np.testing.assert_array_equal(
        found, np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    )


def test_the_default_changes_nothing(images):
    tensor = tf.constant(images)
    assert Augmentation().is_identity
    assert Augmentation().apply(tensor, tf.constant(INDICES), seed=0, epoch=0) is tensor


def test_augmentation_goes_through_json():
    augmentation = Augmentation(
        flip=True, random_resized_crop=True, color_jitter=(0.4, 0.4, 0.4, 0.2)
    )
    assert Augmentation(**json.loads(json.dumps(augmentation.to_dict()))) == augmentation


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"crop_padding": -1}, "crop_padding counts pixels. Received: -1"),
        ({"crop_padding": 4, "random_resized_crop": True}, "crops in one way"),
        ({"color_jitter": (0.4, 0.4, 0.4)}, "four numbers"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "hue at most 0.5"),
    ],
)
def test_impossible_augmentation_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**arguments)
