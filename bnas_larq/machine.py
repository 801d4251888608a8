"""What this machine gives to a process, and what is installed on it."""

from __future__ import annotations

import os
from importlib import metadata


def usable_cores() -> int:
    """Cores that this process may use: all, unless a scheduler or `taskset` gives it fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
