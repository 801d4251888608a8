"""Types of options that several commands take: lists of numbers, sizes of images."""

from __future__ import annotations

import re

import click


class Numbers(click.ParamType):
    """Whole numbers from `minimum` on, `12`, `8,12` or `8-20`, as a list."""

    name = "numbers"

    def __init__(self, minimum: int = 1) -> None:
        self.minimum = minimum

    def convert(self, value, param, ctx):
        """The numbers in `value`, sorted."""
        found: set[int] = set()
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
            numbers = match and range(int(match[1]), int(match[2] or match[1]) + 1)
            if not numbers or numbers[0] < self.minimum:
                self.fail(f"{value!r} is no number, list such as 8,12 or range such as 8-20.")
            found.update(numbers)
        return sorted(found)


class ImageSize(click.ParamType):
    """Height and width of images, `224` or `96x128`."""

    name = "size"

    def convert(self, value, param, ctx):
        """(height, width)."""
        match = re.fullmatch(r"([1-9]\d{0,4})(?:[x×]([1-9]\d{0,4}))?", str(value))
        if not match:
            self.fail(f"{value!r} is no size such as 224 or 96x128.")
        return int(match[1]), int(match[2] or match[1])
