"""Checkpoints: the newest intact one is used, whatever the moment of a kill."""

from __future__ import annotations

import signal

import pytest
from own_process import names, python

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import CheckpointError, RunError
from bnas_larq.files import sha256, write_json


def fill(epoch):
    """Writer of a checkpoint of two files."""

    def write(folder):
        (folder / "state.index").write_bytes(b"index %d" % epoch)
        (folder / "state.data").write_bytes(b"data %d" % epoch * 100)

    return write


@pytest.fixture
def checkpoints(tmp_path):
    """Checkpoints after epochs 1 and 2."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for epoch in (1, 2):
        checkpoints.save(epoch, fill(epoch))
    return checkpoints


def epochs(checkpoints):
    return [epoch for epoch, _ in checkpoints.candidates()]


def test_no_checkpoint_yet(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints").candidates() == []


def test_the_newest_checkpoint_comes_first(checkpoints):
    (epoch, newest), (before, _) = checkpoints.candidates()
    assert (epoch, before) == (2, 1)
    assert newest == checkpoints.folder / "epoch-00002"
    assert (newest / "state.data").read_bytes() == b"data 2" * 100
    assert names(newest) == ["manifest.json", "state.data", "state.index"]


def test_two_checkpoints_are_kept(checkpoints):
    for epoch in range(3, 12):
        assert checkpoints.save(epoch, fill(epoch)).name == f"epoch-{epoch:05d}"
    assert names(checkpoints.folder) == ["epoch-00010", "epoch-00011"]
    assert epochs(checkpoints) == [11, 10]


def test_numbers_are_compared_as_numbers(checkpoints):
    checkpoints.save(99_999, fill(99_999))
    checkpoints.save(100_000, fill(100_000))
    assert epochs(checkpoints) == [100_000, 99_999]


def damage_nothing_is_left(folder):
    for path in folder.iterdir():
        path.unlink()


def sums_of_another_folder(folder):
    name = f"../{folder.name}/state.data"
    values = {"epoch": 2, "sha256": {name: sha256(folder / "state.data")}}
    write_json(folder / "manifest.json", values)


DAMAGES = {
    "a manifest of files elsewhere": sums_of_another_folder,
    "truncated": lambda folder: (folder / "state.data").write_bytes(b"data 2"),
    "empty": lambda folder: (folder / "state.index").write_bytes(b""),
    "a flipped bit": lambda folder: (folder / "state.data").write_bytes(b"data 3" + b"data 2" * 99),
    "a missing file": lambda folder: (folder / "state.index").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"epoch": 2, "sha'),
    "a foreign manifest": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "a binary manifest": lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
    "nothing left": damage_nothing_is_left,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(checkpoints, damage):
    damage(checkpoints.folder / "epoch-00002")
    with pytest.warns(UserWarning, match=r"epoch-00002 is damaged \(.+\); using the one before it"):
        assert epochs(checkpoints) == [1]
    checkpoints.save(2, fill(2))  # a resumed run writes it again
    assert epochs(checkpoints) == [2, 1]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_without_an_intact_checkpoint_there_is_no_resuming(checkpoints, damage):
    for folder in checkpoints.folder.iterdir():
        damage(folder)
    # Of this stage alone: earlier ones may lie in the same folder.
    message = r"Received: only damaged ones in .*checkpoints\. Delete its folders epoch-\* to"
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match=message):
        checkpoints.candidates()
    assert len(names(checkpoints.folder)) == 2  # nothing is deleted by itself


def test_a_kill_while_writing_leaves_the_checkpoints_before(checkpoints):
    code = """
        import os, signal, sys
        from bnas_larq.checkpoints import Checkpoints
        def write(folder):
            (folder / "state.data").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        Checkpoints(sys.argv[1]).save(3, write)
        """
    assert python(code, checkpoints.folder).wait() == -signal.SIGKILL
    assert len(names(checkpoints.folder)) == 3  # with what the kill left behind
    assert epochs(checkpoints) == [2, 1]
    checkpoints.save(3, fill(3))
    assert names(checkpoints.folder) == ["epoch-00002", "epoch-00003"]
    assert epochs(checkpoints) == [3, 2]


def test_a_full_disk_leaves_the_checkpoints_before(checkpoints, full_disk):
    message = (
        "checkpoint must be written to disk. Received: .*File too large.*the checkpoint before"
    )
    with full_disk(100), pytest.raises(RunError, match=message):
        checkpoints.save(3, fill(3))
    assert names(checkpoints.folder) == ["epoch-00001", "epoch-00002"]
    assert epochs(checkpoints) == [2, 1]


def test_foreign_files_beside_checkpoints_are_ignored(checkpoints):
    for name in ("epoch-x", "epoch-", ".epoch-00009.tmp"):
        (checkpoints.folder / name).mkdir()
    (checkpoints.folder / "epoch-00008").write_text("a file")
    assert epochs(checkpoints) == [2, 1]


def test_clear_removes_all(checkpoints):
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    checkpoints.clear()
    assert checkpoints.candidates() == []
