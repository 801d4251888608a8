"""Image files to upright RGB pictures with Pillow. Deploy bundles hold a copy of this file.

What Pillow cannot make sense of raises its own errors, of many kinds.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

Image.init()
#: Raster formats that Pillow decodes itself. For others it starts programs (Ghostscript for EPS).
FORMATS = tuple(
    name
    for name in (
        *("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO"),
        *("PCX", "PSD", "QOI", "SGI", "SUN", "DDS", "TGA"),
    )
    if name in Image.OPEN
)
#: Their usual suffixes. Files are told by their content, whatever their suffix.
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS
)
WHITE = (255, 255, 255)
#: Pixels of a picture above which only one is decoded at a time.
LARGE = 2**24
_large = threading.Lock()
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What a picture's header says; `size` is (height, width), upright. A plain JPEG is upright as
    it is stored, and in colours or grey that need no conversion."""

    size: tuple[int, int]
    transparent: bool
    plain_jpeg: bool = False


def read_header(path: str | os.PathLike) -> Header:
    """Size and kind of a picture, without its pixels."""
    with _opened(path) as image:
        width, height = image.size
        # image.getexif() would decode all pixels of a PNG. Pillow turns a TIFF's size itself.
        orientation = _orientation(Image.Image.getexif(image)) if image.format != "TIFF" else 1
        size = (width, height) if orientation >= 5 else (height, width)
        plain = image.format == "JPEG" and image.mode in ("RGB", "L") and orientation == 1
        return Header(size, _is_transparent(image), plain)


@contextlib.contextmanager
def decoded(
    path: str | os.PathLike, background: tuple[int, int, int] = WHITE
) -> Iterator[Image.Image]:
    """An image file as an RGB picture: upright, the first frame, composited on `background`.

    Resize a large picture inside the `with` block: no other large one is decoded meanwhile.
    """
    with _opened(path) as image:
        large = image.width * image.height > LARGE
        with _large if large else contextlib.nullcontext():
            raw_mode = image.tile[0][3] if image.tile else None
            image.load()
            method = _UPRIGHT.get(_orientation(image.getexif()))
            if image.mode.startswith("I"):
                image = _grey(image)
            elif raw_mode in ("RGB;16B", "RGBA;16B") and image.format == "PNG":
                image = _colours(image, path, raw_mode)
            if method is not None:
                image = image.transpose(method)
            if _is_transparent(image):
                canvas = Image.new("RGBA", image.size, background)
                canvas.alpha_composite(image.convert("RGBA"))
                image = canvas
            yield image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    with Image.open(path, formats=FORMATS) as image:
        if image.mode in ("F", "LAB"):
            raise ValueError(f"pixels of mode {image.mode}; convert them to 8 bits a channel")
        yield image


def _orientation(exif: Image.Exif) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, for anything else."""
    value = exif.get(_ORIENTATION)
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def _grey(image: Image.Image) -> Image.Image:
    """The upper 8 bits of 16-bit grey values, which Pillow would clip to white.

    Values that are all below 4096 are taken for 12-bit ones.
    """
    values = np.asarray(image)
    shift = 4 if values.max(initial=0) < 2**12 else 8
    return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8))


def _colours(image: Image.Image, path: str | os.PathLike, raw_mode: str) -> Image.Image:
    """A PNG's 16-bit colours, of which Pillow keeps the upper 8 bits, where 12-bit ones have 4."""
    upper = np.asarray(image)
    if upper[..., :3].max(initial=0) >= 2**4:
        return image
    with _opened(path) as lower:
        lower.tile = [(*lower.tile[0][:3], raw_mode.replace("16B", "16L"))]
        colours = upper << 4 | np.asarray(lower) >> 4
    colours[..., 3:] = upper[..., 3:]
    return Image.fromarray(colours)
