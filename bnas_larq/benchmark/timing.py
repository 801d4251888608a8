"""A training loop with a clock between its parts, and what else is measured of process and machine.

`fit` trains the same way, but fetches batches inside the graph of the step, where waiting for data
cannot be told from computing.
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
from bnas_larq.machine import usable_cores
from bnas_larq.precision import matmul_rate


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each part of the first steps of training.

    Attributes:
        trace: Python builds the graph of the step.
        first_batch: from opening the pipeline to its first batch.
        first_step: the first call: TensorFlow optimises the graph, prepares kernels and computes.
        steps: each later step, from its batch at hand to its results on the host.
        waits: before each later step, until the pipeline hands out the batch.
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
        """Share of the loop's time spent waiting for data."""
        return sum(self.waits) / (sum(self.waits) + sum(self.steps))


class StepLoop:
    """The training loop of a compiled model, whose weights and optimizers' weights are built: its
    own `train_step`, on batches of an endless dataset. `before_step` is called before each, as a
    callback's `on_train_batch_begin` would be."""

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

        # As in `fit`, the graph is traced for the shapes that the pipeline promises.
        self._function = tf.function(step, input_signature=dataset.element_spec)
        #: The last batch.
        self.batch: Any = None

    @functions_read_once()
    def run(self, steps: int) -> Timing:
        """The first step, then `steps` more."""
        start = time.perf_counter()
        self._function.get_concrete_function()
        trace = time.perf_counter() - start

        start = time.perf_counter()
        batches = iter(self.dataset)
        self.batch = next(batches)
        first_batch = time.perf_counter() - start

        start = time.perf_counter()
        self.again()
        first_step = time.perf_counter() - start

        waits, times = [], []
        for _ in range(steps):
            start = time.perf_counter()
            self.batch = next(batches)
            fetched = time.perf_counter()
            self.again()
            waits.append(fetched - start)
            times.append(time.perf_counter() - fetched)
        return Timing(trace, first_batch, first_step, tuple(times), tuple(waits))

    def again(self) -> None:
        """One more step on the last batch, without the pipeline; after `run`."""
        self.before_step()
        results = self._function(*self.batch)
        # A device may still be computing when the function returns; fetching the values waits.
        tf.nest.map_structure(lambda result: result.numpy(), results)


#: Instruction sets that decide the rate of matrix products on x86; others are not listed.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


def machine() -> dict[str, Any]:
    """CPU, instruction sets, usable cores, TensorFlow's threads (0: one per core), devices."""
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
    """Bytes of main memory that this process held at its peak, read from /proc where there is one:
    the `ru_maxrss` of a process starts at the size of its parent. Linux adds up its threads' shares
    only now and then, so a later reading may be some hundred kB smaller."""
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
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
