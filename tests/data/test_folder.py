"""Folders of class folders: layouts, image kinds, streaming, and every way they can be wrong."""

import shutil

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data import Normalization, data_errors, load_dataset, training_pipeline
from bnas_larq.data.folder import FileExamples
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import read_image_file
from bnas_larq.errors import DataError


def draw(path, size=(6, 5), seed=0, mode="RGB"):
    """Write an image of random pixels; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


@pytest.fixture
def flat(tmp_path):
    """Class folders without a test part: 10 apples, 15 pears."""
    for number in range(10):
        draw(tmp_path / "apple" / f"{number}.png", seed=number)
    for number in range(15):
        draw(tmp_path / "pear" / f"{number}.png", seed=100 + number)
    return tmp_path


@pytest.fixture
def separate(tmp_path):
    """`train` with 8 images per class, `test` with 2."""
    for name in ("apple", "pear"):
        for number in range(8):
            draw(tmp_path / "train" / name / f"{number}.png", seed=number)
        for number in range(2):
            draw(tmp_path / "test" / name / f"{number}.png", seed=50 + number)
    return tmp_path


def load(folder, **arguments):
    return load_dataset("folder", data_dir=str(folder), **arguments)


def test_class_folders_alone_give_a_fixed_fifth_as_test(flat):
    dataset = load(flat, validation_fraction=0.25)
    assert dataset.class_names == ("apple", "pear") and dataset.image_shape == (5, 6, 3)
    assert np.bincount(dataset.test.labels).tolist() == [10 // 5, 15 // 5]
    assert (dataset.train.num_examples, dataset.validation.num_examples) == (15, 5)
    test = dataset.test.images_at(range(5))
    for other in (load(flat, seed=9), load(flat, limit=10), load(flat, memory_limit_mb=0)):
        np.testing.assert_array_equal(other.test.images_at(range(5)), test)


def test_parts_share_no_image(flat):
    dataset = load(flat)
    parts = [dataset.train, dataset.validation, dataset.test]
    images = np.concatenate([part.images_at(range(len(part))) for part in parts])
    assert len(np.unique(images.reshape(25, -1), axis=0)) == 25


def test_train_and_test_folders(separate):
    dataset = load(separate)
    assert dataset.train.num_examples + dataset.validation.num_examples == 16
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    expected = read_image_file(separate / "test" / "pear" / "0.png")
    np.testing.assert_array_equal(dataset.test.images_at([2])[0], expected)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_serves_as_test_where_there_is_none(separate, name):
    (separate / "test").rename(separate / name)
    assert load(separate).test.num_examples == 4


def test_a_validation_folder_beside_test_becomes_validation(separate):
    shutil.copytree(separate / "train", separate / "val")
    dataset = load(separate)
    assert dataset.train.num_examples == dataset.validation.num_examples == 16
    assert load(separate, validation_fraction=0.0).validation is None


def test_a_class_may_be_called_train(flat):
    (flat / "apple").rename(flat / "train")
    assert load(flat).class_names == ("pear", "train")


def test_streamed_and_in_memory_are_equal(flat):
    memory, streamed = load(flat), load(flat, memory_limit_mb=0)
    assert isinstance(streamed.train, FileExamples) and streamed.describe()["streamed"]
    assert memory.describe()["fingerprints"] == streamed.describe()["fingerprints"]
    assert memory.normalization() == streamed.normalization()
    for one, other in zip(
        memory.train.batches(4, seed=1, epoch=2, shuffle=True),
        streamed.train.batches(4, seed=1, epoch=2, shuffle=True),
        strict=True,
    ):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_memory_is_given_to_the_training_part_first(tmp_path):
    for name in ("apple", "pear"):
        for number in range(10):
            draw(tmp_path / name / f"{number}.png", size=(150, 150), seed=number)
    # 16 images of 150 * 150 * 3 bytes are 1.08 MB, the 4 of the test part 0.27 MB.
    assert [part.streamed for part in (load(tmp_path, memory_limit_mb=1).train,)] == [True]
    dataset = load(tmp_path, memory_limit_mb=1, limit=14)
    assert not dataset.train.streamed and dataset.test.streamed


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    draw(tmp_path / "image.png", mode=mode)
    with Image.open(tmp_path / "image.png") as image:
        expected = np.array(image.convert("RGB"))
    found = read_image_file(tmp_path / "image.png")
    assert found.shape == (5, 6, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 30).astype(np.uint16).reshape(5, 6)
    Image.fromarray(ramp).save(tmp_path / "image.png")
    found = read_image_file(tmp_path / "image.png")
    np.testing.assert_array_equal(found[..., 0], ramp >> 8)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".gif", ".webp"])
def test_every_suffix_is_read(flat, suffix):
    with Image.open(flat / "apple" / "0.png") as image:
        image.convert("RGB").save(flat / "apple" / f"another{suffix}")
    dataset = load(flat, validation_fraction=0.0)
    assert len(dataset.train) + len(dataset.test) == 26


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, :3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    for name in ("apple", "pear"):
        for number in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png", exif=exif)
    dataset = load(tmp_path)
    assert dataset.image_shape == (6, 4, 3)
    image = dataset.test.images_at([0])[0]
    assert image[:3].min() == 255 and image[3:].max() == 0


def test_other_files_are_passed_over_and_links_followed(flat, tmp_path_factory):
    (flat / "apple" / "notes.txt").write_text("no image")
    (flat / "apple" / ".hidden.png").write_bytes(b"no image")
    (flat / "apple" / ".thumbnails").mkdir()
    (flat / "apple" / ".thumbnails" / "a.png").write_bytes(b"no image")
    (flat / ".git").mkdir()
    (flat / "README.md").write_text("no class")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (flat / "pear").rename(elsewhere / "pears")
    (flat / "pear").symlink_to(elsewhere / "pears")
    dataset = load(flat, validation_fraction=0.0)
    assert len(dataset.train) + len(dataset.test) == 25


def test_differing_sizes_need_image_size(flat):
    draw(flat / "pear" / "large.png", size=(60, 50))
    with pytest.raises(DataError, match=r"\(5, 6\) in .* and \(50, 60\) in .*large.png. Set image"):
        load(flat)
    dataset = load(flat, image_size=8)
    assert dataset.image_shape == (8, 8, 3)


def test_shrinking_is_antialiased(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    found = read_image_file(tmp_path / "board.png", Geometry((8, 8))).astype(int)
    assert abs(found[2:-2, 2:-2] - 127).max() < 10  # without antialiasing: 0 or 255


def test_an_unreadable_image_is_named(flat):
    (flat / "pear" / "3.png").write_bytes(b"this is no image")
    for limit in (2000, 0):
        with pytest.raises(DataError, match=r"must be readable. Received: .*pear/3.png") as caught:
            load(flat, memory_limit_mb=limit)
        assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(flat):
    truncate(flat)
    with pytest.raises(DataError, match=r"must be readable. Received: .*pear/3.png"):
        load(flat)


def test_a_truncated_image_is_named_while_streaming(flat):
    truncate(flat)
    dataset = load(flat, memory_limit_mb=0, validation_fraction=0.0)
    stream = training_pipeline(dataset.train, batch_size=5, seed=0, normalization=Normalization())
    with pytest.raises(DataError, match=r"must be readable. Received: .*pear/3.png") as caught:
        with data_errors():
            list(stream.dataset().take(20))
            list(dataset.test.batches(5))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="pear/3.png"):
        dataset.normalization()
        dataset.test.images_at(range(5))


def truncate(flat):
    """Cut a file after its header, so that its size can be read but not its pixels."""
    draw(flat / "pear" / "3.png")
    content = (flat / "pear" / "3.png").read_bytes()
    (flat / "pear" / "3.png").write_bytes(content[: len(content) // 2])


def test_an_empty_class_folder_is_named(flat):
    (flat / "quince").mkdir()
    (flat / "quince" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"needs images. Received: .*quince, which has none"):
        load(flat)


def test_an_unknown_class_in_test_is_named(separate):
    draw(separate / "test" / "quince" / "0.png")
    with pytest.raises(DataError, match=r"Received: .*test/quince. Known: apple, pear"):
        load(separate)


def test_an_empty_test_folder_is_named(separate):
    shutil.rmtree(separate / "test")
    (separate / "test").mkdir()
    with pytest.raises(DataError, match=r"no class folders in .*test"):
        load(separate)


def test_too_few_classes(flat):
    shutil.rmtree(flat / "pear")
    with pytest.raises(DataError, match="at least two class folders .* Received: apple in"):
        load(flat)
    shutil.rmtree(flat / "apple")
    with pytest.raises(DataError, match="at least two class folders .* Received: none in"):
        load(flat)


def test_split_folders_without_classes_are_not_taken_for_classes(tmp_path):
    draw(tmp_path / "train" / "0.png")
    draw(tmp_path / "test" / "0.png")
    with pytest.raises(DataError, match="at least two class folders .* Received: test, train"):
        load(tmp_path)


def test_too_few_images_for_a_test_part(tmp_path):
    draw(tmp_path / "apple" / "0.png")
    draw(tmp_path / "pear" / "0.png")
    with pytest.raises(DataError, match="A fifth of the images .* Received: only 2 images"):
        load(tmp_path)


def test_missing_folders(tmp_path):
    with pytest.raises(DataError, match="Received: no data_dir. Set --data-dir"):
        load_dataset("folder")
    with pytest.raises(DataError, match="existing folder. Received: .*nowhere"):
        load(tmp_path / "nowhere")


def test_the_shared_folder(shared):
    folder = shared / "data" / "folders" / "cifar100-objects"
    dataset = load(folder, limit=200)
    assert dataset.num_classes == 10 and dataset.image_shape == (32, 32, 3)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (180, 20, 1000)
    assert np.bincount(dataset.test.labels).tolist() == [100] * 10
    assert len(np.unique(dataset.train.labels)) == 10
    norm = dataset.normalization()
    images, labels = next(
        iter(training_pipeline(dataset.train, batch_size=16, seed=0, normalization=norm).dataset())
    )
    assert images.shape == (16, 32, 32, 3) and images.dtype == tf.float32
