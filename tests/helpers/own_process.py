"""Processes of the package beside the test's own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: object, **settings) -> subprocess.Popen:
    """Another process that runs `code` with the package."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **settings,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
