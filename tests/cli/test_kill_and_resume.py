"""A run that is killed with SIGKILL, in the search and in the training, ends like one that was not.

The first resumption also finds what a kill at the worst moments leaves behind, and a newest
checkpoint that is damaged.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.files import read_json, read_lines


def until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Wait for something that the process does."""
    while not condition():
        assert process.poll() is None, f"ended too early:\n{process.communicate()[1]}"
        time.sleep(0.005)


def truncate(checkpoint: Path) -> None:
    """Cut the largest file of a checkpoint in half, as a crash of the machine may."""
    largest = max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def weights(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a Keras HDF5 file by their path in it."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: arrays.update({name: node[()]} if hasattr(node, "dtype") else {})
        )
    return arrays


def without_times(rows: list[dict]) -> list[dict]:
    """Metrics but for the one thing that no two runs share."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def resumed(start, in_one_process, tiny, tmp_path_factory):
    """The folder of a run that was killed twice, and what the resuming processes said."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    arguments = ("run", tiny, "--set", "export.enabled=false", "--out", folder)

    def kill_at(stage: str, epoch: int, *more: str) -> str:
        process = start(*arguments, *more)
        checkpoint = folder / stage / "checkpoints" / f"epoch-{epoch:05d}"
        until(process, checkpoint.is_dir)
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL
        state = folder / "state.json"
        assert not state.exists() or stage not in read_json(state), "killed too late"
        return err

    kill_at("search", 2)
    done = Checkpoints(folder / "search" / "checkpoints").candidates()
    assert len(done) == 2
    newest, path = done[0]
    truncate(path)
    # A kill while the next checkpoint or line of metrics was being written.
    shutil.copytree(done[1][1], path.with_name(f".epoch-{newest + 1:05d}.tmp"))
    for name in ("metrics.jsonl", "alphas.jsonl"):
        with open(folder / "search" / name, "a") as stream:
            stream.write('{"epoch": 99, "los')

    second = kill_at("train", 1, "--resume")
    (third,) = in_one_process([[*arguments, "--resume"]])
    assert third.code == 0, third.err
    return folder, newest, second, third.err


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(resumed):
    _, newest, second, _ = resumed
    warnings = [line for line in second.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1 and f"epoch-{newest:05d} is damaged" in warnings[0]
    assert f"search epoch {newest}/12" in second, "trained from the one before"
    assert f"search epoch {newest - 1}/12" not in second
    assert "search epoch 12/12" in second


def test_finished_stages_are_not_repeated(resumed):
    *_, third = resumed
    assert "search: already done" in third and "search epoch" not in third
    assert "train epoch 1/12" not in third and "train epoch 12/12" in third


def test_alphas_and_genotype_are_those_of_the_uninterrupted_run(resumed, finished):
    folder = resumed[0]
    for name in ("search/alphas.jsonl", "genotype.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_weights_are_equal_bit_by_bit(resumed, finished):
    ours, theirs = weights(resumed[0] / "weights.h5"), weights(finished.folder / "weights.h5")
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def test_metrics_have_every_epoch_once_with_the_same_values(resumed, finished):
    for stage in ("search", "train"):
        ours = read_lines(resumed[0] / stage / "metrics.jsonl")
        assert [row["epoch"] for row in ours] == list(range(12))
        theirs = read_lines(finished.folder / stage / "metrics.jsonl")
        assert without_times(ours) == without_times(theirs)


def test_the_result_is_the_same(resumed, finished):
    ours, theirs = (read_json(path / "result.json") for path in (resumed[0], finished.folder))
    for key in ("genotype", "test", "test_accuracy", "validation_accuracy", "cost", "finished"):
        assert ours[key] == theirs[key], key
    assert (resumed[0] / "predictions.csv").read_bytes() == (
        finished.folder / "predictions.csv"
    ).read_bytes()


def test_nothing_of_the_interruptions_is_left(resumed):
    folder = resumed[0]
    left = [path for path in folder.rglob("*") if "checkpoint" in path.name or "tmp" in path.name]
    assert left == []
