"""Measurements as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnas_larq.tables import align

#: Types of operations shown in a profile; the JSON output has all.
SHOWN = 12


def measurement_text(record: Mapping[str, Any]) -> str:
    """One measurement, line by line."""
    first, step, ratio = record["first_step"], record["step"], record["ratio"]
    machine, waiting = record["machine"], record["waiting"]
    rows = [
        ("machine", f"{machine['cpu']}, {machine['cores']} cores"),
        ("matrix products", _rates(record["matmul"])),
        ("precision", f"{record['precision']['name']}: {record['precision']['reason']}"),
        ("arithmetic", f"{_tera(record)} TFLOP ({_passes(record)})"),
        ("floor", f"{seconds(record['floor_seconds'])} at the {precision(record)} rate"),
        (
            "step",
            f"{seconds(step['median_seconds'])} (median of {len(step['seconds'])}; "
            f"best {seconds(step['best_seconds'])})",
        ),
        ("ratio", f"{ratio['median']:.2f} × floor (best {ratio['best']:.2f})"),
        (
            "first step",
            f"{seconds(first['total_seconds'])}: {seconds(first['build_seconds'])} building, "
            f"{seconds(first['trace_seconds'])} tracing, "
            f"{seconds(first['compile_and_run_seconds'])} compiling and computing it",
        ),
        (
            "memory",
            f"{_giga(record['memory']['peak_bytes'])} at its peak, "
            f"{_giga(record['memory']['before_bytes'])} before the model",
        ),
        ("waiting for data", f"{waiting['share']:.2%} of the time"),
    ]
    width = max(len(label) for label, _ in rows)
    lines = [_title(record), *(f"{label.ljust(width)}  {text}" for label, text in rows)]
    if "profile" in record:
        lines += ["", *_profile(record["profile"])]
    return "\n".join(lines)


def table_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Measurements side by side, one line each."""
    header = ("cells", "channels", "batch", "precision", "TFLOP", "floor", "step", "ratio")
    header += ("ms/cell/image", "first step", "memory", "waiting")
    rows = []
    for record in records:
        settings, step = record["settings"], record["step"]["median_seconds"]
        each = step / settings["cells"] / settings["batch_size"]
        rows.append(
            (
                str(settings["cells"]),
                str(settings["channels"]),
                str(settings["batch_size"]),
                precision(record),
                _tera(record),
                seconds(record["floor_seconds"]),
                seconds(step),
                f"{record['ratio']['median']:.2f}",
                f"{each * 1e3:.2f}",
                seconds(record["first_step"]["total_seconds"]),
                _giga(record["memory"]["peak_bytes"]),
                f"{record['waiting']['share']:.2%}",
            )
        )
    lines = align([header, *rows], left=0)
    rates = "; ".join(
        f"{dtype} {_spread([record['matmul'][dtype] for record in records])} GFLOP/s"
        for dtype in records[0]["matmul"]
    )
    return "\n".join([*lines, "", f"matrix products: {rates}; each line in a process of its own"])


def precision(record: Mapping[str, Any]) -> str:
    """The type a step was measured in."""
    return record["precision"]["name"]


def seconds(value: float) -> str:
    """Seconds with three digits: `6.31 s`, `21.4 ms`."""
    if value < 0.1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _title(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    what = settings.get("target") or settings["space"]
    size = "×".join(map(str, settings["input_shape"]))
    return (
        f"{record['benchmark']}: {what}, {settings['cells']} cells, {settings['channels']} "
        f"channels, batch {settings['batch_size']}, {size}, {settings['num_classes']} classes, "
        f"{precision(record)}, data {settings['data']}"
    )


def _rates(matmul: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{dtype} unknown" if rate is None else f"{dtype} {rate / 1e9:.0f} GFLOP/s"
        for dtype, rate in matmul.items()
    )


def _spread(rates: Sequence[float | None]) -> str:
    known = [
        f"{rate / 1e9:.0f}"
        for rate in (min(filter(None, rates), default=None), max(filter(None, rates), default=None))
        if rate
    ]
    return " to ".join(dict.fromkeys(known)) or "unknown"


def _passes(record: Mapping[str, Any]) -> str:
    macs = record["arithmetic"]["macs_per_image"]
    return f"{len(macs)} passes, {sum(macs.values()) / 1e9:.3g} GMAC for each image"


def _tera(record: Mapping[str, Any]) -> str:
    return f"{record['arithmetic']['flops'] / 1e12:.3g}"


def _giga(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _profile(profile: Mapping[str, Any]) -> list[str]:
    def table(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        cells = [
            (row["name"], f"{row['share']:.1%}", seconds(row["seconds"]), f"{row['calls']:.0f}")
            for row in rows
        ]
        return align([(title, "share", "seconds", "calls"), *cells], left=1)

    return [
        f"profile of a step of {seconds(profile['seconds'])}: operations took "
        f"{seconds(profile['operation_seconds'])}, summed over threads",
        *table("kind", profile["kinds"]),
        "",
        *table("type", profile["operations"][:SHOWN]),
    ]
