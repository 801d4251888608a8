"""Run folders: nothing half-written is ever taken for a result, whatever the moment of a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import CheckpointError, RunError
from bnas_larq.files import (
    append_line,
    keep_lines_before,
    read_json,
    read_lines,
    replace_folder,
    sha256,
    temporary_folder,
    write_atomic,
    write_json,
)
from bnas_larq.run_folder import RunFolder

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments: object, **settings) -> subprocess.Popen:
    """Another process that runs `code` with the package."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **settings,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- files -----------------------------------------------------------------------------------------


def test_sha256(tmp_path):
    content = bytes(range(256)) * 10_000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_text_and_bytes_are_written_and_folders_made(tmp_path):
    assert write_atomic(tmp_path / "a" / "b.txt", "α\n") == tmp_path / "a" / "b.txt"
    assert (tmp_path / "a" / "b.txt").read_bytes() == "α\n".encode()
    write_atomic(str(tmp_path / "a" / "b.txt"), b"\x00\xff")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a") == ["b.txt"]


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    write_atomic(tmp_path / "a.txt", "old")
    with (
        full_disk(100),
        pytest.raises(
            RunError, match="must be written to disk. Received: .*File too large.*resume"
        ),
    ):
        write_atomic(tmp_path / "a.txt", "n" * 101)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    write_atomic(tmp_path / "a.txt", "n" * 101)
    assert (tmp_path / "a.txt").read_text() == "n" * 101


def test_a_kill_leaves_the_old_file(tmp_path):
    """The process dies after the last byte is written and before the file has its name."""
    write_atomic(tmp_path / "a.txt", "old")
    code = """
        import os, signal, sys
        from bnas_larq.files import write_atomic
        os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
        write_atomic(sys.argv[1], "new")
        """
    assert python(code, tmp_path / "a.txt").wait() == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(names(tmp_path)) == 2 and names(tmp_path)[0].startswith(".a.txt.")


def test_impossible_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a", tmp_path / "folder"):
        with pytest.raises(RunError, match="A result must be written to disk. Received: "):
            write_atomic(path, "x")
    assert names(tmp_path) == ["file", "folder"]


def test_json_round_trip(tmp_path):
    values = {"a": [1, 2.5, None, True], "b": {"α": "ö"}}
    assert read_json(write_json(tmp_path / "a.json", values)) == values
    assert (tmp_path / "a.json").read_text().endswith("}\n")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", None])
def test_damaged_json_is_refused_by_name(tmp_path, content):
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match="run folder's state.json must be readable JSON. Received: "):
        read_json(path)


# -- JSON lines ------------------------------------------------------------------------------------


def test_lines_are_appended_and_read(tmp_path):
    path = tmp_path / "train" / "metrics.jsonl"
    assert read_lines(path) == []
    rows = [{"epoch": epoch, "loss": 1 / 3} for epoch in range(3)]
    for row in rows:
        append_line(path, row)
    assert read_lines(path) == rows
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("rest", ["", "{", '{"epoch": 2', '{"epoch": 2}\x00', "2", "\ufffd"])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, rest):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 0}\n{"epoch": 1}\n' + rest)
    assert read_lines(path) == [{"epoch": 0}, {"epoch": 1}]
    keep_lines_before(path, 2)
    append_line(path, {"epoch": 2, "again": True})
    assert read_lines(path) == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2, "again": True}]


def test_bytes_that_are_no_text_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 0}\n\xff\xfe')
    assert read_lines(path) == [{"epoch": 0}]


def test_lines_of_epochs_to_be_repeated_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_lines_before(path, 0)
    assert not path.exists()
    for epoch in range(5):
        append_line(path, {"epoch": epoch})
    keep_lines_before(path, 5)
    assert len(read_lines(path)) == 5
    keep_lines_before(path, 3)
    assert [row["epoch"] for row in read_lines(path)] == [0, 1, 2]
    keep_lines_before(path, 0)
    assert read_lines(path) == []


# -- checkpoints -----------------------------------------------------------------------------------


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
    message = "needs one intact checkpoint. Received: only damaged ones in .*checkpoints. Delete"
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


# -- run folders -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A new run's folder, free for others."""
    folder = RunFolder.create(tmp_path / "runs" / "a", "seed: 1\n")
    folder.unlock()
    return folder


def test_a_new_run_holds_its_recipe(run):
    assert (run / "recipe.yaml").read_text() == "seed: 1\n"
    assert RunFolder.open(run.path).path == run.path
    assert run.checkpoints("train").folder == run.path / "train" / "checkpoints"


def test_an_empty_folder_is_taken(tmp_path):
    RunFolder.create(tmp_path, "seed: 1\n").unlock()
    assert (tmp_path / "recipe.yaml").is_file()


def test_an_existing_run_is_never_touched_by_itself(run):
    (run / "weights.h5").write_bytes(b"precious")
    message = "needs a new or empty folder. Received: .*, which exists. Choose another --out"
    with pytest.raises(RunError, match=message):
        RunFolder.create(run.path, "seed: 2\n")
    assert (run / "weights.h5").read_bytes() == b"precious"
    assert (run / "recipe.yaml").read_text() == "seed: 1\n"


def test_overwrite_replaces_a_run_as_a_whole(run):
    (run / "weights.h5").write_bytes(b"old")
    run.mark_done("train")
    again = RunFolder.create(run.path, "seed: 2\n", overwrite=True)
    assert names(again.path) == [".lock", "recipe.yaml"]
    assert (again / "recipe.yaml").read_text() == "seed: 2\n"
    assert not again.stage_done("train")
    again.unlock()


@pytest.mark.parametrize("recipe", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_things_is_never_replaced(tmp_path, overwrite, recipe):
    """A recipe.yaml alone may be the user's own."""
    (tmp_path / "thesis.txt").write_text("years of work")
    if recipe:
        (tmp_path / "recipe.yaml").write_text("seed: 3\n")
    with pytest.raises(
        RunError, match="Received: .*(which exists|other things). Choose another --out"
    ):
        RunFolder.create(tmp_path, "seed: 1\n", overwrite=overwrite)
    assert set(names(tmp_path)) - {"recipe.yaml"} == {"thesis.txt"}
    assert not recipe or (tmp_path / "recipe.yaml").read_text() == "seed: 3\n"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunError, match="Received: "):
        RunFolder.create(tmp_path / "out", "seed: 1\n", overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("name", ["", "gone"])
def test_only_run_folders_are_opened(tmp_path, name):
    with pytest.raises(RunError, match="holds recipe.yaml. Received: .*, which does not. Give the"):
        RunFolder.open(tmp_path / name)


def test_stages_and_their_facts(run):
    assert not run.stage_done("search") and run.facts("search") == {}
    run.mark_done("search", seconds=1.5, genotype="g-1")
    run.mark_done("train", seconds=2.5)
    again = RunFolder.open(run.path)
    assert again.stage_done("search") and again.stage_done("train")
    assert again.facts("search") == {"done": True, "seconds": 1.5, "genotype": "g-1"}
    again.mark_undone("search")
    assert not run.stage_done("search") and run.facts("train")["seconds"] == 2.5


@pytest.mark.parametrize(("content", "message"), [("{", "readable JSON"), ("[]", "hold an object")])
def test_a_damaged_state_is_refused(run, content, message):
    (run / "state.json").write_text(content)
    with pytest.raises(RunError, match=rf"state.json must .*{message}.* Received: "):
        run.stage_done("train")


@contextlib.contextmanager
def another_process_in(path):
    """A process that holds the lock of the run folder at `path`."""
    code = """
        import sys
        from bnas_larq.run_folder import RunFolder
        folder = RunFolder.open(sys.argv[1], lock=True)
        print("locked", flush=True)
        sys.stdin.read()
        """
    process = python(code, path)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_until_the_first_is_killed(run):
    message = "Only one process works in a run folder. Received: .*, where another one is at work"
    with another_process_in(run.path) as process:
        with pytest.raises(RunError, match=message):
            RunFolder.open(run.path, lock=True)
        with pytest.raises(RunError, match=message):
            RunFolder.create(run.path, "seed: 2\n", overwrite=True)
        assert (run / "recipe.yaml").read_text() == "seed: 1\n"
        RunFolder.open(run.path)  # reading is free
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        RunFolder.open(run.path, lock=True).unlock()


def test_a_process_that_made_the_folder_holds_it(tmp_path):
    folder = RunFolder.create(tmp_path / "a", "seed: 1\n")
    code = """
        import sys
        from bnas_larq.errors import RunError
        from bnas_larq.run_folder import RunFolder
        try:
            RunFolder.open(sys.argv[1], lock=True)
        except RunError as error:
            print(error)
        """
    assert "another one is at work" in python(code, folder.path).communicate()[0]
    folder.unlock()
    assert python(code, folder.path).communicate()[0] == ""


def test_files_of_a_run_are_json_that_other_programs_read(run):
    run.mark_done("train", seconds=1.0)
    assert json.loads((run / "state.json").read_text()) == {"train": {"done": True, "seconds": 1.0}}


# -- folders that are replaced whole ---------------------------------------------------------------


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "entry"
    for content in ("first", "second"):
        new = temporary_folder(target)
        (new / "file").write_text(content)
        replace_folder(new, target)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert (target / "file").read_text() == "second"


def test_what_a_kill_between_the_two_renames_moved_away_comes_back(tmp_path):
    old, half = tmp_path / ".entry.12345.tmp.old", tmp_path / ".entry.12345.tmp"
    ancient, other = tmp_path / ".entry.999.tmp", tmp_path / ".entrance.999.tmp"
    for folder in (old, half, ancient, other):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
        os.utime(folder, (0, 0) if folder in (ancient, other) else None)
    new = temporary_folder(tmp_path / "entry")
    assert not any(new.iterdir())
    assert (tmp_path / "entry" / "file").read_text() == old.name
    # Young leftovers may be another machine's at work; those of other folders are not touched.
    assert half.exists() and other.exists() and not ancient.exists()
