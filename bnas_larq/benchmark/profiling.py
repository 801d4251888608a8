"""Where the time of a step goes, by kind of operation: TensorFlow's own trace of it, read without
TensorBoard.

The trace knows each operation's time on the thread that ran it. Operations run beside each other
and lend each other threads, so that their sum is more than the step's time; shares are of the sum.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import tf, xplane_protocol

CONVOLUTIONS = "convolutions, forward"
INPUT_GRADIENTS = "convolutions, input gradients"
KERNEL_GRADIENTS = "convolutions, kernel gradients"
BATCH_NORM = "BatchNorm and its gradients"
POOLING = "pooling and its gradients"
OPTIMIZER = "optimizer"
COPIES = "copies and reshapes"
CASTS = "type casts"
OTHER_PRODUCTS = "other matrix products"
COMPILED = "compiled by XLA"
ELEMENTWISE = "element-wise and sums"

#: The first that matches an operation's type, less the prefix of oneDNN's kernels.
_KINDS = (
    (KERNEL_GRADIENTS, "BackpropFilter"),
    (INPUT_GRADIENTS, "BackpropInput"),
    (CONVOLUTIONS, r"Conv2D|DepthwiseConv2dNative"),
    (BATCH_NORM, "BatchNorm"),
    (POOLING, r"(Max|Avg)Pool"),
    (OTHER_PRODUCTS, r"MatMul|Einsum"),
    (COMPILED, "Xla"),
    (CASTS, r"^Cast$"),
    (
        COPIES,
        r"^(Concat|Split|Slice|Strided|Pad|MirrorPad|Pack|Unpack|Tile|Gather|Transpose|Reshape|"
        r"SpaceToBatch|BatchToSpace|SpaceToDepth|DepthToSpace|Identity|ExpandDims|Squeeze|"
        r"BroadcastTo|Fill|Const|ZerosLike|OnesLike|Shape|ReadVariable)",
    ),
)
_ONEDNN = re.compile(r"^_?(Mkl)?(Native)?(_?Fused(?!BatchNorm))?")
#: `scope/name:Type`, as TensorFlow's executor marks an operation.
_OPERATION = re.compile(r"(?P<name>[^:\s]+):(?P<type>[A-Z_]\w*)")
#: Scopes of clipping by global norm, which is part of an optimizer's work.
_CLIPPING = ("global_norm", "clip_by_global_norm")
#: How many steps are traced.
TRACED_STEPS = 2


def profile_steps(
    step: Callable[[], None], optimizer_scopes: Sequence[str] = (), steps: int = TRACED_STEPS
) -> dict[str, Any]:
    """Trace `steps` calls of `step` and sum up what they did.

    Args:
        step: runs one step.
        optimizer_scopes: names under which optimizers work.

    Returns:
        For JSON: `seconds` of a traced step, `operation_seconds` of all its operations summed over
        threads, `kinds` and `operations`: by kind and by type of operation, each with `seconds` and
        `calls` of one step and its `share` of the sum, the largest first.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=2, python_tracer_level=0
        )
        tf.profiler.experimental.start(folder, options=options)
        try:
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds = (time.perf_counter() - start) / steps
        finally:
            tf.profiler.experimental.stop()
        operations = list(_operations(Path(folder)))
    kinds: dict[str, list[float]] = defaultdict(list)
    types: dict[str, list[float]] = defaultdict(list)
    for name, type_, duration in operations:
        kinds[kind_of(name, type_, optimizer_scopes)].append(duration / steps)
        types[_ONEDNN.sub("", type_)].append(duration / steps)
    return {
        "steps": steps,
        "seconds": seconds,
        "operation_seconds": sum(duration for _, _, duration in operations) / steps,
        "kinds": _sums(kinds, steps),
        "operations": _sums(types, steps),
    }


def kind_of(name: str, type_: str, optimizer_scopes: Iterable[str] = ()) -> str:
    """The kind of an operation, by its name with scopes and its type."""
    if name.startswith(tuple(f"{scope}/" for scope in (*optimizer_scopes, *_CLIPPING))):
        return OPTIMIZER
    plain = _ONEDNN.sub("", type_)
    return next((kind for kind, pattern in _KINDS if re.search(pattern, plain)), ELEMENTWISE)


def _sums(groups: dict[str, list[float]], steps: int) -> list[dict[str, Any]]:
    whole = sum(map(sum, groups.values())) or 1.0
    rows = [
        {
            "name": name,
            "seconds": sum(times),
            "calls": len(times) / steps,
            "share": sum(times) / whole,
        }
        for name, times in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def _operations(folder: Path) -> Iterator[tuple[str, str, float]]:
    """(name, type, seconds) of each operation in a trace, less what ran inside it."""
    for path in folder.rglob("*.xplane.pb"):
        trace = xplane_protocol().XSpace.FromString(path.read_bytes())
        for plane in trace.planes:
            for line in plane.lines:
                yield from _of_thread(line.events, plane.event_metadata)


def _of_thread(events: Iterable[Any], metadata: Any) -> Iterator[tuple[str, str, float]]:
    """As `_operations`, for the events of one thread, which lie beside or inside each other."""
    found: list[list[Any]] = []
    open_: list[tuple[int, list[Any]]] = []
    for event in sorted(events, key=lambda event: (event.offset_ps, -event.duration_ps)):
        match = _OPERATION.fullmatch(metadata[event.metadata_id].name)
        if not match:
            continue
        while open_ and open_[-1][0] <= event.offset_ps:
            open_.pop()
        row = [match["name"], match["type"], event.duration_ps]
        if open_:
            open_[-1][1][2] -= event.duration_ps
        open_.append((event.offset_ps + event.duration_ps, row))
        found.append(row)
    for name, type_, picoseconds in found:
        yield name, type_, max(0, picoseconds) / 1e12
