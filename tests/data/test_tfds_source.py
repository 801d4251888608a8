"""TensorFlow Datasets: the prepared CIFAR-10, and small sets that TFDS itself writes here."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bnas_larq.backend import tf
from bnas_larq.data import (
    Augmentation,
    Normalization,
    data_errors,
    evaluation_dataset,
    load_dataset,
    training_pipeline,
)
from bnas_larq.data.streams import StreamedExamples
from bnas_larq.errors import DataError


def pixels(number: int, shape=(6, 5, 1)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def write(
    folder,
    name,
    splits,
    *,
    shape=(6, 5, 1),
    features=None,
    example=None,
    labels=("no", "yes"),
    ordered=False,
):
    """Prepare a data set with TFDS' own writer: `splits` says how many examples each part has."""
    features = features or {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=list(labels)),
    }
    example = example or (lambda part, number: {"image": pixels(number), "label": number % 2})
    start = 0
    generators = {}
    for part, count in splits.items():
        numbers = range(start, start + count)
        generators[part] = [(number, example(part, number)) for number in numbers]
        start += count
    builder = tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets=generators,
        data_dir=str(folder),
        disable_shuffling=ordered,
    )
    builder.download_and_prepare()
    return folder


def load(folder, name, **arguments):
    return load_dataset(name, data_dir=str(folder), **arguments)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tfds"), "grey_things", {"train": 60, "test": 12})


def known(examples) -> list[int]:
    """Which of the written images these are, by their pixels; checks that grey became RGB."""
    numbers = {pixels(number).tobytes(): number for number in range(200)}
    images = examples.images_at(range(examples.num_examples))
    assert (images == images[..., :1]).all()
    return [numbers[image[..., :1].tobytes()] for image in images]


def test_a_prepared_set_is_read_offline(grey):
    dataset = load(grey, "grey_things")
    assert dataset.class_names == ("no", "yes") and dataset.image_shape == (6, 5, 3)
    assert (len(dataset.train), len(dataset.validation)) == (54, 6)
    assert sorted(known(dataset.test)) == list(range(60, 72))
    assert sorted(known(dataset.train) + known(dataset.validation)) == list(range(60))
    assert [number % 2 for number in known(dataset.train)] == dataset.train.labels.tolist()


def test_the_version_folder_itself_may_be_given(grey):
    assert len(load(grey / "grey_things" / "1.0.0", "grey_things").test) == 12


def test_streamed_and_in_memory_hold_the_same(grey):
    memory = load(grey, "grey_things", validation_fraction=0.0)
    streamed = load(grey, "grey_things", validation_fraction=0.0, memory_limit_mb=0)
    assert isinstance(streamed.train, StreamedExamples) and streamed.describe()["streamed"]
    assert streamed.image_shape == memory.image_shape
    assert memory.describe()["fingerprints"] == streamed.describe()["fingerprints"]
    for part in ("train", "test"):
        one, other = getattr(memory, part), getattr(streamed, part)
        for first, second in zip(one.batches(7), other.batches(7), strict=True):
            for this, same in zip(first, second, strict=True):
                np.testing.assert_array_equal(this, same)
    assert memory.normalization() == streamed.normalization()
    norm = Normalization()
    assert int(evaluation_dataset(streamed.test, 5, norm).cardinality()) == 3


@pytest.mark.parametrize("fraction, seed", [(0.5, 0), (0.9, 2)])
def test_streams_split_into_disjoint_covering_parts(grey, fraction, seed):
    whole = load(grey, "grey_things", validation_fraction=0.0, memory_limit_mb=0).train
    first, second = whole.split(fraction, seed)
    assert len(first) == round(fraction * 60)
    assert sorted([*first.indices, *second.indices]) == list(range(60))
    quarter, rest = second.split(0.25, seed + 1)
    assert sorted([*quarter.indices, *rest.indices]) == second.indices.tolist()
    for part in (first, quarter, rest):
        stored = [int(index) for _, _, index in part.epoch(0, 0, shuffle=False)]
        assert stored == part.indices.tolist()
        assert len(known(part)) == len(part)
    again = whole.split(fraction, seed)[0]
    assert again.fingerprint() == first.fingerprint() != second.fingerprint()


def test_a_streamed_epoch_is_a_function_of_seed_and_number(grey):
    train = load(grey, "grey_things", memory_limit_mb=0).train

    def order(seed, epoch):
        return [int(index) for _, _, index in train.epoch(seed, epoch)]

    tf.random.set_seed(1)
    epochs = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(sorted(found) == train.indices.tolist() for found in epochs)
    assert len({tuple(found) for found in epochs}) == 3
    tf.random.set_seed(2)
    assert order(0, 1) == epochs[1]


def test_a_streamed_pipeline_restarts(grey):
    train = load(grey, "grey_things", memory_limit_mb=0).train
    stream = training_pipeline(
        train,
        batch_size=8,
        seed=3,
        normalization=Normalization(),
        augmentation=Augmentation(crop_padding=1, flip=True),
    )
    steps = stream.steps_per_epoch
    assert steps == 54 // 8
    whole = list(stream.dataset().take(3 * steps))
    again = list(stream.dataset(start_epoch=2).take(steps))
    for one, other in zip(whole[2 * steps :], again, strict=True):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_limit_takes_some_of_the_training_part(grey):
    for memory in (2000, 0):
        small = load(grey, "grey_things", limit=10, memory_limit_mb=memory, seed=4)
        assert (len(small.train), len(small.validation), len(small.test)) == (9, 1, 12)
        assert set(known(small.train) + known(small.validation)) < set(range(60))


def test_a_fifth_is_cut_off_where_there_is_no_test_part(tmp_path):
    write(tmp_path, "lone_train", {"train": 50})
    tests = [
        known(load(tmp_path, "lone_train", **arguments).test)
        for arguments in ({}, {"seed": 3}, {"memory_limit_mb": 0}, {"limit": 20})
    ]
    assert len(tests[0]) == 10 and all(found == tests[0] for found in tests)
    dataset = load(tmp_path, "lone_train", validation_fraction=0.0)
    assert sorted(known(dataset.train) + tests[0]) == list(range(50))


def test_validation_serves_as_test_where_test_has_no_labels(tmp_path):
    def example(part, number):
        return {"image": pixels(number), "label": -1 if part == "test" else number % 2}

    write(tmp_path, "secret_test", {"train": 20, "validation": 6, "test": 4}, example=example)
    assert sorted(known(load(tmp_path, "secret_test").test)) == list(range(20, 26))


def test_validation_beside_a_labelled_test_is_kept(tmp_path):
    write(tmp_path, "three_parts", {"train": 20, "validation": 6, "test": 4})
    dataset = load(tmp_path, "three_parts")
    assert sorted(known(dataset.validation)) == list(range(20, 26))
    assert (len(dataset.train), len(dataset.test)) == (20, 4)


def test_other_keys_are_found(tmp_path):
    features = {
        "picture": tfds.features.Image(shape=(6, 5, 1)),
        "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
        "text": tfds.features.Text(),
    }

    def example(part, number):
        return {"picture": pixels(number), "kind": number % 3, "text": "hello"}

    write(tmp_path, "odd_keys", {"train": 20}, features=features, example=example)
    dataset = load(tmp_path, "odd_keys")
    assert dataset.class_names == ("a", "b", "c")
    assert [number % 3 for number in known(dataset.test)] == dataset.test.labels.tolist()


def sized(sizes):
    def example(part, number):
        return {"image": pixels(number, (*sizes[number % len(sizes)], 3)), "label": number % 2}

    return example


def test_undeclared_sizes_that_agree_are_used(tmp_path):
    write(tmp_path, "undeclared", {"train": 20}, shape=(None, None, 3), example=sized([(7, 4)]))
    assert load(tmp_path, "undeclared").image_shape == (7, 4, 3)


@pytest.mark.parametrize("memory", [2000, 0])
def test_differing_sizes_need_image_size(tmp_path, memory):
    write(tmp_path, "mixed", {"train": 20}, shape=(None, None, 3), example=sized([(7, 4), (9, 9)]))
    with pytest.raises(
        DataError, match=r"Received: \(7, 4\) and \(9, 9\) in mixed.*Set image_size"
    ):
        load(tmp_path, "mixed", memory_limit_mb=memory)
    dataset = load(tmp_path, "mixed", image_size=(8, 6), memory_limit_mb=memory)
    assert dataset.test.images_at(range(4)).shape == (4, 8, 6, 3)


def test_a_late_other_size_is_reported(tmp_path):
    def example(part, number):
        return sized([(9, 9) if number == 110 else (7, 4)])(part, number)

    # In the order of writing, the odd image lies behind those that are looked at first.
    write(tmp_path, "late", {"train": 120}, shape=(None, None, 3), example=example, ordered=True)
    with pytest.raises(DataError, match="one size"):
        load(tmp_path, "late")
    dataset = load(tmp_path, "late", memory_limit_mb=0)
    with pytest.raises(DataError, match="one size"), data_errors():
        for part in (dataset.train, dataset.validation, dataset.test):
            list(part.epoch(0, 0))


def test_unlabelled_sets_are_refused(tmp_path):
    image = {"image": tfds.features.Image(shape=(6, 5, 1))}
    write(
        tmp_path,
        "label_less",
        {"train": 4},
        features=image,
        example=lambda part, number: {"image": pixels(number)},
    )
    with pytest.raises(DataError, match="has a class label per example. Received: 'label_less'"):
        load(tmp_path, "label_less")
    write(
        tmp_path,
        "secret",
        {"train": 4},
        example=lambda part, number: {"image": pixels(number), "label": -1},
    )
    with pytest.raises(DataError, match="Images need labels. Received: secret"):
        load(tmp_path, "secret")


def test_sets_without_images_are_refused(tmp_path):
    features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    write(
        tmp_path,
        "texts",
        {"train": 4},
        features=features,
        example=lambda part, number: {"text": "hello", "label": number % 2},
    )
    with pytest.raises(DataError, match="has an image per example. Received: 'texts' with"):
        load(tmp_path, "texts")


def test_one_class_is_refused(tmp_path):
    write(
        tmp_path,
        "one_class",
        {"train": 4},
        labels=["only"],
        example=lambda part, number: {"image": pixels(number), "label": 0},
    )
    with pytest.raises(DataError, match="at least two classes. Received: one_class with 1"):
        load(tmp_path, "one_class")


def test_a_training_split_is_needed(tmp_path):
    write(tmp_path, "no_train", {"test": 4})
    with pytest.raises(DataError, match="split named 'train'. Received: no_train with test"):
        load(tmp_path, "no_train")


def test_damaged_records_are_reported(tmp_path):
    write(tmp_path, "damaged", {"train": 30, "test": 5})
    (record,) = (tmp_path / "damaged" / "1.0.0").glob("*train.tfrecord*")
    content = bytearray(record.read_bytes())
    content[len(content) // 2] ^= 255
    record.write_bytes(content)
    with pytest.raises(DataError, match="Records must be intact") as caught:
        load(tmp_path, "damaged")
    assert "\n" not in str(caught.value)
    record.unlink()
    with pytest.raises(DataError, match="must be readable. Received: 'damaged'"):
        load(tmp_path, "damaged")


def test_a_damaged_description_is_reported(tmp_path):
    write(tmp_path, "described", {"train": 4})
    (tmp_path / "described" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="'described'"):
        load(tmp_path, "described")


@pytest.mark.parametrize(
    "name, hint",
    [
        ("cifra10", "did you mean 'cifar10'?"),
        ("digit", "did you mean 'digits'?"),
        ("grey_thing", "did you mean 'grey_things'?"),
        ("qqqqqqqq", "see https://www.tensorflow.org/datasets"),
    ],
)
def test_unknown_names_get_a_hint(grey, name, hint):
    with pytest.raises(DataError, match="must be 'digits', 'folder' or a TFDS name") as caught:
        load(grey, name)
    assert hint in str(caught.value)


def test_not_prepared_and_not_downloadable(tmp_path):
    # ImageNet must be downloaded by hand: TFDS refuses at once, with or without a network.
    with pytest.raises(DataError, match="prepared under data_dir or downloadable") as caught:
        load(tmp_path, "imagenet2012")
    assert "--data-dir" in str(caught.value) and "\n" not in str(caught.value)


def test_the_shared_cifar(shared):
    dataset = load(shared / "data" / "tfds", "cifar10", limit=500)
    assert dataset.num_classes == 10 and dataset.class_names[:2] == ("airplane", "automobile")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (450, 50, 10_000)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    # CIFAR-10's published means, within what 450 images and JPEG allow.
    np.testing.assert_allclose(dataset.normalization().mean, (0.491, 0.482, 0.447), atol=0.02)


def test_the_shared_cifar_streams(shared):
    dataset = load(shared / "data" / "tfds", "cifar10", limit=300, memory_limit_mb=0)
    stream = training_pipeline(
        dataset.train, batch_size=32, seed=0, normalization=dataset.normalization()
    )
    images, labels = next(iter(stream.dataset()))
    assert images.shape == (32, 32, 32, 3) and len(set(labels.numpy().tolist())) > 3
