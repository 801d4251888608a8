"""The findings of `lint` as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnas_larq.export.lint import Lint, LintedLayer
from bnas_larq.tables import align


def lint_text(lint: Lint) -> str:
    """All findings, in paragraphs."""
    parts = (_blockers, _precision, _outside, _packing, _constants, _dead)
    return "\n\n".join(filter(None, ("\n".join(part(lint)) for part in parts)))


def _blockers(lint: Lint) -> Iterator[str]:
    if lint.blockers:
        yield "Cannot be converted as it is:"
        yield from (f"  {sentence}" for sentence in lint.blockers)


def _precision(lint: Lint) -> Iterator[str]:
    convolutions = [layer for layer in lint.convolutions if layer.kind != "dense"]
    yield f"{_products(lint.binary)} of {_products(convolutions)} convolutions will be 1-bit."
    if grouped := [layer.name for layer in lint.binary if layer.groups > 1]:
        yield (
            "With groups, which only Larq Compute Engine's indirect kernels run "
            f"(use_indirect_bgemm): {', '.join(grouped)}."
        )
    if lint.not_binary:
        yield "Not 1-bit:"
        yield from _columns(
            [(layer.name, layer.kind, layer.cause, layer.reason) for layer in lint.not_binary]
        )


def _outside(lint: Lint) -> Iterator[str]:
    yield (
        f"Outside 1-bit convolutions: {lint.outside_ops:.4g} of {lint.ops:.4g} OPs "
        f"({_share(lint.outside_ops, lint.ops)}), {lint.outside_bytes:,} of {lint.bytes:,} bytes "
        f"({_share(lint.outside_bytes, lint.bytes)})."
    )
    yield "OPs: full-precision MACs + 1-bit MACs / 64. Bytes: weights and constants of the file."
    smaller = [f"{size:,} with {name}" for name, size in lint.bytes_by_storage.items()][1:]
    yield f"Full-precision kernels stored as float32: {lint.bytes:,} bytes; {', '.join(smaller)}."
    if lint.peak_activation_bytes is not None:
        yield f"Activations: {lint.peak_activation_bytes:,} bytes at most at one time."
    lost = sum(layer.ops for layer in lint.not_binary if layer.meant and layer.cause != "design")
    if lost:
        yield (
            f"As meant, the network has {lint.planned_ops:.4g} OPs; {lost:.4g} of the file's are "
            "convolutions that were meant to be 1-bit."
        )
    rows = [
        (layer.name, f"{layer.ops:.4g} OPs", f"{layer.bytes:,} bytes")
        for layer in sorted(lint.not_binary, key=lambda layer: (-layer.ops, -layer.bytes))
    ]
    kinds: dict[str, list[LintedLayer]] = {}
    for layer in lint.layers:
        if not layer.binary and not layer.cause:
            kinds.setdefault(layer.kind, []).append(layer)
    rows += [
        (f"{len(layers)} × {kind}", "", f"{sum(layer.bytes for layer in layers):,} bytes")
        for kind, layers in kinds.items()
    ]
    if lint.constants:
        total = sum(lint.constants.values())
        rows.append((f"{len(lint.constants)} × constant", "", f"{total:,} bytes"))
    yield from _columns(rows)


def _packing(lint: Lint) -> Iterator[str]:
    wasteful: dict[int, list[LintedLayer]] = {}
    for layer in lint.binary:
        if layer.wasted_bits:
            wasteful.setdefault(layer.channels, []).append(layer)
    if not wasteful:
        return
    yield "Partly filled words of 32 input channels:"
    rows = []
    for channels, layers in sorted(wasteful.items()):
        wasted, stored = layers[0].wasted_bits, sum(layer.bytes for layer in layers)
        unused = f"{wasted} of {wasted + channels} bits unused"
        number = f"{_products(layers)} × convolution, {stored:,} bytes"
        rows.append((f"{channels} channels", unused, number))
    yield from _columns(rows)
    yield "A multiple of 32 channels would cost the device no more memory or time."


def _constants(lint: Lint) -> Iterator[str]:
    if lint.constants:
        yield "Stored, but the same for every image:"
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


def _products(layers: Sequence[LintedLayer]) -> int:
    """How many convolutions of the file the layers become."""
    return sum(layer.products for layer in layers)


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as indented, aligned lines."""
    return (f"  {line}" for line in (align(rows, left=len(rows[0])) if rows else ()))
