"""Child processes: `bnas-larq` once more, and the chief and workers of a search by keras-tuner.

`run_command` runs one command line to its end; it dies with its parent. `run_chief_and_workers`
starts a chief and its workers and waits for them; each calls `end_with_parent`.
"""

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
from bnas_larq.machine import usable_cores

#: Exit codes of `bnas-larq`: an error that the user can fix, and Ctrl-C.
_USER_ERROR, _INTERRUPTED = 2, 130
_ERROR = "Error: "
#: From Linux' <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
_HOST = "127.0.0.1"
#: Seconds between two looks at the workers, and seconds they may take to end.
_POLL, _GRACE = 0.2, 10.0


# -- the program's own command line ----------------------------------------------------------------


class ProcessCrash(RunError):
    """A child process was killed, or ended without an error message for users."""


def own_command(*arguments: object) -> list[str]:
    """`bnas-larq ARGUMENTS` for a new process, with the plugins and verbosity of this one."""
    context = click.get_current_context(silent=True)
    given = context.find_root().params if context else {}
    options = [f"--{name}" for name in ("quiet", "verbose") if given.get(name)]
    options += [text for plugin in given.get("plugins", ()) for text in ("--plugin", plugin)]
    return [sys.executable, "-m", "bnas_larq.cli.main", *options, *map(str, arguments)]


def share_gpu_memory() -> None:
    """Have this process and those that it starts take memory of GPUs only as they need it, which
    leaves some to each other; before TensorFlow has computed anything. Otherwise the first takes
    all. What TensorFlow's own variable says stays."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def own_gpu_memory() -> list[str]:
    """This command's option --gpu-memory, for its workers."""
    context = click.get_current_context(silent=True)
    memory = context.params.get("gpu_memory") if context else None
    return [] if memory is None else ["--gpu-memory", memory]


def own_environment(**more: str) -> dict[str, str]:
    """The environment for `own_command`: imports this package, wherever it was imported from."""
    paths = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def run_command(*arguments: object, on_message: Callable[[str], None]) -> None:
    """Run `bnas-larq ARGUMENTS` to its end in a child process; its stdout is dropped.

    Args:
        on_message: called with each line of its stderr.

    Raises:
        RunError: the command's own error message.
        ProcessCrash: it was killed, or failed without such a message.
        KeyboardInterrupt: it was interrupted.
    """
    last = error = ""
    with subprocess.Popen(
        own_command(*arguments),
        env=own_environment(PYTHONIOENCODING="utf-8"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        preexec_fn=_dies_with_parent(),
    ) as process:
        for line in process.stderr:
            line = line.rstrip()
            on_message(line)
            if line.startswith(_ERROR):  # not always last: libraries may write when Python exits
                error = line.removeprefix(_ERROR)
            last = line or last
    code = process.returncode
    if code in (_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code == _USER_ERROR and error:
        raise RunError(error)
    if code < 0:
        raise ProcessCrash(f"The process was killed by signal {-code}, perhaps for lack of memory.")
    if code:
        raise ProcessCrash(f"The process failed with exit code {code}: {last}")


def _dies_with_parent() -> Callable[[], None] | None:
    """`preexec_fn` of a process that ends with this one, even when this one is killed (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before the fork: nothing may be loaded between it and the new program.
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def request_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent is dead already
            os._exit(1)

    return request_signal


# -- chief and workers -----------------------------------------------------------------------------


def run_chief_and_workers(command: Sequence[str], workers: int) -> None:
    """Start one chief and its workers, and return when the workers have no more to do.

    Each process watches the pipe that is its stdin, so all of them end when this process does,
    however it ends. Ctrl-C reaches this process alone.

    Args:
        command: the command line of each process, which must call `end_with_parent`.

    Raises:
        RunError: one of them failed or was killed. The others are stopped; a resumed search repeats
            the trials that had not ended.
    """
    names = ["chief", *(f"worker-{number}" for number in range(1, workers + 1))]
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    threads = max(1, usable_cores() // workers)
    environment = own_environment(
        KERASTUNER_ORACLE_IP=_HOST,
        KERASTUNER_ORACLE_PORT=str(port),
        # Workers that each use all cores are slower than one.
        TF_NUM_INTRAOP_THREADS=os.environ.get("TF_NUM_INTRAOP_THREADS", str(threads)),
        # gRPC would ask the network's proxy for this very machine.
        no_grpc_proxy=_HOST,
        # Progress bars of several processes would overwrite each other.
        TERM="dumb",
    )
    say(f"search: {workers} workers, chief at {_HOST}:{port}")
    processes: dict[str, subprocess.Popen] = {}
    try:
        for name in names:
            processes[name] = subprocess.Popen(
                command,
                env={**environment, "KERASTUNER_TUNER_ID": name},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # for results, and they have none
                stderr=stderr_of_children(),
                start_new_session=True,
            )
        _wait(processes)
    finally:
        for process in processes.values():
            process.stdin.close()
        for process in processes.values():
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_parent() -> None:
    """End this process as soon as its stdin is closed, as it is when the parent dies."""

    def watch() -> None:
        # Not through sys.stdin, whose lock a process needs to end.
        while os.read(0, 1):
            pass
        exit_at_once(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait(processes: dict[str, subprocess.Popen]) -> None:
    """Return when all workers have ended; RunError if a process fails."""
    while True:
        codes = {name: process.poll() for name, process in processes.items()}
        for name, code in codes.items():
            if code:
                end = f"was killed by signal {-code}" if code < 0 else f"failed (exit code {code})"
                raise RunError(
                    "A search with several processes needs all of them. "
                    f"Received: {name}, which {end}; its messages are above. "
                    "Fix the cause, then repeat the command with --resume."
                )
        # All trials are on disk by now; keras-tuner's chief would notice after up to 20 seconds.
        if all(code == 0 for name, code in codes.items() if name != "chief"):
            return
        time.sleep(_POLL)
