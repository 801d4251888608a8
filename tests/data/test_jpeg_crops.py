"""Parts of JPEGs have the bits of whole pictures; scaled, they differ by Pillow's rounding."""

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data import load_dataset
from bnas_larq.data.decoding import read_header
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import read_image_file, read_jpeg_crop
from bnas_larq.data.jpeg_crops import ACCURATE, BORDER, DEFAULT, decode_window, window_around
from bnas_larq.data.tfds_records import Records
from bnas_larq.errors import DataError

SIZE = (48, 40)
KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True, "quality": 95},
    "grey": {"mode": "L"},
}


def write(path, height=150, width=203, mode="RGB", **options):
    noise = np.random.default_rng(0).integers(0, 256, (height // 3, width // 3, 3), np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    picture.convert(mode).save(path, "JPEG", **options)
    return path


def boxes(height, width, count=30):
    """At the corners, the whole, one pixel, and random ones."""
    generator = np.random.default_rng(1)
    yield from ([0, 0, height, width], [0, 0, 1, 1], [height - 1, width - 1, 1, 1])
    yield from ([height - 50, width - 41, 50, 41], [0, 0, 17, 33])
    for _ in range(count):
        tall, wide = generator.integers(1, (height, width))
        top, left = generator.integers(0, (height - tall + 1, width - wide + 1))
        yield [top, left, tall, wide]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [ACCURATE, DEFAULT])
def test_what_is_read_of_a_part_has_the_bits_of_the_whole(kind, method, tmp_path):
    """Pillow's pixels, and those of TFDS. Columns and rows that a scaling does not reach are left
    out, unless they are the picture's own last ones."""
    path = write(tmp_path / "a.jpg", **KINDS[kind])
    whole = np.array(Image.open(path).convert("RGB"))
    if method == DEFAULT:
        whole = tf.io.decode_image(path.read_bytes(), channels=3).numpy()
    for box in map(np.array, boxes(150, 203)):
        window, inside = window_around(box, (150, 203), SIZE)
        top, left, height, width = window
        assert inside[:2].tolist() == [box[0] - top, box[1] - left]
        part = decode_window(path.read_bytes(), window, method).numpy()
        rows, columns = (
            slice(BORDER * (first > 0), size - BORDER * (first + size < end))
            for first, size, end in ((top, height, 150), (left, width, 203))
        )
        expected = whole[top : top + height, left : left + width]
        np.testing.assert_array_equal(part[rows, columns], expected[rows, columns])


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_crop_differs_by_rounding_alone(kind, tmp_path):
    path, geometry = write(tmp_path / "a.jpg", **KINDS[kind]), Geometry(SIZE)
    header = read_header(path)
    assert header.plain_jpeg and header.size == (150, 203)
    for box in map(np.array, boxes(150, 203)):
        expected = read_image_file(path, geometry, box).astype(int)
        found = read_jpeg_crop(path, geometry, box, header.size)
        assert np.abs(found - expected).max() <= 1


def test_little_more_than_the_box_is_decoded():
    window, inside = window_around(np.array([50, 60, 40, 80]), (200, 300), (40, 40))
    assert window.tolist() == [50 - 3, 60 - 4, 40 + 6, 80 + 8]
    assert inside.tolist() == [3, 4, 40, 80]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("CMYK", {}), ("RGB", {"exif": {0x0112: 6}}), ("RGB", {"format": "PNG"})],
    ids=["other colours", "turned", "no JPEG"],
)
def test_other_pictures_are_left_to_pillow(mode, options, tmp_path):
    path = tmp_path / "a.jpg"
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    Image.new(mode, (20, 10)).save(path, **{"format": "JPEG", **options})
    assert not read_header(path).plain_jpeg


def test_a_truncated_picture_is_named(tmp_path):
    path = write(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"readable. Received: .*a.jpg \(.*Repair or remove"):
        read_jpeg_crop(path, Geometry(SIZE), np.array([90, 90, 50, 50]), (150, 203))


def test_records_are_cropped_alike(varied_pictures, monkeypatch):
    """A TFDS data set of JPEGs, with and without decoding parts alone."""
    data = load_dataset(
        **varied_pictures.source("tfds"), image_size=32, limit=8, keep_originals=True
    )

    def box(index, height, width):
        return tf.stack([height // 4, width // 3, height // 2, width // 2 + 1])

    cropped = data.train.cropped(box)
    parts = cropped.images_at(range(7))
    assert data.train._records.holds_jpegs
    monkeypatch.setattr(Records, "holds_jpegs", False)
    wholes = cropped.images_at(range(7)).astype(int)
    assert np.abs(parts - wholes).max() <= 1
    assert parts.std() > 10
