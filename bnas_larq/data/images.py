"""Image files to uint8 RGB, with one reader for memory and streams."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data.decoding import SUFFIXES, Header, decoded, read_header
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.jpeg_crops import ACCURATE, decode_window, window_around
from bnas_larq.errors import DataError, one_line

THREADS = 8  # that read images side by side


def shown_entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, but for hidden entries; DataError if it cannot be read."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        _unreadable_folder(error)
    return [entry for entry in entries if not entry.name.startswith(".")]


def list_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The files in a folder and below it by name, and how many others there are of each kind.

    Links are followed, but into no folder twice and to none above; hidden files are left out.
    DataError names a folder that cannot be read.
    """
    entered = {str(parent) for parent in folder.resolve().parents}
    files, others = [], Counter()
    for directory, folders, names in os.walk(folder, onerror=_unreadable_folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in entered:
            folders.clear()
            others["folder linked again"] += 1
            continue
        entered.add(real)
        others["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(directory, name) for name in names if not name.startswith(".")):
            if path.is_file():
                files.append(path)
            else:
                others["broken link or device"] += 1
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix()), +others


def image_header(path: Path) -> Header | None:
    """What an image file's header says; None for a file that is no image.

    DataError names an unreadable file whose suffix is an image's.
    """
    try:
        return read_header(path)
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        if path.suffix.lower() in SUFFIXES:
            raise _unreadable(path, error) from error
        return None


def read_image_file(
    path: Path, geometry: Geometry = Geometry(None), box: np.ndarray | None = None  # noqa: B008
) -> np.ndarray:
    """Read an image file as uint8 [height, width, 3]; DataError names an unreadable file.

    The first frame, upright. 16 bits a channel become 8; a picture whose values are all below 4096
    is taken for one of 12 bits.

    Args:
        geometry, box: see `Geometry.apply`.
    """
    try:
        with decoded(path, geometry.background) as image:
            return geometry.apply(image, box)
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise _unreadable(path, error) from error


def read_jpeg_crop(
    path: Path, geometry: Geometry, box: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """As `read_image_file` of a plain JPEG (see `Header`) of this (height, width), whose part
    around the box alone is decoded."""
    window, inside = window_around(box, size, geometry.size)
    try:
        with tf.device("CPU:0"):
            part = decode_window(path.read_bytes(), window, ACCURATE)
    except (OSError, tf.errors.OpError) as error:
        raise _unreadable(path, error) from error
    return geometry.apply(Image.fromarray(part.numpy()), inside)


def composite(image: tf.Tensor, background: tuple[int, int, int]) -> tf.Tensor:
    """A uint8 image [height, width, 4] with transparency as [height, width, 3]."""
    colours, alpha = tf.split(tf.cast(image, tf.float32), [3, 1], axis=-1)
    behind = tf.constant(background, tf.float32)
    return tf.cast(tf.round(behind + (colours - behind) * (alpha / 255.0)), tf.uint8)


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Stretch uint8 images [..., height, width, channels] to `size` (bilinear, antialiased)."""
    resized = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def _unreadable_folder(error: OSError) -> NoReturn:
    raise DataError(
        f"Every folder of images must be readable. Received: {one_line(error)}. "
        "Change its permissions or remove it."
    ) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    rule, way_out = "Every image must be readable", "Repair or remove this file"
    if isinstance(error, Image.DecompressionBombError):
        rule, way_out = "An image has at most 178 million pixels", "Shrink or remove this file"
    elif "MAX_TEXT" in str(error):
        rule, way_out = "A PNG holds at most 1 MB of text", "Save this file without its metadata"
    return DataError(f"{rule}. Received: {path} ({one_line(error)}). {way_out}.")
