"""What a source hands over before validation is cut off, and the fixed numbers of the test cut."""

from __future__ import annotations

import dataclasses

from bnas_larq.data.examples import Examples

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
