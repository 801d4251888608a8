"""keras-tuner's chief and workers as real processes; only the trials are planted."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bnas_larq.errors import RunError
from bnas_larq.files import read_lines
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.processes import run_chief_and_workers
from bnas_larq.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("tuner_process.py")
NAMES = ("chief", "worker-1", "worker-2")


@pytest.fixture(scope="module")
def script():
    """tuner_process.py as a module."""
    spec = importlib.util.spec_from_file_location("tuner_process", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def until(condition, what, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def pid(folder: Path, name: str) -> int | None:
    path = folder / f"pid-{name}"
    text = path.read_text() if path.is_file() else ""
    return int(text) if text else None


def alive(number: int) -> bool:
    """Whether a process runs; one that is only not yet waited for does not."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{number}/stat")
    try:
        return not status.parent.parent.is_dir() or status.read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_worker_is_killed_and_the_search_resumed(script, tmp_path):
    (tmp_path / "wait").touch()

    def launch():
        run_chief_and_workers(script.entry(tmp_path), script.WORKERS)

    search = script.make_search(tmp_path, launch)

    def kill():
        until(lambda: len(list(tmp_path.glob("entered-*"))) == 2, "both workers in a trial")
        os.kill(pid(tmp_path, "worker-2"), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RunError, match="Received: worker-2, which was killed by signal 9"):
        search.run(folder=tmp_path / "search", provenance={})
    killer.join()
    first = [pid(tmp_path, name) for name in NAMES]
    until(lambda: not any(map(alive, first)), "the others end too")
    interrupted = {path.read_text() for path in tmp_path.glob("entered-*")}
    assert len(interrupted) == 2 and not read_lines(tmp_path / "search" / "trials.jsonl")

    for path in (tmp_path / "wait", *tmp_path.glob("entered-*")):
        path.unlink()
    result = search.run(folder=tmp_path / "search", provenance={})
    rows = read_lines(tmp_path / "search" / "trials.jsonl")
    assert sorted(int(row["trial"]) for row in rows) == list(range(8))
    assert len({(row["genotype"], str(row["hyperparameters"])) for row in rows}) == 8
    # What was under way was run again, nothing more than once, and both workers took part.
    works = {path.parent.name: path.read_text().split() for path in tmp_path.rglob("by")}
    assert interrupted <= set(works) and len(works) == 8
    assert all(len(workers) == 1 for workers in works.values())
    assert {worker for workers in works.values() for worker in workers} == set(NAMES[1:])
    for row in rows:
        convolutions = sum(
            edge[0] == "bin_conv_3x3"
            for kind in ("normal", "reduce")
            for node in row[kind]
            for edge in node
        )
        assert row["accuracy"] == convolutions / 3 and row["cost"] == 12345678.9
        assert row["hyperparameters"]["batch_size"] in (16, 32)
    assert result.validation_accuracy == max(row["accuracy"] for row in rows)
    second = [pid(tmp_path, name) for name in NAMES]
    assert not set(first) & set(second)
    until(lambda: not any(map(alive, second)), "no process is left")


def test_the_chief_is_killed_and_started_again(script, tmp_path):
    """Its workers, in a trial each, go on with the new one, which hands out both trials again."""
    (tmp_path / "wait").touch()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    environment = {**os.environ, **address, "PYTHONPATH": str(ROOT), "no_grpc_proxy": "127.0.0.1"}

    def start(name):
        with open(tmp_path / f"stderr-{name}", "a") as stderr:
            return subprocess.Popen(
                script.entry(tmp_path),
                env={**environment, "KERASTUNER_TUNER_ID": name},
                stdin=subprocess.PIPE,
                stderr=stderr,
            )

    chief, *workers = parts = [start(name) for name in NAMES]
    try:
        until(lambda: len(list(tmp_path.glob("entered-*"))) == 2, "both workers in a trial")
        chief.kill()
        chief.wait()
        parts.append(start("chief"))
        (tmp_path / "wait").unlink()
        for worker, name in zip(workers, NAMES[1:], strict=True):
            assert worker.wait() == 0, (tmp_path / f"stderr-{name}").read_text()
    finally:
        for part in parts:
            part.kill()
            part.communicate()
    rows = read_lines(tmp_path / "search" / "trials.jsonl")
    assert sorted(int(row["trial"]) for row in rows) == list(range(8))
    works = [path.read_text().split() for path in tmp_path.rglob("by")]
    assert len(works) == 8 and all(len(workers) == 1 for workers in works)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_parent(sent, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, SCRIPT, "launch", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        # A suite in the background ignores Ctrl-C, and its processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until(lambda: all(pid(tmp_path, name) for name in NAMES), "all processes")
    parts = [pid(tmp_path, name) for name in NAMES]
    assert all(map(alive, parts))
    parent.send_signal(sent)
    assert parent.wait(30) != 0
    until(lambda: not any(map(alive, parts)), "the parts end")


def test_a_part_that_cannot_start_is_reported(tmp_path):
    entry = [sys.executable, "-c", "import sys; sys.exit(3)"]
    with pytest.raises(RunError, match=r"failed \(exit code 3\)"):
        run_chief_and_workers(entry, 2)


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run_of(tmp_path):
    """Makes the run folder of a recipe."""

    def make(searcher: str) -> Path:
        recipe = parse_recipe({"search": {"searcher": searcher}})
        return RunFolder.create(tmp_path / "run", recipe.to_yaml()).path

    return make


def test_workers_are_for_searches_by_keras_tuner(run_of, refuse):
    err = refuse("worker", run_of("gradient"))
    assert "whose search.searcher is gradient" in err


def test_a_worker_needs_a_run(refuse, tmp_path):
    assert "takes a run's folder" in refuse("worker", tmp_path / "none")


def test_memory_of_gpus_that_are_not_there_is_refused(run_of, refuse):
    err = refuse("worker", run_of("tuner"), "--gpu-memory", "growth")
    assert "no GPU that TensorFlow sees" in err


def test_a_worker_needs_to_know_its_chief(run_of, refuse, monkeypatch):
    folder = run_of("tuner")
    assert "Set KERASTUNER_TUNER_ID to a name of its own" in refuse("worker", folder)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert "KERASTUNER_ORACLE_PORT together" in refuse("worker", folder)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    assert "Received: chief" in refuse("worker", folder)
