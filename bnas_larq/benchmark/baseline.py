"""An earlier measurement, with which others are compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.errors import BnasLarqError, one_line
from bnas_larq.text_files import read_text

#: Settings that may differ between measurements that are compared.
_FREE = ("steps", "genotype")


def read_baseline(path: Path) -> list[dict[str, Any]]:
    """The records of a file that `--output` wrote; BnasLarqError if it is none."""
    try:
        records = json.loads(read_text(path))
        for record in records:
            _facts(record)
            _key(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BnasLarqError(
            "An earlier measurement is a file that `--output` wrote. "
            f"Received: {path} ({one_line(error)}). Measure again with --output."
        ) from error
    return records


def compare(
    records: Sequence[dict[str, Any]], baseline: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The records, each with the key `against`: of the last earlier one with equal settings its
    `median_seconds`, `ratio` to its floor, `cpu`, whether this is the `same_cpu`, and the
    `speedup` since; or None if there is none."""
    earlier = {_key(record): record for record in baseline}
    results = []
    for record in records:
        found = earlier.get(_key(record))
        against = found and _facts(found)
        if against:
            seconds = record["step"]["median_seconds"]
            against |= {
                "speedup": against["median_seconds"] / seconds,
                "same_cpu": against["cpu"] == record["machine"]["cpu"],
            }
        results.append({**record, "against": against})
    return results


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "median_seconds": float(record["step"]["median_seconds"]),
        "ratio": float(record["ratio"]["median"]),
        "cpu": str(record["machine"]["cpu"]),
    }


def _key(record: Mapping[str, Any]) -> str:
    settings = {key: value for key, value in record["settings"].items() if key not in _FREE}
    return repr((record["benchmark"], sorted(settings.items())))
