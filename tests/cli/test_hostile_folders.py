"""Folders, recipes and plans from others write and delete nothing outside the run's own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bnas_larq.files import write_json
from bnas_larq.recipe import load_recipe
from bnas_larq.run.creation import resolve_recipe
from bnas_larq.run_folder import RunFolder


@pytest.fixture
def precious(tmp_path) -> Path:
    """A folder of the user's own."""
    folder = tmp_path / "precious"
    for name in ("checkpoints/epoch-00001", "train/checkpoints"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("years of work")
    return folder


@pytest.fixture
def untouched(precious):
    """After the test: nothing in it was changed."""

    def contents() -> dict[str, str]:
        return {str(path): path.is_file() and path.read_text() for path in precious.rglob("*")}

    before = contents()
    yield
    assert contents() == before


@pytest.fixture
def begun(tiny, tmp_path) -> Path:
    """A run folder that has only just begun."""
    folder = RunFolder.create(tmp_path / "begun", resolve_recipe(tiny).to_yaml())
    folder.unlock()
    return folder.path


REAL = "A run folder holds regular files and real folders only. Received: "


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", ["search", "pictures", "train", "logs", "deep/er"])
def test_a_linked_folder_inside_a_run_is_refused(refuse, tiny, begun, precious, name):
    link = begun / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(precious)
    for line in (
        ("run", tiny, "--out", begun, "--resume"),
        ("run", tiny, "--out", begun, "--overwrite"),
        ("report", begun),
        ("evaluate", begun),
    ):
        message = refuse(*line)
        assert f"{REAL}{link}, which is a link. Remove it" in message
    assert sorted(os.listdir(begun)) == sorted([".lock", "recipe.yaml", name.split("/")[0]])


@pytest.mark.usefixtures("untouched")
def test_a_linked_lock_does_not_empty_its_target(refuse, tiny, begun, precious, tmp_path):
    (begun / ".lock").unlink()
    (begun / ".lock").symlink_to(precious / "checkpoints" / "epoch-00001" / "file")
    assert f"{REAL}{begun / '.lock'}, which is a link" in refuse("evaluate", begun)
    empty = tmp_path / "empty"
    empty.mkdir()
    (begun / ".lock").rename(empty / ".lock")
    assert "which is a link" in refuse("run", tiny, "--out", empty)
    assert os.listdir(empty) == [".lock"]


def test_a_pipe_in_a_run_folder_does_not_stop_a_command(refuse, begun):
    os.mkfifo(begun / "genotype.json")
    assert "which is neither. Remove it" in refuse("report", begun)


def test_a_run_folder_may_itself_be_a_link(begun, tmp_path):
    (tmp_path / "link").symlink_to(begun)
    folder = RunFolder.open(tmp_path / "link", lock=True)
    folder.unlock()


# -- names -----------------------------------------------------------------------------------------

NAMES = ["../../x", "/abs", ".", "..", "", "a/b", ".hidden", "a\x1b[2J", "a\nb", "a\0b", "x" * 300]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_recipe_s_name_does_not_decide_where_a_run_goes(refuse, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": name}))
    message = refuse("run", "mine.yaml")
    assert "A recipe's 'name' must be valid" in message
    assert "without /" in message or "without the character NUL" in message
    assert os.listdir(tmp_path) == ["mine.yaml"]


@pytest.mark.parametrize("name", ["quickstart", "my recipe (1)", "größe", "v1.2", "a..b", "-x"])
def test_other_names_are_allowed(tmp_path, name):
    path = tmp_path / f"{name}.yaml"
    path.write_text("seed: 1")
    assert load_recipe(path).name == name


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_plan_names_runs_of_its_own_folder(refuse, tmp_path, name):
    folder = RunFolder.create(tmp_path / "comparison", load_recipe("compare-cifar10").to_yaml())
    folder.unlock()
    write_json(folder / "plan.json", [{"name": name, "method": "bnas", "adapted": []}])
    message = refuse("compare", "--out", folder.path, "--resume")
    assert (
        "plan.json must hold a list of planned runs. Received: " in message and "0.name" in message
    )
    assert sorted(os.listdir(folder.path)) == [".lock", "plan.json", "recipe.yaml"]
