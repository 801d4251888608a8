"""Resumable training streams, bilevel pairs, evaluation in stored order, and normalisation."""

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.data import (
    Augmentation,
    Normalization,
    bilevel_pipeline,
    evaluation_dataset,
    load_dataset,
    pipelines,
    training_pipeline,
)
from bnas_larq.data.examples import Examples, InMemoryExamples, first_permuted
from bnas_larq.errors import DataError

CROPS = Augmentation(crop_padding=2, flip=True)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit=200)


def pipeline(examples, seed=0, batch_size=32, **arguments):
    return training_pipeline(
        examples, batch_size=batch_size, seed=seed, normalization=Normalization(), **arguments
    )


def batches(dataset, count):
    return [
        tf.nest.map_structure(lambda part: part.numpy(), element) for element in dataset.take(count)
    ]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for one, other in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_restart_continues_the_stream(digits):
    stream = pipeline(digits.train, augmentation=CROPS)
    steps = stream.steps_per_epoch
    assert steps == 180 // 32
    whole = batches(stream.dataset(), 3 * steps)
    assert_equal_batches(batches(stream.dataset(start_epoch=2), steps), whole[2 * steps :])
    # A new process builds everything anew.
    again = pipeline(load_dataset("digits", limit=200).train, augmentation=CROPS)
    assert_equal_batches(batches(again.dataset(start_epoch=1), steps), whole[steps : 2 * steps])
    assert_equal_batches(batches(again.epoch(1), steps + 1), whole[steps : 2 * steps])


def test_a_restart_inside_an_epoch_reads_only_what_follows(digits, monkeypatch):
    """From memory, and decoded one by one; of a bilevel pair as well."""
    stream, read = pipeline(digits.train, augmentation=CROPS, mixup=0.2, num_classes=10), []

    class OneByOne(InMemoryExamples):
        _batches = Examples._batches

        def _read(self, index):
            tf.py_function(lambda number: read.append(int(number)), [index], [])
            return super()._read(index)

    steps = stream.steps_per_epoch
    whole = batches(stream.dataset(1), 2 * steps)
    assert_equal_batches(batches(stream.dataset(1, 3), 2 * steps - 3), whole[3:])

    images = digits.train.images_at(range(180))
    alone = OneByOne(images, digits.train.labels)
    single = pipeline(alone, augmentation=CROPS, mixup=0.2, num_classes=10)
    expected = batches(single.epoch(1), steps)
    assert len(read) >= 32 * steps
    read.clear()
    assert_equal_batches(batches(single.epoch(1, 4), steps), expected[4:])
    assert set(read) <= set(alone.order(0, 1, True).numpy()[4 * 32 :])

    pair = bilevel_pipeline(stream, pipeline(digits.train, seed=1, batch_size=50))
    expected = batches(pair.dataset(1), 4)
    assert_equal_batches(batches(pair.dataset(1, 2), 2), expected[2:])


def test_epochs_and_seeds_differ(digits):
    first, second = (
        batches(pipeline(digits.train).dataset(), 5),
        batches(pipeline(digits.train).dataset(1), 5),
    )
    assert not np.array_equal(first[0][0], second[0][0])
    other = batches(pipeline(digits.train, seed=1).dataset(), 5)
    assert not np.array_equal(first[0][0], other[0][0])


def test_the_stream_does_not_depend_on_the_global_seed(digits):
    tf.random.set_seed(1)
    first = batches(pipeline(digits.train, augmentation=CROPS).dataset(), 3)
    tf.random.set_seed(2)
    assert_equal_batches(batches(pipeline(digits.train, augmentation=CROPS).dataset(), 3), first)


@pytest.mark.parametrize(
    "augmentation",
    [
        CROPS,
        Augmentation(flip=True),
        Augmentation(random_resized_crop=True, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2)),
    ],
)
def test_batches_have_static_shapes_and_types(digits, augmentation):
    spec = pipeline(digits.train, augmentation=augmentation).dataset().element_spec
    assert spec == (tf.TensorSpec([32, 8, 8, 3], tf.float32), tf.TensorSpec([32], tf.int64))


def test_an_epoch_shows_no_example_twice():
    images = np.zeros((50, 2, 2, 3), np.uint8)
    images[:] = np.arange(50)[:, None, None, None]
    stream = pipeline(InMemoryExamples(images, np.arange(50)), batch_size=8)
    shown = np.concatenate([labels for _, labels in batches(stream.dataset(), 6)])
    assert len(set(shown.tolist())) == 6 * 8
    for pictures, labels in batches(stream.dataset(), 6):
        np.testing.assert_allclose(pictures[:, 0, 0, 0] * 255, labels, atol=1e-4)


def test_bilevel_pairs_come_from_disjoint_halves():
    images = np.zeros((90, 2, 2, 3), np.uint8)
    first, second = InMemoryExamples(images, np.arange(90)).split(0.4, seed=0)
    pair = bilevel_pipeline(pipeline(first, batch_size=10), pipeline(second, batch_size=10))
    assert pair.steps_per_epoch == min(36 // 10, 54 // 10)
    found = batches(pair.dataset(), 2 * 3)
    train = {int(label) for (_, labels), _ in found for label in labels}
    val = {int(label) for _, (_, labels) in found for label in labels}
    assert train <= set(first.indices.tolist()) and val <= set(second.indices.tolist())
    assert_equal_batches(batches(pair.dataset(start_epoch=1), 3), found[3:])


def test_fit_resumes_at_initial_epoch(digits):
    """Keras sees the same batches after a restart: the weights end bit-equal."""

    def model():
        keras.utils.set_random_seed(0)
        built = keras.Sequential(
            [keras.layers.Flatten(input_shape=(8, 8, 3)), keras.layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        built.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
        return built

    def fit(model, start, end):
        stream = pipeline(digits.train, augmentation=CROPS)
        model.fit(
            stream.dataset(start),
            steps_per_epoch=stream.steps_per_epoch,
            initial_epoch=start,
            epochs=end,
            verbose=0,
        )

    whole, parts = model(), model()
    fit(whole, 0, 3)
    fit(parts, 0, 1)
    fit(parts, 1, 3)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_evaluation_keeps_order_and_remainder(digits):
    dataset = evaluation_dataset(digits.test, 100, digits.normalization())
    assert int(dataset.cardinality()) == 4
    found = list(dataset)
    assert [len(labels) for _, labels in found] == [100, 100, 100, 59]
    np.testing.assert_array_equal(
        np.concatenate([labels for _, labels in found]), digits.test.labels
    )
    images = np.concatenate([images for images, _ in found])
    stored = digits.test.images_at(range(359)) / 255.0
    norm = digits.normalization()
    np.testing.assert_allclose(images, (stored - norm.mean) / norm.std, atol=1e-5)


@pytest.mark.parametrize(
    "size, message", [(181, "batch size 181 for 180 examples"), (0, "at least one example")]
)
def test_impossible_batch_sizes_are_refused(digits, size, message):
    with pytest.raises(DataError, match=message):
        pipeline(digits.train, batch_size=size)


def test_measured_normalization_equals_numpy():
    images = np.random.default_rng(1).integers(0, 256, (700, 3, 4, 3), np.uint8)
    images[..., 2] = 9
    found = Normalization.measure(InMemoryExamples(images, np.zeros(700)))
    np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std[:2], (images / 255).std((0, 1, 2))[:2], rtol=1e-12)
    assert found.std[2] == 1.0  # a channel without variation
    sampled = Normalization.measure(InMemoryExamples(images, np.zeros(700)), sample=600)
    drawn = images[first_permuted(700, 600, seed=0)]
    np.testing.assert_allclose(sampled.mean, (drawn / 255).mean((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 9, 7, 3), (9, 7, 3), (4, 1, 3), (7, 3), (3,)])
@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_normalization_has_the_bits_of_the_plain_formula(shape, dtype):
    """Whatever the shape and whether it is known, as it was in earlier versions' batches."""
    norm = Normalization((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
    images = tf.cast(np.random.default_rng(0).integers(0, 256, shape), dtype)
    std = np.asarray(norm.std, np.float32)
    scale = np.float32(1) / (np.float32(255) * std)
    expected = images.numpy().astype(np.float32) * scale - np.asarray(norm.mean, np.float32) / std
    np.testing.assert_array_equal(norm.apply(images), expected)
    for known in (tf.TensorSpec([None] * len(shape), dtype), tf.TensorSpec(None, dtype)):
        np.testing.assert_array_equal(
            tf.function(norm.apply, input_signature=[known])(images), expected
        )


def test_normalization_goes_through_json():
    norm = Normalization((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert Normalization.from_dict(json.loads(json.dumps(norm.to_dict()))) == norm


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"mean": [0, 0, 0]},
        {"mean": [0, 0], "std": [1, 1, 1]},
        {"mean": 1, "std": 2},
        {"mean": [0, 0, 0], "std": [1, 0, 1]},
        {"mean": ["a", "b", "c"], "std": [1, 1, 1]},
    ],
)
def test_damaged_normalization_is_refused(values):
    with pytest.raises(DataError, match="A normalisation needs"):
        Normalization.from_dict(values)


@pytest.mark.parametrize("part_bytes", [1, 4 * 4 * 16 * 16 * 3])
def test_large_batches_are_augmented_in_parts_to_the_same_bits(part_bytes, monkeypatch):
    """One image at a time, or four; also from the middle of an epoch, with labels of mixup."""
    examples = load_dataset("digits", limit=100, image_size=16).train
    jitter = Augmentation(crop_padding=2, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2), cutout=4)
    settings = {"augmentation": jitter, "mixup": 0.3, "num_classes": 10, "batch_size": 20}
    whole = batches(pipeline(examples, **settings).dataset(1), 6)
    monkeypatch.setattr(pipelines, "PART_BYTES", part_bytes)
    monkeypatch.setattr(pipelines, "LARGE_BATCH_BYTES", 1)
    stream = pipeline(examples, **settings)
    assert stream.dataset().element_spec[0].shape == (20, 16, 16, 3)
    assert_equal_batches(batches(stream.dataset(1), 6), whole)
    assert_equal_batches(batches(stream.dataset(1, 3), 3), whole[3:])
