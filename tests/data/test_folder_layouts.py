"""Folders of images as people have them: parts' names, odd files, links, small classes."""

import logging
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from bnas_larq.data import load_dataset
from bnas_larq.errors import DataError


def draw(path, seed=0, **options):
    """Write a small image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def images(tmp_path):
    """Call it to write `count` images per class into a folder."""

    def fill(*parts, count=5, classes=("apple", "pear")):
        for name in classes:
            for number in range(count):
                draw(tmp_path.joinpath(*parts, name, f"{number}.png"), seed=number)
        return tmp_path

    fill.folder = tmp_path
    return fill


def load(folder, **arguments):
    return load_dataset("folder", data_dir=str(folder), **arguments)


def sizes(dataset):
    return [len(part or ()) for part in (dataset.train, dataset.validation, dataset.test)]


@pytest.mark.parametrize(
    "train, test", [("Train", "Test"), ("TRAIN", "test"), ("Training", "Testing")]
)
def test_parts_are_found_in_any_case(images, train, test):
    images(train, count=10)
    images(test, count=3)
    dataset = load(images.folder)
    assert dataset.class_names == ("apple", "pear") and sizes(dataset) == [18, 2, 6]


@pytest.mark.parametrize("name", ["valid", "Valid", "val", "VALIDATION"])
def test_a_validation_folder_is_used(images, name, caplog):
    images("train", count=10)
    images(name, count=4)
    images("test", count=3)
    with caplog.at_level(logging.INFO):
        assert sizes(load(images.folder)) == [20, 8, 6]
    assert f"data: train from train/, validation from {name}/, test from test/" in caplog.text


def test_valid_is_the_test_part_where_there_is_none(images, caplog):
    images("train", count=10)
    images("valid", count=4)
    with caplog.at_level(logging.INFO):
        assert sizes(load(images.folder)) == [18, 2, 8]
    assert "data: train from train/, test from valid/" in caplog.text


def test_two_folders_for_one_part_are_refused(images):
    for part in ("train", "valid", "val"):
        images(part)
    with pytest.raises(DataError, match="one folder. Received: for validation val and valid in"):
        load(images.folder)


def test_parts_without_class_folders_are_no_classes(tmp_path):
    draw(tmp_path / "Train" / "0.png")
    draw(tmp_path / "Test" / "0.png")
    with pytest.raises(DataError, match="at least two class folders .* Received: Test, Train"):
        load(tmp_path)


def test_images_of_any_suffix_are_read(images):
    images(count=10)
    for number in range(30):
        draw(images.folder / "apple" / f"{number}.tif", seed=number)
        draw(images.folder / "apple" / f"{number}.jfif", seed=number, format="JPEG")
        draw(images.folder / "pear" / f"{number}", seed=number, format="WEBP")
    assert sum(sizes(load(images.folder))) == 10 + 30 + 30 + 10 + 30


def test_what_is_not_used_is_counted_once(images):
    folder = images("train")
    for number in range(3):
        (folder / "train" / "apple" / f"{number}.HEIC").write_bytes(b"no image")
        (folder / "train" / "pear" / f"{number}.txt").write_text("no image")
    (folder / "train" / "pear" / "labels").write_text("no image")
    (folder / "train" / "pear" / ".DS_Store").write_text("no image")
    (folder / "train" / "pear" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "train" / "pear" / "pipe.png")
    draw(folder / "train" / "stray.png")
    (folder / "train" / "README.md").write_text("no image either")
    images("extra")
    with pytest.warns(UserWarning) as caught:
        load(folder)
    (message,) = [str(warning.message) for warning in caught]
    assert message == (
        f"data: not used from {folder}: 3 .heic (unreadable by Pillow), 3 .txt (unreadable by "
        "Pillow), 2 broken link or device, 2 outside the class folders, 1 hidden, "
        "1 without suffix (unreadable by Pillow)"
    )


def test_nothing_is_said_of_a_clean_folder(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(images(count=10))


def test_a_class_of_unreadable_pictures_says_what_it_has(images):
    folder = images()
    (folder / "plum").mkdir()
    (folder / "plum" / "0.heic").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"plum, which has none \(1 .heic \(unreadable by Pillow\)"):
        load(folder)


def test_linked_folders_are_followed_but_not_in_circles(images, tmp_path_factory):
    folder, elsewhere = images(), tmp_path_factory.mktemp("elsewhere")
    for number in range(7):
        draw(elsewhere / "deep" / f"{number}.png", seed=number)
    (folder / "apple" / "more").symlink_to(elsewhere)
    (folder / "apple" / "again").symlink_to(elsewhere / "deep")
    (folder / "apple" / "up").symlink_to(folder)
    with pytest.warns(UserWarning, match="2 folder linked again"):
        dataset = load(folder)
    assert sum(sizes(dataset)) == 5 + 7 + 5


def test_classes_without_training_images_are_named(images):
    images(count=20, classes=("a", "b", "c"))
    images(count=1, classes=[f"rare{number}" for number in range(12)])
    with pytest.warns(UserWarning, match=r"\d+ of 15 classes have no training image.*: rare\d+, "):
        dataset = load(images.folder)
    counts = np.bincount(dataset.train.labels, minlength=15)
    with pytest.warns(UserWarning) as caught:
        load(images.folder)
    missing = [dataset.class_names[label] for label in np.flatnonzero(counts == 0)]
    assert ", ".join(missing) in str(caught[0].message)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"bell\x07", "line\u2028".encode()])
def test_class_names_that_cannot_be_written_are_refused_before_training(images, name):
    folder = images()
    os.rename(folder / "pear", os.path.join(os.fsencode(folder), name))
    with pytest.raises(DataError, match="a name of printable UTF-8 text. Received: b'") as caught:
        load(folder)
    assert repr(name) in str(caught.value) and str(caught.value).isprintable()


def test_class_names_of_any_script_are_kept(images):
    names = ("яблоко", "りんご", "عَـ\u200dسيب", "a\u00a0b")
    assert set(load(images(classes=names)).class_names) == set(names)


def test_test_images_have_files(images):
    folder = images("train", count=10)
    images("test", count=1)
    draw(folder / "test" / "pear" / "deep" / "1.png")
    os.rename(
        folder / "test/apple/0.png", os.path.join(os.fsencode(folder), b"test/apple/\xe9.png")
    )
    dataset = load(folder)
    assert dataset.test_files == (r"test/apple/\xe9.png", "test/pear/0.png", "test/pear/deep/1.png")
    assert load_dataset("digits").test_files is None


def test_a_cut_off_test_part_has_files(images):
    dataset = load(images(count=10))
    assert len(dataset.test_files) == 4 and all(
        (images.folder / f).is_file() for f in dataset.test_files
    )


@pytest.mark.parametrize("memory", [2000, 0])
def test_transparency_shows_the_background(tmp_path, memory, caplog):
    for name in ("apple", "pear"):
        for number in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(tmp_path / name / f"{number}.png")
    with caplog.at_level(logging.INFO):
        dataset = load(tmp_path, memory_limit_mb=memory)
    assert "data: 10 images with transparency are composited on white" in caplog.text
    assert dataset.train.images_at([0]).min() == 255
    assert dataset.describe()["background"] == [255, 255, 255]
    dataset = load(tmp_path, memory_limit_mb=memory, background=(1, 2, 3))
    assert dataset.train.images_at([0])[0, 0, 0].tolist() == [1, 2, 3]
    assert dataset.describe()["background"] == [1, 2, 3]
