"""The format of entry.json, validated as a stranger's data.

File names stay inside the entry's folder, texts are printable, and unknown keys are refused.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import pydantic
import pydantic_core

from bnas_larq.errors import ZooError
from bnas_larq.files import read_model
from bnas_larq.text_files import read_bytes

FORMAT, VERSION = "bnas-larq-zoo-entry", 1
ENTRY = "entry.json"
#: What an entry holds, as `bnas_larq.networks.network_files.StoredNetwork` reads it; the genotype
#: only of a network of cells.
NETWORK, GENOTYPE, WEIGHTS = "network.json", "genotype.json", "weights.h5"

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
DATASET = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_URL = re.compile(r"(https?|file)://[!-~]+")  # printable ASCII: it is shown in messages
_NAME_RULE = "of small letters, digits and hyphens"
_LINE_RULE = "one line of printable text"
_URL_RULE = "an http, https or file URL of plain ASCII without spaces"


def is_share(value: Any) -> bool:
    """Whether `value` is a number between 0 and 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _field(description: str, pattern: re.Pattern[str] | None = None, **rules: Any) -> Any:
    """A required field; its description completes "… must be" in messages."""
    anchored = {} if pattern is None else {"pattern": f"^{pattern.pattern}$"}
    return pydantic.Field(description=description, **anchored, **rules)


def _require(condition: bool) -> None:
    """Refuse a value with its field's description as the rule."""
    if not condition:
        raise pydantic_core.PydanticCustomError("rule", "as described")


def _plain(name: str) -> str:
    """A POSIX path below the entry's folder, of parts without dots in front."""
    parts = PurePosixPath(name).parts
    _require(bool(parts) and "/".join(parts) == name != ENTRY)
    _require(all(map(_FILE_PART.fullmatch, parts)))
    return name


def _printable(text: str) -> str:
    """Text for terminals, where control characters could overwrite what is there."""
    _require(text.isprintable())
    return text


_Line = Annotated[str, pydantic.AfterValidator(_printable)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class EntryFile(_Strict):
    """Size and sum of one file; `url` if it is downloaded when it is first needed."""

    sha256: str = _field("64 hexadecimal digits", re.compile("[0-9a-f]{64}"))
    bytes: int = _field("a size in bytes", ge=0)
    url: str = _field(_URL_RULE, _URL, default="")


class EntryDescription(_Strict):
    """All of entry.json; the keys are those of `bnas_larq.zoo.Entry`."""

    format: str
    version: int
    name: str = _field(_NAME_RULE, NAME)
    variant: str | None = _field("a variant's name such as 'bnas-d', or null", NAME)
    dataset: str = _field("of small letters, digits, hyphens and underscores", DATASET)
    genotype: str | None = _field("a genotype's id, or null for a network without cells")
    source: Literal["published", "imported"] = _field("'published' or 'imported'")
    redistributable: bool = _field("true or false")
    license: _Line = _field(_LINE_RULE)
    description: _Line = _field(_LINE_RULE)
    metrics: dict[str, Any] = _field("an object whose 'accuracy' is between 0 and 1")
    cost: dict[str, Any] = _field("an object")
    deployed: dict[str, Any] = pydantic.Field(default={}, description="an object")
    provenance: dict[str, Any] = _field("an object")
    files: dict[Annotated[str, pydantic.AfterValidator(_plain)], EntryFile] = _field(
        "an object: files inside its folder, under plain names"
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_this_format(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f'a JSON object with "format": "{FORMAT}"')
        if values.get("version") != VERSION:
            version = repr(values.get("version"))[:40]
            raise ValueError(f"of version {VERSION}, which this release reads, not {version}")
        return values

    @pydantic.field_validator("genotype")
    @classmethod
    def _variants_have_one(cls, genotype: str | None, info: pydantic.ValidationInfo) -> str | None:
        if genotype is None and info.data.get("variant") is not None:
            raise ValueError("a genotype's id, because variants are made of cells")
        return genotype

    @pydantic.field_validator("metrics")
    @classmethod
    def _accuracy_is_a_share(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        _require(metrics.get("accuracy") is None or is_share(metrics["accuracy"]))
        return metrics

    @pydantic.field_validator("files")
    @classmethod
    def _describes_a_network(
        cls, files: dict[str, EntryFile], info: pydantic.ValidationInfo
    ) -> dict[str, EntryFile]:
        for name in (NETWORK, GENOTYPE, WEIGHTS):
            if name == GENOTYPE and info.data.get("genotype") is None:
                continue
            if name not in files:
                raise ValueError(f"an object that lists {name}")
            if files[name].url and name != WEIGHTS:
                raise ValueError(f"an object whose {name} has no url: it is never downloaded")
        return files


def read_entry(folder: Path) -> dict[str, Any]:
    """The values of a folder's entry.json without `format` and `version`; ZooError as of
    `Entry.load`."""
    if not (folder / ENTRY).exists():
        raise ZooError(
            f"A zoo entry is a folder with {ENTRY}. Received: {folder} without it. "
            "See `bnas-larq zoo list`."
        )
    described = read_model(
        folder / ENTRY,
        EntryDescription,
        EntryFile,
        subject="A zoo entry",
        remedy="Do not use this entry, or publish it again.",
        error=ZooError,
    )
    for name in described.files:
        inside(folder, name)
    return described.model_dump(exclude={"format", "version"}, exclude_unset=True)


def claims_to_be_entry(folder: Path) -> bool:
    """Whether a folder's entry.json is one of this package, damaged in other ways or not."""
    try:
        return f'"{FORMAT}"'.encode() in read_bytes(folder / ENTRY)
    except (OSError, ValueError):
        return False


def check_name(name: str) -> None:
    """ZooError unless `name` may be an entry's."""
    if not NAME.fullmatch(name):
        raise ZooError(
            f"A zoo entry's name must be {_NAME_RULE}. Received: {name!r}. "
            "Use for example bnasd-cifar10-small."
        )


def check_url(url: str) -> None:
    """ZooError unless files may be downloaded from `url`."""
    if not _URL.fullmatch(url):
        raise ZooError(f"Files come from {_URL_RULE}. Received: {url!r}. Correct it.")


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, unless a link leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ZooError(
            "A zoo entry's files must lie inside its folder. "
            f"Received: {path}, a link that leads out of it. Do not use this entry."
        )
    return path
