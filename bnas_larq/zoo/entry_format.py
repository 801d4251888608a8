"""The format of entry.json: read and checked as data of a stranger.

Names of files stay inside the entry's folder, texts are printable, and unknown keys are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bnas_larq.errors import ZooError, nearest, one_line

FORMAT, VERSION = "bnas-larq-zoo-entry", 1
ENTRY = "entry.json"
#: What every entry holds, as `bnas_larq.networks.network_files.StoredNetwork` reads it.
DESCRIPTION, WEIGHTS = ("network.json", "genotype.json"), "weights.h5"
SOURCES = ("published", "imported")

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
DATASET = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")
_SUM = re.compile(r"[0-9a-f]{64}")
_FILE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_URL = re.compile(r"(https?|file)://[!-~]+")  # printable ASCII: it is shown in messages

_RULES = {
    "name": "of small letters, digits and hyphens",
    "variant": "a variant's name such as 'bnas-d', or null",
    "dataset": "of small letters, digits, hyphens and underscores",
    "genotype": "a genotype's id",
    "source": " or ".join(map(repr, SOURCES)),
    "redistributable": "true or false",
    "license": "one line of printable text",
    "description": "one line of printable text",
    "metrics": "an object whose 'accuracy' is between 0 and 1",
    "cost": "an object",
    "provenance": "an object",
    "files": "an object",
}


def read_entry(folder: Path) -> dict[str, Any]:
    """The values of a folder's entry.json, checked, without `format` and `version`.

    Raises:
        ZooError: no entry, damaged, of another version, an unknown or missing key, an impossible
            value, or a file name that leaves the folder.
    """
    values = _read(folder)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ZooError(
            f'An {ENTRY} must hold a JSON object with "format": "{FORMAT}". '
            f"Received: {folder / ENTRY}. Publish the entry again."
        )
    if values.get("version") != VERSION:
        raise ZooError(
            f"This release reads zoo entries of version {VERSION}. Received: version "
            f"{one_line(values.get('version'))[:40]} in {folder}. "
            "Install the release that wrote it."
        )
    place = str(folder / ENTRY)
    keys = {"format", "version", *_RULES}
    _check_keys(values, keys, keys, place)
    _check_values(values, place)
    for name, facts in values["files"].items():
        _check_file(name, facts, place)
        inside(folder, name)
    return {key: values[key] for key in _RULES}


def claims_to_be_entry(folder: Path) -> bool:
    """Whether a folder's entry.json is one of this package, damaged in other ways or not."""
    try:
        return f'"{FORMAT}"' in (folder / ENTRY).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def check_name(name: str) -> None:
    """ZooError unless `name` may be an entry's."""
    if not _matches(NAME, name):
        raise ZooError(
            f"A zoo entry's name must be {_RULES['name']}. Received: {name!r}. "
            "Use for example bnasd-cifar10-small."
        )


def check_url(url: str) -> None:
    """ZooError unless files may be downloaded from `url`."""
    if not _matches(_URL, url):
        raise ZooError(
            "Files come from an http, https or file `url` of plain ASCII without spaces. "
            f"Received: {url!r}. Correct it."
        )


def is_share(value: Any) -> bool:
    """Whether it is a number between 0 and 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, unless a link leads out of the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ZooError(
            "A zoo entry's files must lie inside its folder. "
            f"Received: {path}, a link that leads out of it. Do not use this entry."
        )
    return path


def _read(folder: Path) -> Any:
    try:
        return json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ZooError(
            f"A zoo entry is a folder with {ENTRY}. Received: {folder} without it. "
            "See `bnas-larq zoo list`."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(
            f"A zoo entry's {ENTRY} must be readable JSON. "
            f"Received: {folder / ENTRY} ({one_line(error)[:120]}). Publish the entry again."
        ) from error


def _check_keys(
    values: Mapping[str, Any], known: Collection[str], needed: Collection[str], place: str
) -> None:
    for key in values:
        if key not in known:
            raise ZooError(
                f"A zoo entry has fixed keys. Received: {one_line(key)[:40]!r} in {place}; "
                f"{nearest(key, known)}"
            )
    for key in sorted(needed):
        if key not in values:
            raise ZooError(
                f"A zoo entry needs every key. Received: no {key!r} in {place}. "
                "Publish the entry again."
            )


def _check_values(values: Mapping[str, Any], place: str) -> None:
    checks = {
        "name": _matches(NAME, values["name"]),
        "variant": values["variant"] is None or _matches(NAME, values["variant"]),
        "dataset": _matches(DATASET, values["dataset"]),
        "genotype": isinstance(values["genotype"], str),
        "source": values["source"] in SOURCES,
        "redistributable": isinstance(values["redistributable"], bool),
        # Shown in terminals: control characters could rewrite what stands there.
        "license": isinstance(values["license"], str) and values["license"].isprintable(),
        "description": isinstance(values["description"], str)
        and values["description"].isprintable(),
        "metrics": _is_mapping(values["metrics"])
        and (values["metrics"].get("accuracy") is None or is_share(values["metrics"]["accuracy"])),
        "cost": _is_mapping(values["cost"]),
        "provenance": _is_mapping(values["provenance"]),
        "files": _is_mapping(values["files"]),
    }
    for key, sound in checks.items():
        if not sound:
            raise ZooError(
                f"A zoo entry's {key!r} must be {_RULES[key]}. "
                f"Received: {one_line(repr(values[key]))[:80]} in {place}. "
                "Correct it or publish the entry again."
            )
    for name in (*DESCRIPTION, WEIGHTS):
        if name not in values["files"]:
            raise ZooError(
                f"A zoo entry lists {', '.join(DESCRIPTION)} and {WEIGHTS} with their sums. "
                f"Received: no {name} in {place}. Publish the entry again."
            )


def _check_file(name: str, facts: Any, place: str) -> None:
    """Name and facts of one file; the name as POSIX path below the entry's folder."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and all(map(_FILE_PART.fullmatch, parts)) and "/".join(parts) == name
    if not plain or name == ENTRY:
        raise ZooError(
            "A zoo entry's files must lie inside its folder, under plain names. "
            f"Received: {one_line(name)[:80]!r} in {place}. Do not use this entry."
        )
    if not _is_mapping(facts):
        facts = {}
    _check_keys(facts, {"sha256", "bytes", "url"}, {"sha256", "bytes"}, f"{place}, file {name}")
    size, url = facts["bytes"], facts.get("url")
    sound = _matches(_SUM, facts["sha256"]) and type(size) is int and size >= 0
    if not sound or not ("url" not in facts or _matches(_URL, url)):
        raise ZooError(
            "A zoo entry's file has 64 hexadecimal digits as `sha256`, a size as `bytes` and, if "
            f"it is downloaded, an http, https or file `url`. Received: {name} in {place}. "
            "Publish the entry again."
        )
    if "url" in facts and name in DESCRIPTION:
        raise ZooError(
            f"A zoo entry brings its description along. Received: a url for {name} in {place}. "
            "Download weights only."
        )


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)
