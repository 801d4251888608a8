"""Crops of JPEG pictures, of which only the part around a box is decoded.

Decoded pixels are those of the whole picture, to the bit: TensorFlow's method `INTEGER_ACCURATE` is
Pillow's. Its default, which TFDS uses, is a faster one that differs by a few units. Scaled, they
may differ by 1 from a crop of the whole picture: Pillow rounds between columns and rows, and which
come first depends on the picture's shape. Evaluation never decodes parts.
"""

from __future__ import annotations

import math

import numpy as np

from bnas_larq.backend import tf

#: Pillow's method; "" is TensorFlow's default.
ACCURATE, DEFAULT = "INTEGER_ACCURATE", ""
#: Columns and rows at the ends of a decoded part that may differ, as colours are interpolated.
BORDER = 2


def window_around(
    box: np.ndarray, picture: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a picture that scaling a box needs: (top, left, height, width), int32 [4], and
    the box within it.

    Args:
        box: (top, left, height, width).
        picture, size: (height, width) of the picture, and of what the box becomes.
    """
    box = np.asarray(box, np.int32)
    # The triangle of a bilinear, antialiased scaling reaches one new pixel beyond the box.
    reach = [
        math.ceil(max(1.0, old / new)) + BORDER for old, new in zip(box[2:], size, strict=True)
    ]
    first = np.maximum(box[:2] - reach, 0)
    last = np.minimum(box[:2] + box[2:] + reach, picture)
    window, inside = (first, last - first), (box[:2] - first, box[2:])
    return np.concatenate(window, dtype=np.int32), np.concatenate(inside, dtype=np.int32)


def decode_window(content: tf.Tensor | bytes, window: tf.Tensor, method: str) -> tf.Tensor:
    """A part of a JPEG: uint8 [height, width, 3]."""
    return tf.io.decode_and_crop_jpeg(content, window, channels=3, dct_method=method)
