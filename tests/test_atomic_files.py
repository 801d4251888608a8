"""Files are written whole, whatever the moment of a kill: text, JSON and its lines, folders."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest
from own_process import names, python

from bnas_larq.errors import RunError
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


# -- folders that are replaced whole ---------------------------------------------------------------


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "entry"
    for content in ("first", "second"):
        new = temporary_folder(target)
        (new / "file").write_text(content)
        replace_folder(new, target)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert (target / "file").read_text() == "second"


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    """In containers, processes often have the same number."""
    target = tmp_path / "entry"
    for folder in (target, tmp_path / f".entry.{os.getpid()}.tmp.old"):
        folder.mkdir()
        (folder / "file").write_text("earlier")
    new = temporary_folder(target)
    (new / "file").write_text("new")
    replace_folder(new, target)
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]
    assert (target / "file").read_text() == "new"


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
