"""How a picture of any size becomes a network's input: one implementation for every reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from bnas_larq.data.decoding import WHITE
from bnas_larq.errors import DataError

RESIZE, CENTER_CROP = "resize", "center-crop"
CROP_SHARE = 224 / 256  # as ImageNet networks are evaluated


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which part of a picture a network is evaluated on, and at which size.

    Args:
        size: (height, width) of the input; None, until a data set tells the size of its pictures.
        evaluation: `"resize"` stretches the whole picture to `size`. `"center-crop"` keeps its
            proportions: it cuts out the largest central part of `size`'s proportions, scaled by
            `crop_share`.
        crop_share: above 0, at most 1; 0.875 is ImageNet's usual short side of 256 and centre crop
            of 224.
        background: red, green and blue, 0 to 255, behind what is transparent.

    Raises:
        DataError: an unknown evaluation, a crop share out of range, or a centre crop without size.

    Example:
        >>> Geometry((224, 224), "center-crop").box(375, 500)
        (23.4375, 85.9375, 328.125, 328.125)
    """

    size: tuple[int, int] | None
    evaluation: str = RESIZE
    crop_share: float = CROP_SHARE
    background: tuple[int, int, int] = WHITE

    def __post_init__(self) -> None:
        if self.evaluation not in (RESIZE, CENTER_CROP) or not 0 < self.crop_share <= 1:
            raise DataError(
                f"Images are evaluated by {RESIZE!r} or by {CENTER_CROP!r}, with a crop_share "
                f"above 0 and at most 1. Received: {self.evaluation!r}, {self.crop_share}. "
                "Use 'resize'."
            )
        if self.evaluation == CENTER_CROP and self.size is None:
            raise DataError(
                "A centre crop needs a size. Received: evaluation 'center-crop' without "
                "image_size. Set image_size, such as 224."
            )

    @classmethod
    def described(cls, size: tuple[int, int], data: Mapping[str, Any]) -> Geometry:
        """The geometry of a data set's description; earlier releases always stretched."""
        rules = data.get("evaluation", RESIZE), data.get("crop_share", CROP_SHARE)
        return cls(size, *rules, tuple(data.get("background", WHITE)))

    def describe(self) -> dict[str, Any]:
        """All but the size, for `described`."""
        rules = {"evaluation": self.evaluation, "crop_share": self.crop_share}
        return {**rules, "background": list(self.background)}

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(top, left, height, width) of the part of a picture that is evaluated."""
        if self.evaluation == RESIZE:
            return 0.0, 0.0, float(height), float(width)
        scale = self.crop_share * min(height / self.size[0], width / self.size[1])
        tall, wide = min(self.size[0] * scale, height), min(self.size[1] * scale, width)
        return (height - tall) / 2, (width - wide) / 2, tall, wide

    def apply(self, picture: Image.Image, box: np.ndarray | None = None) -> np.ndarray:
        """Scale a part of an RGB picture to `size` (bilinear, antialiased).

        Args:
            picture: returned as it is if it has this size, or `size` is None, and `box` is None.
            box: (top, left, height, width) of the part; None takes the one that is evaluated.

        Returns:
            uint8 [*size, 3], or of the picture's size.
        """
        width, height = picture.size
        if box is not None or self.size not in (None, (height, width)):
            top, left, tall, wide = self.box(height, width) if box is None else map(float, box)
            # Rounding must not lead beyond the picture, which Pillow refuses.
            edges = (left, top, min(left + wide, width), min(top + tall, height))
            picture = picture.resize(self.size[::-1], Image.Resampling.BILINEAR, edges)
        return np.array(picture, np.uint8)
