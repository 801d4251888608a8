"""Run folders: nothing half-written is ever taken for a result, whatever the moment of a kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest
from own_process import names, python

from bnas_larq.errors import RunError
from bnas_larq.run_folder import RunFolder


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
