"""A data set as the rest of the program sees it: named classes and three disjoint parts."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from bnas_larq.data.examples import Examples
from bnas_larq.data.normalization import STREAM_SAMPLE, Normalization

HALVES_SALT = 0x5EA8C4  # keeps the draw of the halves apart from the draw of the validation part


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with classes, split into parts that share no example.

    Args:
        name: "digits", "folder" or the TFDS name.
        class_names: one name per label.
        image_shape: `(height, width, 3)` of every image.
        train: what weights (and α) are trained on.
        validation: what decisions are made on, or None.
        test: touched once, by the final evaluation.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Examples
    validation: Examples | None
    test: Examples

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def normalization(self) -> Normalization:
        """Mean and deviation of the training part (of its first 10,000 images when streamed)."""
        return self._normalization

    @functools.cached_property
    def _normalization(self) -> Normalization:
        return Normalization.measure(self.train, STREAM_SAMPLE if self.train.streamed else None)

    def search_halves(self, seed: int) -> tuple[Examples, Examples]:
        """Two disjoint halves of `train`: one for the weights, one for α.

        The validation part stays out of both, so that the searched network's validation accuracy is
        not biased.
        """
        return self.train.split(0.5, seed + HALVES_SALT)

    def describe(self) -> dict[str, Any]:
        """A JSON-able description for run folders, with a fingerprint of each split."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "sizes": {part: held.num_examples if held else 0 for part, held in parts.items()},
            "fingerprints": {
                part: held.fingerprint() if held else None for part, held in parts.items()
            },
            "streamed": self.train.streamed,
        }


TEST_FRACTION = 0.2
TEST_SEED = (
    20021108  # any number, but always the same: every run with every seed has the same test split
)


@dataclasses.dataclass(frozen=True)
class Splits:
    """The parts a source has; `validation` is None when the source has no such part of its own."""

    class_names: tuple[str, ...]
    train: Examples
    validation: Examples | None
    test: Examples
