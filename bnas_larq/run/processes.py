"""The program's own command line in further processes: what they are started with."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from bnas_larq.console import exit_at_once, say, stderr_of_children
from bnas_larq.errors import RunError

#: From Linux' <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1


def own_command(*arguments: object) -> list[str]:
    """`bnas-larq ARGUMENTS` for a new process, with the plugins and verbosity of this one."""
    context = click.get_current_context(silent=True)
    given = context.find_root().params if context else {}
    head = [sys.executable, "-m", "bnas_larq.cli.main"]
    head += [f"--{name}" for name in ("quiet", "verbose") if given.get(name)]
    head += [text for plugin in given.get("plugins", ()) for text in ("--plugin", plugin)]
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


HOST = "127.0.0.1"
#: How often the processes are looked after, and how long they may take to end, in seconds.
_LOOK, _END = 0.2, 10.0


def run_processes(entry: Sequence[str], workers: int) -> None:
    """Start one chief and its workers, and come back when the workers have no more to do.

    They end with this process, however it ends: each one watches the pipe that is its stdin. Ctrl-C
    reaches this process alone.

    Args:
        entry: command line of each one; it must call `end_with_parent`.

    Raises:
        RunError: one of them failed or was killed. The others are stopped; started again, the
            search runs the trials that had not ended.
    """
    names = ["chief", *(f"worker-{number}" for number in range(1, workers + 1))]
    port = _free_port()
    say(f"search: {workers} workers, chief at {HOST}:{port}")
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name in names:
            processes[name] = subprocess.Popen(
                entry,
                env=_environment(name, port, workers),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # stdout is for results, and they have none
                stderr=stderr_of_children(),
                start_new_session=True,
            )
        _wait(processes)
    finally:
        for process in processes.values():
            process.stdin.close()
        for process in processes.values():
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(processes: dict[str, subprocess.Popen]) -> None:
    """Until all workers have ended; RunError if one of the processes fails."""
    while True:
        codes = {name: process.poll() for name, process in processes.items()}
        for name, code in codes.items():
            if code:
                how = f"was killed by signal {-code}" if code < 0 else f"failed (exit code {code})"
                raise RunError(
                    "A search with several processes needs all of them. "
                    f"Received: {name}, which {how}; what it said is above. "
                    "Mend that, then repeat the command with --resume."
                )
        # All ended trials are on disk. keras-tuner's chief would look up after 20 seconds only.
        if all(code == 0 for name, code in codes.items() if name != "chief"):
            return
        time.sleep(_LOOK)


def _environment(name: str, port: int, workers: int) -> dict[str, str]:
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    shared = {
        # Workers that each take all cores are slower than one.
        "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", threads),
        # gRPC would ask a proxy of the network for this very machine.
        "no_grpc_proxy": HOST,
        # Progress bars of several processes would overwrite each other.
        "TERM": "dumb",
    }
    return own_environment(
        KERASTUNER_TUNER_ID=name,
        KERASTUNER_ORACLE_IP=HOST,
        KERASTUNER_ORACLE_PORT=str(port),
        **shared,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def end_with_parent() -> None:
    """End this process as soon as its stdin is closed, which a parent's death does too."""

    def watch() -> None:
        # Not through sys.stdin, whose lock a process needs to end.
        while os.read(0, 1):
            pass
        exit_at_once(1)

    threading.Thread(target=watch, daemon=True).start()
