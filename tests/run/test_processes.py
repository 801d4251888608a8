"""The program's own command line in a child process, and how a child's end is told."""

from __future__ import annotations

import os
import signal
import sys

import click
import pytest

from bnas_larq.errors import RunError
from bnas_larq.recipe import parse_recipe
from bnas_larq.run import processes
from bnas_larq.run.inputs import RunInputs, inputs_to_run
from bnas_larq.run.processes import ProcessCrash, run_command
from bnas_larq.run.searchers import tuner_search
from bnas_larq.run_folder import RunFolder


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


# -- GPUs of a search's workers --------------------------------------------------------------------

GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Makes the inputs of a run with a searcher."""
    monkeypatch.setenv(GROWTH, "")  # so that it is restored
    monkeypatch.delenv(GROWTH)

    def make(searcher, of=inputs_to_run):
        return of(RunFolder(tmp_path), parse_recipe({"search": {"searcher": searcher}}))

    return make


def test_a_search_leaves_memory_of_gpus_to_its_workers(inputs, monkeypatch):
    inputs("gradient")
    inputs("tuner", of=RunInputs)  # to look at
    assert GROWTH not in os.environ
    inputs("tuner")
    assert os.environ[GROWTH] == "true"
    monkeypatch.setenv(GROWTH, "false")
    inputs("tuner")
    assert os.environ[GROWTH] == "false"


def test_workers_get_the_memory_of_gpus_that_their_search_was_given(inputs):
    def worker():
        (command, _) = tuner_search(inputs("tuner")).launch.args
        return command[command.index("worker") :]

    assert "--gpu-memory" not in worker()
    with click.Context(click.Command("search")) as context:
        context.params["gpu_memory"] = "4000"
        assert worker()[:3] == ["worker", "--gpu-memory", "4000"]
