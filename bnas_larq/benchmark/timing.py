"""Runs a Keras model's own `train_step` batch by batch, with a clock between all parts of it.

`fit` does the same, but fetches the batch inside the graph of the step, where waiting cannot be
told from computing.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.determinism import functions_read_once
from bnas_larq.precision import matmul_rate


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the parts of a training's beginning.

    Attributes:
        trace: Python builds the graph of the step.
        first_batch: from opening the pipeline to its first batch.
        first_step: the first call: TensorFlow optimises the graph, prepares kernels and computes.
        steps: each further step, from the batch at hand to its results on the host.
        waits: before each of these, until the pipeline hands out the batch.
    """

    trace: float
    first_batch: float
    first_step: float
    steps: tuple[float, ...]
    waits: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median step."""
        return statistics.median(self.steps)

    @property
    def best(self) -> float:
        """The shortest step."""
        return min(self.steps)

    @property
    def waiting(self) -> float:
        """Share of the loop's time in which the step waits for data."""
        return sum(self.waits) / (sum(self.waits) + sum(self.steps))


class StepLoop:
    """The training loop of a compiled model.

    Args:
        model: compiled, its weights and its optimizers' built.
        dataset: endless batches.
        before_step: called before each step, as a callback's `on_train_batch_begin` would be.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: tf.data.Dataset,
        before_step: Callable[[], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.before_step = before_step or (lambda: None)

        def step(*batch: Any) -> Any:
            return model.train_step(batch)

        # As in `fit`, the graph is made for the shapes that the pipeline promises.
        self._function = tf.function(step, input_signature=dataset.element_spec)
        self._batch: Any = None

    def run(self, steps: int) -> Timing:
        """The first step, then `steps` more."""
        with functions_read_once():
            return self._run(steps)

    def _run(self, steps: int) -> Timing:
        start = time.perf_counter()
        self._function.get_concrete_function()
        trace = time.perf_counter() - start

        start = time.perf_counter()
        batches = iter(self.dataset)
        batch = next(batches)
        first_batch = time.perf_counter() - start

        start = time.perf_counter()
        self._compute(batch)
        first_step = time.perf_counter() - start

        waits, times = [], []
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(batches)
            fetched = time.perf_counter()
            self._compute(batch)
            waits.append(fetched - start)
            times.append(time.perf_counter() - fetched)
        self._batch = batch
        return Timing(trace, first_batch, first_step, tuple(times), tuple(waits))

    def again(self) -> None:
        """One more step on the last batch, without the pipeline; after `run`."""
        self._compute(self._batch)

    def _compute(self, batch: Any) -> None:
        self.before_step()
        results = self._function(*batch)
        # A device may still be at work when a function returns: the values are what is waited for.
        tf.nest.map_structure(lambda result: result.numpy(), results)


#: What decides about the rate of matrix products on x86; others are not listed.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


def machine() -> dict[str, Any]:
    """CPU, instruction sets, cores that may be used, TensorFlow's threads (0: as many), devices."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    threads = tf.config.threading
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": usable_cores(),
        "inter_op_threads": threads.get_inter_op_parallelism_threads(),
        "intra_op_threads": threads.get_intra_op_parallelism_threads(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        "devices": [device.device_type for device in tf.config.list_logical_devices()],
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def matmul_rates(*dtypes: str) -> dict[str, float | None]:
    """FLOP/s of matrix products by type; None where the device has no such kernel."""
    rates: dict[str, float | None] = {}
    for dtype in dtypes:
        try:
            rates[dtype] = matmul_rate(dtype)
        except tf.errors.OpError:
            rates[dtype] = None
    return rates


def peak_memory() -> int:
    """Bytes of main memory that this process held at its peak.

    Of Linux' own account of the process where there is one: `ru_maxrss` of a process begins with
    the size of the process that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
