"""How long operations take on a device: a table that somebody measured, read from a file.

# milliseconds for one image
bin_conv_3x3:
  - {channels: 16, size: 32, milliseconds: 0.21}
  - {channels: 32, size: 32, stride: 2, milliseconds: 0.12}
  - {milliseconds: 0.15}
max_pool_3x3: 0.04
stem: 0.9
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bnas_larq.errors import BnasLarqError, nearest, one_line
from bnas_larq.spaces import ZEROISE, operation_names

#: Parts that every network has. One that a table leaves out takes no time there.
TEMPLATE_PARTS = ("stem", "preprocess", "shortcut", "classifier")
_TIME = "milliseconds"
_RULE = (
    "A latency table holds milliseconds by operation: a number, or a list of entries with "
    "`milliseconds` and any of `stride`, `channels` and `size`."
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operation stands.

    Attributes:
        stride: how many times smaller its output is.
        channels: of its output.
        size: height and width of its input.
    """

    stride: int
    channels: int
    size: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size
        return f"stride {self.stride}, {self.channels} channels, size {height}x{width}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A measured time, and where it holds; None means anywhere."""

    milliseconds: float
    stride: int | None = None
    channels: int | None = None
    size: tuple[int, int] | None = None

    def fits(self, place: Place) -> bool:
        """Whether it holds there."""
        return all(
            wanted is None or wanted == getattr(place, key)
            for key, wanted in dataclasses.asdict(self).items()
            if key != _TIME
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML."""
        values = {key: value for key, value in dataclasses.asdict(self).items() if value}
        return {**values, _TIME: self.milliseconds}


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds for one image, by operation, and by place where it matters.

    Attributes:
        entries: operation, or one of `TEMPLATE_PARTS`, → what was measured. The first entry that
            fits a place counts.
    """

    entries: Mapping[str, tuple[Entry, ...]]

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a YAML or JSON file.

        Raises:
            BnasLarqError: it cannot be read, names an unknown operation, or holds something else
                than times.
        """
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise BnasLarqError(
                "A latency table is a readable YAML or JSON file. "
                f"Received: {path} ({one_line(error)}). Correct search.cost.table."
            ) from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> LatencyTable:
        """The inverse of `to_dict`; also takes plain numbers.

        Raises:
            BnasLarqError: as of `load`.
        """
        if not isinstance(values, Mapping) or not values:
            raise BnasLarqError(f"{_RULE} Received: {one_line(values)[:80]}.")
        known = (*TEMPLATE_PARTS, *operation_names())
        entries = {}
        for name, value in values.items():
            if name not in known:
                raise BnasLarqError(
                    "A latency table's operations must be registered. "
                    f"Received: {name!r}; {nearest(str(name), known)}"
                )
            rows = value if isinstance(value, list | tuple) else [value]
            if not rows:
                raise BnasLarqError(f"{_RULE} Received: an empty list for {name}.")
            entries[name] = tuple(_entry(name, row) for row in rows)
        if any(entry.milliseconds for entry in entries.get(ZEROISE, ())):
            raise BnasLarqError(
                "Zeroise takes no time: final networks leave it out. "
                f"Received: a time for {ZEROISE}. Remove it."
            )
        return cls(entries)

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return {name: [entry.to_dict() for entry in rows] for name, rows in self.entries.items()}

    def check_holds(self, operations: Iterable[str]) -> None:
        """Raise BnasLarqError unless every operation but Zeroise is in the table."""
        missing = [name for name in operations if name not in self.entries and name != ZEROISE]
        if missing:
            raise BnasLarqError(
                "A latency table must hold every candidate of the search space. "
                f"Received: none for {', '.join(missing)}. Measure it, and add it."
            )

    def milliseconds(self, name: str, place: Place) -> float:
        """Time of an operation at a place.

        Raises:
            BnasLarqError: the table has entries for it, but none that fits.
        """
        if name not in self.entries and name in TEMPLATE_PARTS:
            return 0.0
        for entry in self.entries.get(name, ()):
            if entry.fits(place):
                return entry.milliseconds
        raise BnasLarqError(
            "A latency table must hold every place of an operation. "
            f"Received: no entry for {name} that fits {place}. "
            "Add it, or as the last one an entry without a place."
        )


def _entry(name: str, row: Any) -> Entry:
    if not isinstance(row, Mapping):
        row = {_TIME: row}
    fields = [field.name for field in dataclasses.fields(Entry)]
    for key in row:
        if key not in fields:
            raise BnasLarqError(
                f"{_RULE} Received: {key!r} for {name}; {nearest(str(key), fields)}"
            )
    time = row.get(_TIME)
    if not _is_number(time, int | float) or not 0 <= time < math.inf:
        raise BnasLarqError(
            "A latency is a number of milliseconds from 0 up. "
            f"Received: {time!r} for {name}. Correct the table."
        )
    size = row.get("size")
    # Most images are square: one number stands for both.
    sides = size if isinstance(size, list | tuple) else [] if size is None else [size, size]
    whole = [*sides, *(row[key] for key in ("stride", "channels") if row.get(key) is not None)]
    if len(sides) not in (0, 2) or not all(_is_number(one, int) and one > 0 for one in whole):
        raise BnasLarqError(
            "A place's stride and channels are whole numbers, and its size is one or "
            f"[height, width]. Received: {one_line(dict(row))} for {name}. Correct the table."
        )
    return Entry(float(time), row.get("stride"), row.get("channels"), tuple(sides) or None)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
