"""Peak activation memory."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence


def peak_bytes(
    steps: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]],
    sizes: Mapping[Hashable, int],
    *,
    inputs: Collection[Hashable],
    outputs: Collection[Hashable],
) -> int:
    """Largest sum of sizes alive at one time.

    Args:
        steps: (tensors read, tensors written) of each operation, in order of execution.
        sizes: of the tensors, in bytes.
        inputs, outputs: of the network; they stay alive from when they are there to the end.

    Example:
        >>> steps = [(["image"], ["a"]), (["a"], ["b"]), (["a", "b"], ["sum"])]
        >>> peak_bytes(steps, {"image": 3, "a": 8, "b": 8, "sum": 8}, inputs=["image"], outputs=[])
        27
    """
    last = {tensor: index for index, sides in enumerate(steps) for side in sides for tensor in side}
    last |= dict.fromkeys((*inputs, *outputs), len(steps))
    alive, peak = set(inputs), sum(sizes[tensor] for tensor in inputs)
    for index, (_, written) in enumerate(steps):
        alive.update(written)
        peak = max(peak, sum(sizes[tensor] for tensor in alive))
        alive = {tensor for tensor in alive if last[tensor] > index}
    return peak
