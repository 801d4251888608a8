"""Measurements as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnas_larq.tables import align

#: Types of operations shown in a profile; the JSON output has all.
SHOWN = 12


def measurement_text(record: Mapping[str, Any]) -> str:
    """One measurement, line by line."""
    first, step, ratio = record["first_step"], record["step"], record["ratio"]
    machine, memory, precision = record["machine"], record["memory"], record["precision"]
    settings, macs = record["settings"], record["arithmetic"]["macs_per_image"]
    title = (
        f"{record['benchmark']}: {settings.get('target') or settings['space']}, "
        f"{settings['size']}, batch "
        f"{settings['batch_size']}, {'×'.join(map(str, settings['input_shape']))}, "
        f"{settings['num_classes']} classes, {precision['name']}, data {settings['data']}"
    )
    rates = (
        f"{dtype} unknown" if rate is None else f"{dtype} {rate / 1e9:.0f} GFLOP/s"
        for dtype, rate in record["matmul"].items()
    )
    floors = (
        f"{_seconds(floor)} at the {dtype} rate"
        for dtype, floor in record["floors"].items()
        if floor
    )
    known = f" ({', '.join(machine['instructions'])})" if machine["instructions"] else ""
    rows = [
        ("machine", f"{machine['cpu']}{known}, {machine['cores']} cores"),
        ("matrix products", ", ".join(rates)),
        ("precision", f"{precision['name']}: {precision['reason']}"),
        (
            "arithmetic",
            f"{_teraflop(record)} TFLOP ({len(macs)} passes, "
            f"{sum(macs.values()) / 1e9:.3g} GMAC per image)",
        ),
        ("floor", ", ".join(floors)),
        (
            "step",
            f"{_seconds(step['median_seconds'])} (median of {len(step['seconds'])}; "
            f"best {_seconds(step['best_seconds'])})",
        ),
        (
            "ratio",
            f"{ratio['median']:.2f} × the {precision['name']} floor (best {ratio['best']:.2f})",
        ),
        (
            "first step",
            f"{_seconds(first['total_seconds'])}: {_seconds(first['build_seconds'])} building, "
            f"{_seconds(first['trace_seconds'])} tracing, "
            f"{_seconds(first['compile_and_run_seconds'])} compiling and computing it",
        ),
        (
            "memory",
            f"{_gigabytes(memory['peak_bytes'])} at its peak, "
            f"{_gigabytes(memory['before_bytes'])} before the model",
        ),
        ("waiting for data", f"{record['waiting']['share']:.2%} of the time"),
    ]
    if inference := record.get("inference"):
        evaluation = inference["evaluation_seconds"]
        rows.append(
            (
                "evaluation",
                f"{_seconds(evaluation)} a batch, {evaluation / inference['floor_seconds']:.2f} × "
                f"its float32 floor; BatchNorm estimated again: "
                f"{_seconds(inference['reestimation_seconds'])} a batch",
            )
        )
    lines = [title, *align(rows, left=2)]
    if profile := record.get("profile"):
        lines += [
            "",
            f"profile of a step of {_seconds(profile['seconds'])}: operations took "
            f"{_seconds(profile['operation_seconds'])}, summed over threads",
            *_profile_table("kind", profile["kinds"]),
            "",
            *_profile_table("type", profile["operations"][:SHOWN]),
        ]
    return "\n".join(lines)


def table_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Measurements side by side, one line each."""
    header = ("cells", "channels", "batch", "precision", "TFLOP", "floor", "step", "ratio")
    rows = [(*header, "ms/cell/image", "first step", "memory", "waiting")]
    for record in records:
        settings, step = record["settings"], record["step"]["median_seconds"]
        rows.append(
            (
                str(settings["cells"] or "–"),
                str(settings["channels"] or "–"),
                str(settings["batch_size"]),
                record["precision"]["name"],
                _teraflop(record),
                _seconds(record["floor_seconds"]),
                _seconds(step),
                f"{record['ratio']['median']:.2f}",
                _per_cell(step, settings),
                _seconds(record["first_step"]["total_seconds"]),
                _gigabytes(record["memory"]["peak_bytes"]),
                f"{record['waiting']['share']:.2%}",
            )
        )
    rates = "; ".join(
        f"{dtype} {_rate_range([record['matmul'][dtype] for record in records])} GFLOP/s"
        for dtype in records[0]["matmul"]
    )
    lines = align(rows, left=0)
    return "\n".join([*lines, "", f"matrix products: {rates}; each line in a process of its own"])


def against_text(records: Sequence[Mapping[str, Any]]) -> str:
    """A line for each measurement that was compared with an earlier one."""
    rows = [("measured", "step", "earlier", "faster", "× floor", "earlier", "CPU")]
    for record in records:
        earlier, settings = record["against"], record["settings"]
        if earlier is None:
            rows.append((_name(settings), *("–",) * 5, "not measured earlier"))
            continue
        rows.append(
            (
                _name(settings),
                _seconds(record["step"]["median_seconds"]),
                _seconds(earlier["median_seconds"]),
                f"{earlier['speedup']:.2f}",
                f"{record['ratio']['median']:.2f}",
                f"{earlier['ratio']:.2f}",
                "the same" if earlier["same_cpu"] else f"earlier {earlier['cpu']}",
            )
        )
    return "\n".join(align(rows, left=1))


def _name(settings: Mapping[str, Any]) -> str:
    what = settings.get("target") or settings["space"]
    return (
        f"{what}, {settings['size']}, batch {settings['batch_size']}, {settings['mixed_precision']}"
    )


def _per_cell(seconds: float, settings: Mapping[str, Any]) -> str:
    """Milliseconds for each cell and image, of a network that is made of cells."""
    if not settings["cells"]:
        return "–"
    return f"{seconds / settings['cells'] / settings['batch_size'] * 1e3:.2f}"


def _rate_range(rates: Sequence[float | None]) -> str:
    known = [rate for rate in rates if rate]
    ends = (f"{rate / 1e9:.0f}" for rate in (min(known), max(known))) if known else ["unknown"]
    return " to ".join(dict.fromkeys(ends))


def _profile_table(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [
        (row["name"], f"{row['share']:.1%}", _seconds(row["seconds"]), f"{row['calls']:.0f}")
        for row in rows
    ]
    return align([(title, "share", "seconds", "calls"), *cells], left=1)


def _seconds(value: float) -> str:
    """Three digits: `6.31 s`, `21.4 ms`."""
    if value < 0.1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _teraflop(record: Mapping[str, Any]) -> str:
    return f"{record['arithmetic']['flops'] / 1e12:.3g}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
