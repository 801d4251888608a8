"""Data sets: what a source delivers (`Splits`), and what searches and trainings use
(`ImageDataset`)."""

from __future__ import annotations

import dataclasses
import functools
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from bnas_larq.data.examples import Examples
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.normalization import Normalization
from bnas_larq.errors import DataError

TEST_FRACTION = 0.2
TEST_SEED = 20021108  # fixed: every run has the same test split, whatever its seed
MEASURED_BYTES = 2_000_000_000  # whatever the memory limit, or it would change the normalisation
#: Controls, lone surrogates (bytes of a file name that are not UTF-8), line separators.
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
HALVES_SALT = 0x5EA8C4  # keeps the draw of the halves apart from the draw of the validation part


@dataclasses.dataclass(frozen=True)
class Splits:
    """The parts of a source; `validation` is None if the source brings none."""

    class_names: tuple[str, ...]
    train: Examples
    validation: Examples | None
    test: Examples
    test_files: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """Images with classes, split into parts that share no example.

    Args:
        name: "digits", "folder" or the TFDS name.
        class_names: one name per label.
        image_shape: `(height, width, 3)` of every image.
        train: trains weights and α.
        validation: for decisions, or None.
        test: used once, by the final evaluation.
        geometry: how pictures of other sizes get `image_shape` when they are evaluated.
        unsplit: `train` with what was split off it for `validation`; None if nothing was.
        test_files: the file of each test image, in the data set's folder; None if they have none.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Examples
    validation: Examples | None
    test: Examples
    geometry: Geometry
    unsplit: Examples | None = None
    test_files: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def training_examples(self, on: str = "train") -> Examples:
        """What a network trains on: `train`, or `all`, the split-off validation part too."""
        return self.train if on == "train" or self.unsplit is None else self.unsplit

    def normalization(self) -> Normalization:
        """Mean and deviation of the training part; of large ones, of a sample of 2 GB."""
        return self._normalization

    @functools.cached_property
    def _normalization(self) -> Normalization:
        return Normalization.measure(self.train, MEASURED_BYTES // math.prod(self.image_shape))

    def search_halves(self, seed: int) -> tuple[Examples, Examples]:
        """Two disjoint halves of `train`: one for the weights, one for α.

        Neither holds validation images, so that validation accuracy is not biased by the search.
        """
        return self.train.split(0.5, seed + HALVES_SALT)

    def describe(self) -> dict[str, Any]:
        """A description for JSON, with the fingerprint of each part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "num_classes": self.num_classes,
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            **self.geometry.describe(),
            "sizes": {name: part.num_examples if part else 0 for name, part in parts.items()},
            "fingerprints": {
                name: part.fingerprint() if part else None for name, part in parts.items()
            },
            "streamed": self.train.streamed,
        }


def check_class_names(names: Sequence[str], source: str) -> None:
    """Raise DataError for a name that cannot be written to files or shown on a terminal."""
    for name in names:
        if any(unicodedata.category(character) in UNPRINTABLE for character in name):
            received = name.encode("utf-8", "surrogateescape")
            raise DataError(
                "A class has a name of printable UTF-8 text. "
                f"Received: {received!r} in {source}. Rename it."
            )
