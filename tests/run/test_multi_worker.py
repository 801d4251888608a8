"""A run and a study in two worker processes on this machine, killed and started again.

Its weights are those of MirroredStrategy on two logical CPUs in one process, which
tests/test_strategies.py compares with one device: two replicas, each with BatchNorm's statistics of
its own half of every batch.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnas_larq import Run
from bnas_larq.files import read_json, read_lines

ROOT = Path(__file__).parents[2]
OVERRIDES = {
    "data.limit": 160,
    "search.space": "tiny",
    "search.zeroise_competes": False,
    "search.cells": 2,
    "search.channels": 2,
    # Three draws, then two epochs over two candidates.
    "search.searcher": "bandit",
    "search.bandit": {"rounds": 1, "floor": 2, "finish_epochs": 2},
    "search.epochs": 3,
    "search.batch_size": 16,
    "search.alpha_start_epoch": 1,
    "search.mixed_precision": "float32",
    "network.cells": 2,
    "network.channels": 4,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.drop_path": 0.2,
    "export.enabled": False,
}
SECONDS = 600


def start(out, strategy, stage=None, worker=None, ports=()):
    """A process of a run; `stage` is where it kills itself."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests" / "helpers")))
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}
    if worker is not None:
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        task = {"type": "worker", "index": worker}
        environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    script = Path(__file__).parents[1] / "two_workers.py"
    command = [sys.executable, script, out, strategy, json.dumps(OVERRIDES), stage or "none"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def ends(*processes):
    """Exit codes and what was written to stderr, once all have ended."""
    try:
        texts = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], texts


def two_workers(out, *stages):
    """Both processes of a run: their exit codes and stderr."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    stages = stages or (None, None)
    workers = [start(out, "multi-worker", s, n, ports) for n, s in enumerate(stages)]
    return ends(*workers)


def results(folder):
    """Weights, what the bandit measured, α by epoch, and metrics by epoch without times."""
    with Run.open(folder) as run:
        assert run.result["finished"]
        weights = {weight.name: weight.numpy() for weight in run.network().weights}
    search = "search/draws.jsonl", "search/alphas.jsonl", "search/metrics.jsonl"
    files = [folder / file for file in (*search, "train/metrics.jsonl")]
    rows = [
        # Not the names of what was drawn.
        {k: v for k, v in row.items() if k != "seconds" and np.array(v).dtype.kind != "U"}
        for file in files
        if file.is_file()
        for row in read_lines(file)
    ]
    return weights, rows


def networks(study):
    """The folders of a finished study's networks."""
    record = read_json(study / "layer_study.json")
    assert record["finished"] is True
    return [study / network["folder"] for network in record["networks"]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run of two workers."""
    folder = tmp_path_factory.mktemp("workers") / "whole"
    codes, texts = two_workers(folder)
    assert codes == [0, 0], texts[0][-2000:] + texts[1][-2000:]
    return folder


def test_two_workers_reach_the_weights_of_two_replicas_in_one_process(whole, tmp_path):
    codes, texts = ends(start(tmp_path / "two", "two"))
    assert codes == [0], texts[0][-2000:]
    (weights, rows), (others, other_rows) = results(whole), results(tmp_path / "two")
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, others[name], atol=1e-5, err_msg=name)
    assert len(rows) == len(other_rows) == 3 + 2 + 2 + 2
    for row, other in zip(rows, other_rows, strict=True):
        for key, value in row.items():
            np.testing.assert_allclose(value, other[key], atol=1e-4, err_msg=key)


def test_only_the_chief_writes_into_the_folder(whole):
    """One line for each epoch, and nothing that a second process left."""
    assert [row["epoch"] for row in read_lines(whole / "train/metrics.jsonl")] == [0, 1]
    assert not list(whole.rglob("*.tmp")) and not list(whole.rglob("*worker*"))


def test_killed_and_started_again_it_has_the_same_bits(whole, tmp_path):
    """A worker is killed in the search, then the chief in a study's second network; each time all
    processes start again."""
    out = tmp_path / "killed"
    codes, texts = two_workers(out, None, "search")
    assert codes[1] == -9 and codes[0] != 0, texts[0][-2000:]
    assert not (out / "genotype.json").exists()
    codes, texts = two_workers(out, "study", None)
    assert codes[0] == -9 and codes[1] != 0, texts[1][-2000:]
    assert "Received: one of them ended" in texts[1]
    study = out.with_name("killed-study")
    record = read_json(study / "layer_study.json")
    assert not record["finished"]
    # Its rows have seconds, which another training would change.
    first = study / record["networks"][0]["folder"] / "train/metrics.jsonl"
    trained = first.read_bytes()
    codes, texts = two_workers(out)
    assert codes == [0, 0], texts[0][-2000:]
    assert first.read_bytes() == trained
    done, again = networks(whole.with_name("whole-study")), networks(study)
    assert len(done) == 2
    for folder, other in zip([whole, *done], [out, *again], strict=True):
        (weights, rows), (others, other_rows) = results(folder), results(other)
        assert rows == other_rows
        for name, value in weights.items():
            np.testing.assert_array_equal(value, others[name], err_msg=name)
