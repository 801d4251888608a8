"""Small pieces of HTML. Everything that comes from outside is escaped here, and only here."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root {
  --ink: #1f2933; --soft: #52606d; --line: #d9e2ec; --paper: #ffffff; --tint: #f5f7fa;
  --accent: #2f6db3;
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--tint); color: var(--ink); }
body { font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 12px; }
.lead { color: var(--soft); margin: 0 0 20px; }
section, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
section { padding: 18px 20px; margin: 0 0 18px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 18px; }
.card { padding: 12px 18px; min-width: 150px; }
.card b { display: block; font-size: 24px; color: var(--accent); }
.card span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 3px 14px 3px 0; }
th, td { border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: var(--tint); padding: 12px; border-radius: 6px; overflow-x: auto; }
pre { font-size: 12.5px; margin: 0; }
img { max-width: 100%; height: auto; display: block; margin: 6px 0; }
details { margin: 12px 0 0; }
summary { cursor: pointer; color: var(--accent); }
.note { color: #a3541a; margin: 6px 0; }
"""

_MIME = {".png": "image/png", ".svg": "image/svg+xml"}


def text(value: object) -> str:
    """Escaped text."""
    return html.escape(str(value), quote=True)


def number(key: str, value: object) -> str:
    """A value as people read it, by its key's name: accuracies in percent, durations, bytes."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    last = key.rsplit(".", 1)[-1]
    if ("accuracy" in last or last in ("top1", "top5", "equal_predictions")) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if "seconds" in last:
        return duration(value)
    if last == "bytes" or last.endswith("_bytes"):
        return f"{value:,.0f} ({size(value)})"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min {int(seconds % 60)} s" if hours == 0 else f"{hours} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in the largest decimal unit."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level of dotted keys; lists of plain values become one text, other
    lists a count."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, (list, tuple)):
            plain = all(not isinstance(item, (Mapping, list, tuple)) for item in value)
            flat[name] = ", ".join(map(str, value)) if plain else f"{len(value)} entries"
        else:
            flat[name] = value
    return flat


def pairs(values: Mapping[str, Any]) -> str:
    """A table of keys and values."""
    rows = "".join(
        f"<tr><th>{text(key.replace('_', ' '))}</th><td>{text(number(key, value))}</td></tr>"
        for key, value in flatten(values).items()
    )
    return f'<div class="scroll"><table>{rows}</table></div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header; numbers are set to the right."""
    rows = [list(row) for row in rows]
    right = [
        any(isinstance(row[i], (int, float)) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]
    mark = [' class="number"' if number_column else "" for number_column in right]
    head = "".join(f"<th{m}>{text(column)}</th>" for m, column in zip(mark, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{m}>{text(number(column, value))}</td>"
            for m, column, value in zip(mark, columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def folded(summary: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def card(figure: str, caption: str) -> str:
    """One figure in large type."""
    return f'<div class="card"><b>{text(figure)}</b><span>{text(caption)}</span></div>'


def picture(path: Path, description: str) -> str:
    """A PNG or SVG file inside the page, or nothing if it is absent."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{text(description)}" src="data:{_MIME[path.suffix]};base64,{data}">'


def section(title: str, *parts: str) -> str:
    """A headed part of the page, or nothing when it is empty."""
    content = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{content}</section>\n" if content else ""


def page(title: str, body: str) -> str:
    """The whole page; the policy forbids it to load anything or to run scripts."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}</main></body></html>\n"
    )
