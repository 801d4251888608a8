"""Where the time of a step goes, by kind of operation, read from TensorFlow's own trace.

The trace has each operation's time on the thread that ran it. Operations run in parallel and share
threads, so their sum exceeds the step's time; shares are of the sum.
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

#: The first match with an operation's type, without the prefix of oneDNN's kernels, is its kind.
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
#: `scope/name:Type`, as TensorFlow's executor names an operation.
_OPERATION = re.compile(r"(?P<name>[^:\s]+):(?P<type>[A-Z_]\w*)")
#: Scopes of clipping by global norm, part of an optimizer's work.
_CLIPPING = ("global_norm", "clip_by_global_norm")


def profile_steps(
    step: Callable[[], None], optimizer_scopes: Sequence[str] = (), steps: int = 2
) -> dict[str, Any]:
    """Trace calls of `step` and sum up the time of their operations.

    `optimizer_scopes` are names of optimizers, which begin the names of their operations.

    Returns:
        For JSON: `seconds` of a traced step; `operation_seconds` of its operations, summed over
        threads; `kinds` and `operations`: for each kind and type of operation, largest first,
        `seconds` and `calls` of one step, and the `share` of the sum.
    """
    with tempfile.TemporaryDirectory() as folder:
        profiler = tf.profiler.experimental
        options = profiler.ProfilerOptions(host_tracer_level=2, python_tracer_level=0)
        profiler.start(folder, options=options)
        try:
            start = time.perf_counter()
            for _ in range(steps):
                step()
            seconds = (time.perf_counter() - start) / steps
        finally:
            profiler.stop()
        operations = list(_operations(Path(folder)))
    kinds: dict[str, list[float]] = defaultdict(list)
    types: dict[str, list[float]] = defaultdict(list)
    for name, type_, duration in operations:
        kinds[kind_of(name, type_, optimizer_scopes)].append(duration)
        types[_ONEDNN.sub("", type_)].append(duration)
    return {
        "steps": steps,
        "seconds": seconds,
        "operation_seconds": sum(duration for _, _, duration in operations) / steps,
        "kinds": _by_time(kinds, steps),
        "operations": _by_time(types, steps),
    }


def kind_of(name: str, type_: str, optimizer_scopes: Iterable[str] = ()) -> str:
    """The kind of an operation, by its name with scopes and its type."""
    if name.startswith(tuple(f"{scope}/" for scope in (*optimizer_scopes, *_CLIPPING))):
        return OPTIMIZER
    plain = _ONEDNN.sub("", type_)
    return next((kind for kind, pattern in _KINDS if re.search(pattern, plain)), ELEMENTWISE)


def _by_time(groups: dict[str, list[float]], steps: int) -> list[dict[str, Any]]:
    total = sum(map(sum, groups.values())) or 1.0
    rows = [
        {
            "name": name,
            "seconds": sum(times) / steps,
            "calls": len(times) / steps,
            "share": sum(times) / total,
        }
        for name, times in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def _operations(folder: Path) -> Iterator[tuple[str, str, float]]:
    """(name, type, seconds) of each operation in a trace, without what ran inside it."""
    for path in folder.rglob("*.xplane.pb"):
        trace = xplane_protocol().XSpace.FromString(path.read_bytes())
        for plane in trace.planes:
            for line in plane.lines:
                yield from _of_thread(line.events, plane.event_metadata)


def _of_thread(events: Iterable[Any], metadata: Any) -> Iterator[tuple[str, str, float]]:
    """As `_operations`, for the events of one thread, which follow or contain each other."""
    operations: list[list[Any]] = []
    running: list[tuple[int, list[Any]]] = []
    for event in sorted(events, key=lambda event: (event.offset_ps, -event.duration_ps)):
        match = _OPERATION.fullmatch(metadata[event.metadata_id].name)
        if not match:
            continue
        while running and running[-1][0] <= event.offset_ps:
            running.pop()
        if running:
            running[-1][1][2] -= event.duration_ps
        operations.append([match["name"], match["type"], event.duration_ps])
        running.append((event.offset_ps + event.duration_ps, operations[-1]))
    for name, type_, picoseconds in operations:
        yield name, type_, max(0, picoseconds) / 1e12
