"""Image files as people have them: which are read, and what their pixels become."""

import os
import stat
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bnas_larq.data import decoding
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import image_header, read_image_file
from bnas_larq.errors import DataError

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n" b"0 0 8 8 rectfill\n%%EOF\n"
)


def sixteen_bit_png(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of uint16 [height, width, channels], which Pillow itself cannot write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A `gs` on the path that leaves a mark when it is started."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # found on the path, once
    return mark


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".eps", ""])
def test_no_program_is_started_for_a_picture(tmp_path, ghostscript, suffix):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(EPS)
    with pytest.raises(DataError, match=f"must be readable. Received: {path}"):
        read_image_file(path)
    assert not ghostscript.exists()
    if suffix in decoding.SUFFIXES:
        with pytest.raises(DataError, match="must be readable"):
            image_header(path)
    else:
        assert image_header(path) is None


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "PPM", "ICO", "TGA", "JPEG2000", "AVIF"])
def test_the_content_tells_the_format(tmp_path, format):
    if format not in decoding.FORMATS:
        pytest.skip(f"Pillow without {format}")
    path = tmp_path / "picture.anything"
    Image.new("RGB", (32, 16), (200, 100, 50)).save(path, format)
    pixels = read_image_file(path)
    assert image_header(path).size == pixels.shape[:2]
    assert abs(pixels[4, 8].astype(int) - (200, 100, 50)).max() < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_pixels_agree_on_what_is_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    expected = (16, 8) if orientation >= 5 else (8, 16)
    assert image_header(path).size == read_image_file(path).shape[:2] == expected


@pytest.mark.parametrize("orientation, shape", [(6, (16, 8, 3)), (1, (8, 16, 3)), (77, (8, 16, 3))])
def test_odd_exif_numbers_leave_the_pixels_alone(tmp_path, orientation, shape):
    # The exposure bias is the signed rational -1/0, as some cameras write it.
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", 0x9204, 10, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<Iii", 0, -1, 0)
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    assert read_image_file(path).shape == shape and image_header(path).size == shape[:2]


def test_an_orientation_that_is_no_number_means_upright(tmp_path):
    entry = struct.pack("<HHII", 0x0112, 10, 1, 26)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<Iii", 0, -1, 0)
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    assert read_image_file(path).shape == (8, 16, 3)


@pytest.mark.parametrize("channels, colour_type", [(1, 0), (3, 2), (4, 6)])
@pytest.mark.parametrize("bits", [12, 16])
def test_deep_pngs_keep_their_upper_eight_bits(tmp_path, bits, channels, colour_type):
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 6, channels)).astype(np.uint16)
    values[..., 3:] = 65535  # opaque
    path = tmp_path / "deep.png"
    path.write_bytes(sixteen_bit_png(values, colour_type))
    expected = np.broadcast_to(values[..., :3] >> (bits - 8), (5, 6, 3))
    np.testing.assert_array_equal(read_image_file(path), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_hidden_colours_do_not_become_pixels(tmp_path, mode):
    path = tmp_path / "image.png"
    image = Image.new(mode if mode in ("P", "L", "RGB") else "RGBA", (4, 4), 0)
    options = {}
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)  # black, and transparent
    else:
        options["transparency"] = (0, 0, 0) if mode == "RGB" else 0
    image.save(path, **options)
    assert image_header(path).transparent
    assert read_image_file(path).min() == 255
    np.testing.assert_array_equal(
        read_image_file(path, Geometry(None, background=(10, 20, 30)))[0, 0], (10, 20, 30)
    )


def test_half_transparent_pixels_are_mixed(tmp_path):
    Image.new("RGBA", (1, 1), (200, 100, 0, 128)).save(tmp_path / "image.png")
    mixed = [round(255 + (value - 255) * 128 / 255) for value in (200, 100, 0)]
    assert read_image_file(tmp_path / "image.png")[0, 0].tolist() == mixed


def test_floating_point_pixels_are_refused_for_what_they_are(tmp_path):
    path = tmp_path / "heights.tif"
    Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    with pytest.raises(DataError, match=r"heights.tif \(pixels of mode F; convert them"):
        image_header(path)


def test_pictures_that_pillow_takes_for_bombs_are_too_large(tmp_path):
    path = tmp_path / "huge.bmp"
    Image.new("RGB", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (14_000).to_bytes(4, "little") * 2  # width and height in its header
    path.write_bytes(content)
    for read in (image_header, lambda path: read_image_file(path)):
        with pytest.raises(DataError, match="at most 178 million pixels. Received: .*huge.bmp"):
            read(path)


def test_long_texts_of_a_png_are_named(tmp_path):
    path, text = tmp_path / "text.png", PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2**21, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)
    with pytest.raises(DataError, match="at most 1 MB of text. .*text.png .*without its metadata"):
        read_image_file(path)
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2**21)  # not compressed
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)
    assert read_image_file(path).shape == (4, 4, 3)


def test_of_large_pictures_one_is_decoded_at_a_time(tmp_path, monkeypatch):
    Image.new("RGB", (5, 5)).save(tmp_path / "large.png")
    monkeypatch.setattr(decoding, "LARGE", 24)
    with decoding.decoded(tmp_path / "large.png"):
        assert decoding._large.locked()
    assert not decoding._large.locked()
    monkeypatch.setattr(decoding, "LARGE", 25)
    with decoding.decoded(tmp_path / "large.png"):
        assert not decoding._large.locked()
