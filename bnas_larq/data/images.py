"""Image files to uint8 RGB, with one reader for memory and streams."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bnas_larq.backend import tf
from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import DataError, one_line

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})
ROTATING_ORIENTATIONS = frozenset({5, 6, 7, 8})  # EXIF values that swap height and width
EXIF_ORIENTATION = 0x0112


def is_image_name(path: Path) -> bool:
    """Whether a path, relative to its class folder, is an image and not hidden."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def image_file_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header; DataError names an unreadable file."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # image.getexif() would decode all pixels of a PNG.
            if Image.Image.getexif(image).get(EXIF_ORIENTATION) in ROTATING_ORIENTATIONS:
                return width, height
            return height, width
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise _unreadable(path, error) from error


def read_image_file(
    path: Path, geometry: Geometry | None, box: np.ndarray | None = None
) -> np.ndarray:
    """Read an image file as uint8 [height, width, 3], upright, the first frame, without
    transparency; DataError names an unreadable file.

    Args:
        geometry, box: which part to scale to which size; None for all of it in its own size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image = _eight_bit(ImageOps.exif_transpose(image)).convert("RGB")
                return np.array(image, np.uint8) if geometry is None else geometry.apply(image, box)
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise _unreadable(path, error) from error


def resize(images: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Stretch uint8 images [..., height, width, channels] to `size` (bilinear, antialiased)."""
    resized = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey images scaled to 8 bits, where Pillow would clip to white."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"Every image must be readable. Received: {path} ({one_line(error)}). Repair or remove "
        "this file."
    )
