"""The program's own command line in further processes: what they are started with."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click

#: From Linux' <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def own_command(*arguments: object) -> list[str]:
    """`bnas-larq ARGUMENTS` for a new process, with the plugins of this one."""
    context = click.get_current_context(silent=True)
    plugins = context.find_root().params.get("plugins", ()) if context else ()
    head = [sys.executable, "-m", "bnas_larq.cli.main"]
    head += [text for plugin in plugins for text in ("--plugin", plugin)]
    return [*head, *map(str, arguments)]


def own_environment(**more: str) -> dict[str, str]:
    """Its environment: the very package that runs here, wherever it was imported from."""
    places = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places)), **more}


def dies_with_parent() -> Callable[[], None] | None:
    """For `subprocess.Popen(preexec_fn=…)`: the new process ends when this one does, also when this
    one is killed. Linux only; None elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: between it and the new program nothing may be loaded.
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def end_with_it() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was faster
            os._exit(1)

    return end_with_it
