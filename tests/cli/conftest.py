"""A recipe that is as small as a run can be, one finished run of it, and the command line as users
start it: in processes of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from bnas_larq.cli.main import main

ROOT = Path(__file__).parents[2]
#: What every command line begins with, and where its processes look for that module.
PLUGIN = ("--plugin", "small_spaces")
SEARCH_PATH = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "helpers")))

#: Everything that draws random numbers is switched on, so that a resumed run has to repeat it. With
#: this seed, Zeroise and a convolution are found in the normal cell, the only one of the network.
TINY = """\
seed: 6
data:
  name: digits
  limit: 200
  augmentation: {crop_padding: 1, flip: true, color_jitter: [0.1, 0.1, 0.1, 0.1]}
search: {space: two-nodes, cells: 1, channels: 2, epochs: 12, batch_size: 32, limit: 160,
  alpha_learning_rate: 0.01}
network: {cells: 1, channels: 4}
train: {epochs: 12, batch_size: 64, drop_path: 0.3, label_smoothing: 0.1}
export: {parity_images: 8}
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that are the program's last word."""
        return [line for line in self.err.splitlines() if line.startswith("Error: ")]


class Run(NamedTuple):
    """A finished run."""

    done: Done
    folder: Path


@pytest.fixture(scope="session", autouse=True)
def every_recipe_may_name_small_spaces(small_spaces) -> None:
    """As in the processes that `start` starts."""


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen]:
    """Starts `bnas-larq ARGS`, which knows the small spaces, and does not wait for it."""
    # A suite that a script put in the background ignores Ctrl-C, and its processes inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "bnas_larq.cli.main", *PLUGIN]

    def start(*args: object) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, *map(str, args)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": SEARCH_PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def bnas_larq(start) -> Callable[..., Done]:
    """Runs `bnas-larq ARGS` to its end."""

    def run(*args: object) -> Done:
        process = start(*args)
        out, err = process.communicate()
        return Done(process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def in_one_process() -> Callable[[Sequence[Sequence[object]]], list[Done]]:
    """Runs several command lines one after the other in this process, which has TensorFlow."""

    def run(lines: Sequence[Sequence[object]]) -> list[Done]:
        ends = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", SEARCH_PATH)
            for line in lines:
                out, err = io.StringIO(), io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = main([*PLUGIN, *map(str, line)])
                ends.append(Done(code, out.getvalue(), err.getvalue()))
        return ends

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A recipe that is searched and trained in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(bnas_larq, tiny, tmp_path_factory) -> Run:
    """One uninterrupted run. Tests only read its folder; whoever changes it takes a copy."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the first worker that needs the run makes it, for all of them
    folder, said = root / "finished" / "tiny", root / "finished.json"
    with FileLock(root / "finished.lock"):
        if not said.exists():
            done = bnas_larq("run", tiny, "--out", folder)
            assert done.code == 0, done.err
            said.write_text(json.dumps(done))
    return Run(Done(*json.loads(said.read_text())), folder)


@pytest.fixture
def refuse(capsys, monkeypatch):
    """Runs a command in this process, demands one line of error, and returns it."""
    monkeypatch.setenv("PYTHONPATH", SEARCH_PATH)

    def refuse(*args: object) -> str:
        code = main([*PLUGIN, *map(str, args)])
        err = capsys.readouterr().err
        assert code == 2, err
        assert err.startswith("Error: ") and err.count("\n") == 1, err
        return err

    return refuse
