"""Lint's findings as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnas_larq.export.lint import Lint, LintedLayer


def lint_text(lint: Lint) -> str:
    """All that `lint` found, in paragraphs."""
    parts = [
        _blockers(lint),
        _precision(lint),
        _outside(lint),
        _packing(lint),
        _constants(lint),
        _dead(lint),
    ]
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines)


def _blockers(lint: Lint) -> Iterator[str]:
    if lint.blockers:
        yield "Cannot be converted as it is:"
        yield from (f"  {sentence}" for sentence in lint.blockers)


def _precision(lint: Lint) -> Iterator[str]:
    convolutions = [layer for layer in lint.convolutions if layer.kind != "dense"]
    yield f"{len(lint.binary)} of {len(convolutions)} convolutions will be 1-bit."
    if not lint.not_binary:
        return
    yield "Not 1-bit:"
    yield from _columns(
        [(layer.name, layer.kind, layer.cause, layer.reason) for layer in lint.not_binary]
    )


def _outside(lint: Lint) -> Iterator[str]:
    outside = [layer for layer in lint.layers if not layer.binary]
    yield (
        f"Outside 1-bit convolutions: {lint.outside_ops:.4g} of {lint.ops:.4g} OPs "
        f"({_share(lint.outside_ops, lint.ops)}), {lint.outside_bytes:,} of {lint.bytes:,} bytes "
        f"({_share(lint.outside_bytes, lint.bytes)})."
    )
    yield "OPs: full-precision MACs + 1-bit MACs / 64. Bytes: weights and constants of the file."
    lost = sum(layer.ops for layer in lint.not_binary if layer.meant)
    if lost:
        yield (
            f"As the network is meant it would be {lint.planned_ops:.4g} OPs: {lost:.4g} are spent "
            "on convolutions that were meant to be 1-bit."
        )
    rows = [
        (layer.name, f"{layer.ops:.4g} OPs", f"{layer.bytes:,} bytes")
        for layer in sorted(outside, key=lambda layer: (-layer.ops, -layer.bytes))
        if layer.cause
    ]
    rows += [
        (f"{len(group)} × {kind}", "", f"{sum(layer.bytes for layer in group):,} bytes")
        for kind, group in _by_kind(outside).items()
    ]
    if lint.constants:
        total = sum(lint.constants.values())
        rows.append((f"{len(lint.constants)} × constant", "", f"{total:,} bytes"))
    yield from _columns(rows)


def _by_kind(layers: Sequence[LintedLayer]) -> dict[str, list[LintedLayer]]:
    groups: dict[str, list[LintedLayer]] = {}
    for layer in layers:
        if not layer.cause:
            groups.setdefault(layer.kind, []).append(layer)
    return groups


def _packing(lint: Lint) -> Iterator[str]:
    wasteful: dict[int, list[LintedLayer]] = {}
    for layer in lint.binary:
        if layer.wasted_bits:
            wasteful.setdefault(layer.channels, []).append(layer)
    if not wasteful:
        return
    yield "Packed words of 32 input channels that are not full:"
    yield from _columns(
        [
            (
                f"{channels} channels",
                f"{layers[0].wasted_bits} of {layers[0].wasted_bits + channels} bits unused",
                f"{len(layers)} × convolution, {sum(layer.bytes for layer in layers):,} bytes",
            )
            for channels, layers in sorted(wasteful.items())
        ]
    )
    yield "A multiple of 32 channels costs the device no more memory or time for them."


def _constants(lint: Lint) -> Iterator[str]:
    if lint.constants:
        yield "Stored although the same for every image:"
        yield from _columns([(name, f"{size:,} bytes") for name, size in lint.constants.items()])


def _dead(lint: Lint) -> Iterator[str]:
    if not lint.dead:
        return
    sentences = [sentence for dead in lint.dead for sentence in dead.sentences()]
    zeroise = ", ".join(
        f"{dead.zeroise} of {dead.edges} edges of the {dead.cell} cell" for dead in lint.dead
    )
    yield f"Zeroise: {zeroise}." + ("" if sentences else " No dead branches.")
    yield from (f"  {sentence}" for sentence in sentences)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows, indented, with all columns but the last of equal width."""
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  " + "  ".join([*cells, row[-1]]).rstrip()
