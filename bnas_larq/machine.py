"""What this machine gives to a process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use: all, unless a scheduler or `taskset` gives it fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
