"""Alarms of a search, from the file that `bnas_larq.search.alarms` writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def alarm_epochs(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Epochs, counted from 1, in which an alarm was raised.

    Args:
        rows: of `search/alarms.jsonl`.

    Returns:
        Name of the alarm → epochs in their order.
    """
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        for name in row.get("alarms") or ():
            found.setdefault(name, []).append(row.get("epoch", number) + 1)
    return found


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers as people write them: `3–7, 12`."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
