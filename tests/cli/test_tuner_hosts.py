"""A search by keras-tuner on two hosts: folders that share nothing but the run's folder, which each
of them has under another name. Networks are really trained, on the digits; only GPUs are planted.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnas_larq.files import read_json, read_lines

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
ADDRESS = "127.0.0.1"
RECIPE = """\
data: {name: digits, limit: 160, validation_fraction: 0.25}
network: {cells: 1, channels: 4}
train: {batch_size: 40, mixed_precision: float32}
search:
  searcher: tuner
  space: tiny
  tuner:
    oracle: random
    trials: 3
    epochs: 1
    hyperparameters: {learning_rate: {min: 0.001, max: 0.01}}
"""
SECONDS = 600


class Host:
    """A machine: its own home and temporary files, and the shared folder under a name of its own.

    Its processes import planted_gpus.py and small_spaces.py.
    """

    def __init__(self, home: Path, shared: Path, mount: str, port: int) -> None:
        (home / "tmp").mkdir(parents=True)
        (home / mount).symlink_to(shared, target_is_directory=True)
        self.home, self.run = home, f"{mount}/run"
        self.environment = {
            **os.environ,
            **dict.fromkeys(("HOME", "KERAS_HOME", "XDG_CACHE_HOME"), str(home)),
            "TMPDIR": str(home / "tmp"),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE, ROOT / "tests" / "helpers"))),
            "KERASTUNER_ORACLE_IP": ADDRESS,
            "KERASTUNER_ORACLE_PORT": str(port),
            "no_grpc_proxy": ADDRESS,
        }

    def start(self, name: str, *args: object) -> subprocess.Popen:
        """`bnas-larq ARGS` as the part of the search with this name."""
        plugins = ("--plugin", "planted_gpus", "--plugin", "small_spaces")
        return subprocess.Popen(
            [sys.executable, "-m", "bnas_larq.cli.main", *plugins, *args],
            cwd=self.home,
            env={**self.environment, "KERASTUNER_TUNER_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def gpus(self) -> set[str]:
        """The worker and its GPU, of each that ran here."""
        return set((self.home / "gpus").read_text().splitlines())


@pytest.fixture
def hosts(tmp_path):
    """Two of them."""
    with socket.create_server((ADDRESS, 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "shared").mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return [
        Host(tmp_path / name, tmp_path / "shared", mount, port)
        for name, mount in (("first", "disk"), ("second", "mnt"))
    ]


def until(condition, *processes):
    """Return when the condition holds; all processes must live until then."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def test_a_lost_workers_trial_goes_to_its_successor_on_another_host(hosts, tmp_path):
    first, second = hosts
    run = tmp_path / "shared" / "run"
    oracle = run / "search" / "tuner" / "oracle.json"
    processes = []

    def start(host, name, *args):
        processes.append(host.start(name, *args))
        return processes[-1]

    try:
        chief = start(first, "chief", "search", tmp_path / "recipe.yaml", "--out", first.run)
        until(oracle.is_file, chief)
        lost = start(first, "worker-1", "worker", first.run)
        other = start(second, "worker-2", "worker", second.run)
        until(lambda: "worker-1" in read_json(oracle)["ongoing_trials"], chief, lost)
        trial = read_json(oracle)["ongoing_trials"]["worker-1"]
        lost.send_signal(signal.SIGKILL)
        lost.wait()
        successor = start(second, "worker-1", "worker", second.run)
        ends = {process: process.communicate(timeout=SECONDS) for process in processes}
    finally:
        for process in processes:
            process.kill()
    for process in (chief, other, successor):
        assert process.returncode == 0, ends[process][1]
    rows = read_lines(run / "search" / "trials.jsonl")
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2"]
    assert all(row["accuracy"] is not None for row in rows)
    # The successor trained what was lost.
    assert len({row["genotype"] for row in rows}) == 3
    (row,) = (row for row in rows if row["trial"] == trial)
    said = f"trial {row['genotype']}"
    assert said in ends[successor][1] and said not in ends[other][1]
    assert ends[chief][0].strip() == f"{first.run}/genotype.json"
    assert (run / "genotype.json").is_file()
    # Each had a GPU of its machine for itself, chosen before TensorFlow computed anything.
    assert first.gpus == {"worker-1 ['GPU:0']"}
    assert second.gpus == {"worker-1 ['GPU:0']", "worker-2 ['GPU:1']"}
