"""A disk that becomes full in the middle of a training, on a small file system in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.cli.main import main
from bnas_larq.files import read_json


@pytest.fixture
def disk(tmp_path):
    """A file system of 16 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        mounted = None
    if mounted is None or mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path, but: int) -> None:
    """Leave `but` bytes of the file system free."""
    disk = os.statvfs(path.parent)
    with open(path, "wb") as stream:
        stream.write(bytes(disk.f_bavail * disk.f_frsize - but))


def test_a_full_disk_stops_a_training_with_a_sentence_and_its_checkpoints_stay(start, tiny, disk):
    folder = disk / "run"
    arguments = ["train", tiny, "--genotype", "bnas_cifar", "--set", "train.epochs=300"]
    process = start(*arguments, "--out", folder)
    checkpoints = Checkpoints(folder / "train" / "checkpoints")
    while not (checkpoints.folder / "epoch-00002").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    # Enough for lines of metrics, too little for a checkpoint.
    fill(disk / "ballast", but=16_384)
    _, err = process.communicate()
    assert process.returncode == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("Error: A checkpoint must be written to disk.") and "--resume" in last
    assert "Traceback" not in err
    reached, path = checkpoints.candidates()[0]
    assert reached >= 1 and path.is_dir()
    assert not list(checkpoints.folder.glob(".*")), "the half-written checkpoint is gone"


def test_a_full_disk_before_a_run_is_a_sentence(tiny, disk, capsys):
    fill(disk / "ballast", but=0)
    assert main(["train", str(tiny), "--genotype", "random:1", "--out", str(disk / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1 and "No space left" in err


def test_a_full_disk_keeps_the_earlier_result(finished, disk, capsys):
    shutil.copytree(finished.folder, disk / "run")
    before = (disk / "run" / "result.json").read_bytes()
    fill(disk / "ballast", but=0)
    assert main(["report", str(disk / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1 and "No space left" in err
    assert (disk / "run" / "result.json").read_bytes() == before
    assert read_json(disk / "run" / "result.json")["finished"]
