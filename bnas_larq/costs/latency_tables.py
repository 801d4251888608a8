"""Latency tables: how long operations take on a device, measured by a user and read from a file.

# milliseconds for one image
bin_conv_3x3:
  - {channels: 16, size: 32, milliseconds: 0.21}
  - {channels: 32, size: 32, stride: 2, milliseconds: 0.12}
  - {milliseconds: 0.15}
max_pool_3x3: 0.04
stem: 0.9
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic

from bnas_larq.errors import BnasLarqError, nearest, one_line
from bnas_larq.spaces import ZEROISE, operation_names
from bnas_larq.text_files import read_yaml

#: Parts that every network has. Those missing from a table count as 0.
TEMPLATE_PARTS = ("stem", "preprocess", "shortcut", "classifier")


class Place(NamedTuple):
    """Where an operation is: how many times smaller its output is than its input, the channels of
    its output, and (height, width) of its input."""

    stride: int
    channels: int
    size: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size
        return f"stride {self.stride}, {self.channels} channels, size {height}x{width}"


class Entry(pydantic.BaseModel):
    """A measured time, and where it holds; None: everywhere."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    milliseconds: float = pydantic.Field(ge=0)
    stride: pydantic.PositiveInt | None = None
    channels: pydantic.PositiveInt | None = None
    size: tuple[pydantic.PositiveInt, pydantic.PositiveInt] | None = None

    @pydantic.field_validator("size", mode="before")
    @classmethod
    def _both_sides(cls, size: Any) -> Any:
        """Most images are square: one number stands for both sides."""
        if isinstance(size, list | tuple):
            return tuple(size)
        return None if size is None else (size, size)

    def fits(self, place: Place) -> bool:
        """Whether it holds there."""
        return all(getattr(self, key) in (None, value) for key, value in place._asdict().items())


def _check_name(name: Any) -> Any:
    known = (*TEMPLATE_PARTS, *operation_names())
    if name not in known:
        raise BnasLarqError(
            "The operations of a latency table must be registered. "
            f"Received: {name!r}; {nearest(str(name), known)}"
        )
    return name


def _to_entries(value: Any) -> list[Any]:
    rows = value if isinstance(value, list | tuple) else [value]
    return [row if isinstance(row, Mapping) else {"milliseconds": row} for row in rows]


_Name = Annotated[str, pydantic.BeforeValidator(_check_name)]
_Entries = Annotated[
    tuple[Entry, ...], pydantic.Field(min_length=1), pydantic.BeforeValidator(_to_entries)
]


class LatencyTable(pydantic.RootModel):
    """Milliseconds for one image: operation, or one of `TEMPLATE_PARTS`, → entries, of which the
    first that fits a place counts."""

    model_config = pydantic.ConfigDict(frozen=True)

    root: Annotated[dict[_Name, _Entries], pydantic.Field(min_length=1)]

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a YAML or JSON file; BnasLarqError if it cannot be read, names an unknown operation,
        or holds something else than times."""
        try:
            values = read_yaml(path)
        except (OSError, ValueError) as error:
            raise BnasLarqError(
                "A latency table is a readable YAML or JSON file. "
                f"Received: {path} ({one_line(error)}). Correct search.cost.table."
            ) from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> LatencyTable:
        """The inverse of `to_dict`, which also takes plain numbers; raises as `load` does."""
        try:
            table = cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise _table_error(error.errors()) from error
        if any(entry.milliseconds for entry in table.root.get(ZEROISE, ())):
            raise BnasLarqError(
                "Zeroise takes no time: final networks leave it out. "
                f"Received: a time for {ZEROISE}. Remove it."
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return self.model_dump(mode="json", exclude_none=True)

    def check_holds(self, operations: Iterable[str]) -> None:
        """Raise BnasLarqError unless every operation but Zeroise is in the table."""
        missing = [name for name in operations if name not in self.root and name != ZEROISE]
        if missing:
            raise BnasLarqError(
                "A latency table must hold every candidate of the search space. "
                f"Received: none for {', '.join(missing)}. Measure and add them."
            )

    def milliseconds(self, name: str, place: Place) -> float:
        """Time of an operation; BnasLarqError if the table has no entry that fits."""
        if name not in self.root and name in TEMPLATE_PARTS:
            return 0.0
        for entry in self.root.get(name, ()):
            if entry.fits(place):
                return entry.milliseconds
        raise BnasLarqError(
            "A latency table must cover every place of an operation. "
            f"Received: no entry for {name} that fits {place}. "
            "Add one, or a last entry without a place."
        )


def _table_error(errors: list[Any]) -> BnasLarqError:
    # A misspelt key is often a missing one, too: the misspelling says more.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    keys = [key for key in error["loc"] if isinstance(key, str)]
    received, way_out = one_line(repr(error["input"]))[:80], "Correct the table."
    if error["type"] == "extra_forbidden":
        received = repr(key := keys.pop())
        way_out = nearest(key, Entry.model_fields)
    received += f" for {'.'.join(keys)}" if keys else ""
    return BnasLarqError(
        "A latency table holds milliseconds from 0 up by operation: a number, or a list of entries "
        "with `milliseconds` and any of `stride`, `channels` (whole numbers) and `size` (one or "
        f"[height, width]). Received: {received}; {way_out}"
    )
