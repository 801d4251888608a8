"""What the commands tell their user."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """Tell the user on stderr; stdout is for results."""
    print(message, file=sys.stderr, flush=True)
