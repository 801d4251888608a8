"""What a user types and sees: paths that begin with `~`, and text that no terminal suffers from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bnas_larq.cli import main as cli
from bnas_larq.cli.main import main
from bnas_larq.cli.options import NAME_OR_PATH, PathType
from bnas_larq.recipe import load_recipe
from bnas_larq.resources import zoo_dir

ROOT = Path(__file__).parents[2]


# -- what is typed ---------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The user's home; the current folder is another one."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_tilde_is_the_home_folder(home, refuse, capsys):
    (home / "mine.yaml").write_text("extends: ~/base.yaml")
    (home / "base.yaml").write_text("data: {name: folder, data_dir: ~/images}\ngenotype: ~/g.json")
    (home / "taken").mkdir()
    (home / "taken" / "thesis.txt").write_text("years of work")
    assert main(["recipes", "show", "~/mine.yaml"]) == 0
    out = capsys.readouterr().out
    assert f"data_dir: {home}/images" in out and f"genotype: {home}/g.json" in out
    assert f"Received: {home}/taken, which exists" in refuse("run", "quickstart", "--out=~/taken")
    assert f"--data-dir {home}/images" in refuse("run", "quickstart", "--data-dir=~/images")
    assert os.listdir() == []


def test_a_home_folder_that_does_not_exist_is_a_sentence(home, refuse):
    message = "in a home folder that exists. Received: '~nobody-here/x'"
    assert message in refuse("run", "quickstart", "--out=~nobody-here/x")
    assert message in refuse("run", "quickstart", "--set", "data.data_dir=~nobody-here/x")
    assert message in refuse("zoo", "show", "~nobody-here/x")
    assert os.listdir() == []


#: Options and arguments whose text is never a path.
_TEXTS = {
    *("plugins", "overrides", "space", "budget", "name", "variant", "dataset", "license"),
    *("description", "notes", "weights_url", "full_precision", "mean", "std"),
    *("devices", "gpu_memory"),
}


def parameters(command: click.Command):
    """All options and arguments of a command and those below it."""
    yield from command.params
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from parameters(command.get_command(context, name))


def test_every_path_on_the_command_line_may_begin_with_a_tilde():
    for parameter in parameters(cli.cli):
        if isinstance(parameter.type, click.Path):
            assert isinstance(parameter.type, PathType), parameter.name
        elif parameter.type is click.STRING:
            assert parameter.name in _TEXTS, parameter.name
    typed = [parameter.name for parameter in parameters(cli.cli) if parameter.type is NAME_OR_PATH]
    assert {"recipe", "target", "targets", "data_dir", "genotype", "methods", "entry"} <= {*typed}


# -- what is seen ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("args", [["zoo", "show", "bnasd-digits-small"], ["zoo", "list"]])
def test_a_terminal_may_lack_characters(args, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "bnas_larq.cli.main", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "bnasd-digits-small" in done.stdout.decode(encoding)


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys, refuse):
    folder = tmp_path / "a\x1b]0;title\x07"
    shutil.copytree(zoo_dir() / "bnasd-digits-small", folder)
    assert main(["zoo", "show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert r"a\x1b]0;title\x07" in out and out.replace("\n", "").isprintable()
    message = refuse("run", "quickstart", "--out", folder)
    assert r"a\x1b]0;title\x07, which exists" in message and message[:-1].isprintable()


def test_a_message_of_megabytes_is_shortened(tmp_path, refuse):
    # As long as a recipe may be.
    (tmp_path / "long.yaml").write_text(f"name: {'x' * 260_000}")
    message = refuse("recipes", "show", tmp_path / "long.yaml")
    assert len(message) < 2200 and message.endswith("xxx'. Correct the value.\n")


def test_all_commands_print_in_the_same_way():
    for path in sorted((ROOT / "bnas_larq" / "cli").glob("*.py")):
        source = path.read_text()
        assert "click.echo(" not in source, path.name
        assert source.count(" print(") == (path.name == "main.py"), path.name


def test_a_recipe_that_was_shown_is_the_same_recipe(tmp_path, capsys):
    assert main(["recipes", "show", "quickstart"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    assert load_recipe(tmp_path / "shown.yaml") == load_recipe("quickstart")
