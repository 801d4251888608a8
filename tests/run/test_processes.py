"""The program's own command line in a child process, and how a child's end is told."""

from __future__ import annotations

import signal
import sys

import pytest

from bnas_larq.errors import RunError
from bnas_larq.run import processes
from bnas_larq.run.processes import ProcessCrash, run_command


def test_a_commands_own_error_is_raised():
    messages = []
    with pytest.raises(RunError, match="did you mean 'quickstart'") as raised:
        run_command("recipes", "show", "quickstrat", on_message=messages.append)
    assert not isinstance(raised.value, ProcessCrash)
    assert messages == [f"Error: {raised.value}"]
    assert run_command("recipes", "list", on_message=messages.append) is None
    assert len(messages) == 1


def test_messages_keep_characters_that_this_terminal_lacks(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    with pytest.raises(RunError, match="Received: 'α–ö'"):
        run_command("recipes", "show", "α–ö", on_message=lambda line: None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL})", "killed by signal 9"),
        ("1 / 0", "exit code 1: ZeroDivisionError"),
        # Neither a user's error nor the last word of a process that was killed afterwards.
        ("import sys; print('Error: no', file=sys.stderr); 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_crash_is_told_apart(monkeypatch, code, message):
    monkeypatch.setattr(processes, "own_command", lambda *arguments: [sys.executable, "-c", code])
    with pytest.raises(ProcessCrash, match=message):
        run_command("run", on_message=lambda line: None)


@pytest.mark.parametrize("end", ["sys.exit(130)", f"os.kill(os.getpid(), {signal.SIGINT})"])
def test_an_interrupted_command_interrupts(monkeypatch, end):
    code = f"import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); {end}"
    monkeypatch.setattr(processes, "own_command", lambda *arguments: [sys.executable, "-c", code])
    with pytest.raises(KeyboardInterrupt):
        run_command("run", on_message=lambda line: None)
