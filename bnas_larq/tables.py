"""Figures as text: aligned tables, and numbers of operations as papers print them."""

from __future__ import annotations

from collections.abc import Sequence


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


def scientific(number: float) -> str:
    """Four digits: `1.476e8` for 147588096."""
    digits, _, exponent = f"{number:.3e}".partition("e")
    return f"{digits}e{int(exponent)}"
