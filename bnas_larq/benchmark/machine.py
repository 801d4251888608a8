"""The machine a measurement was made on, and the memory it took."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from bnas_larq.backend import tf
from bnas_larq.precision import matmul_rate

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
