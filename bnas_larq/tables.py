"""Figures as text: aligned tables and CSV, operations, durations, sizes and shares."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as lines, whatever the terminal's width: `left` columns flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV; None is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def scientific(number: float) -> str:
    """Four digits: `1.476e8` for 147588096."""
    digits, _, exponent = f"{number:.3e}".partition("e")
    return f"{digits}e{int(exponent)}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units: 90 is `1 min 30 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min {int(seconds % 60)} s" if hours == 0 else f"{hours} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in the largest decimal unit: 1500 is `1.5 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def number_text(key: str, value: object) -> str:
    """A value in the unit that the last part of its dotted key tells: accuracies in percent,
    durations, bytes; other values as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    name = key.rsplit(".", 1)[-1]
    if ("accuracy" in name or name in ("top1", "top5", "equal_predictions")) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if "seconds" in name:
        return duration(value)
    if name == "bytes" or name.endswith("_bytes"):
        return f"{value:,.0f} ({size(value)})"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}"
