"""`bnas-larq` from outside: its help, its exit codes, and that neither waits for TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bnas_larq.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = ("tensorflow", "tf_keras", "keras", "larq", "pydantic", "numpy", "matplotlib", "rich")


def bnas_larq(*args: str, cwd: Path = ROOT, **kwargs) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own, as a user does."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [sys.executable, "-m", "bnas_larq.cli.main", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **kwargs,
    )


def assert_user_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Exit code 2 and one line on stderr that holds all `parts`."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    for text in parts:
        assert text in done.stderr


def test_help_lists_every_command_in_the_order_of_work():
    done = bnas_larq("--help")
    assert done.returncode == 0
    listed = [line.split()[0] for line in done.stdout.split("Commands:\n")[1].splitlines()]
    assert listed == list(COMMANDS)
    assert "bnas-larq run quickstart" in done.stdout


def test_without_arguments_the_help_is_shown():
    assert bnas_larq().stdout == bnas_larq("--help").stdout


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nonsense"]])
def test_nothing_heavy_is_loaded_for(args):
    code = (
        "import sys\n"
        "from bnas_larq.cli.main import main\n"
        f"main({args})\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_has_help(name, capsys):
    assert isinstance(COMMANDS[name].load(), click.Command)
    assert main([name, "--help"]) == 0
    assert f"Usage: bnas-larq {name}" in capsys.readouterr().out


def test_version():
    done = bnas_larq("--version")
    assert done.returncode == 0 and done.stdout.startswith("bnas-larq ")


def test_an_unknown_command_is_answered_with_the_nearest():
    assert_user_error(bnas_larq("serch"), "Received: 'serch'; did you mean 'search'?")
    assert_user_error(bnas_larq("recipes", "lst"), "did you mean 'list'?", "bnas-larq recipes")


def test_an_unknown_option_is_one_line():
    assert_user_error(bnas_larq("--plugn"), "--plugn", "bnas-larq --help")
    assert_user_error(bnas_larq("recipes", "show"), "Missing argument", "bnas-larq recipes show")


def test_a_plugin_in_the_current_directory_is_imported_before_the_command(tmp_path):
    (tmp_path / "my_operations.py").write_text("print('registered')\n")
    done = bnas_larq("--plugin", "my_operations", "recipes", "list", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("registered\n")


@pytest.mark.parametrize(
    ("option", "shown"), [([], False), (["--quiet"], False), (["--verbose"], True)]
)
def test_native_output_is_for_verbose_and_messages_are_not_for_quiet(tmp_path, option, shown):
    (tmp_path / "chatter.py").write_text(
        "import os\nfrom bnas_larq.console import say\nos.write(2, b'noise\\n')\nsay('message')\n"
    )
    done = bnas_larq(*option, "--plugin", "chatter", "recipes", "list", cwd=tmp_path)
    assert done.returncode == 0 and "quickstart" in done.stdout
    assert ("noise" in done.stderr) == shown
    assert ("message" in done.stderr) == (option != ["--quiet"])


def test_quiet_and_verbose_exclude_each_other():
    assert_user_error(bnas_larq("--quiet", "--verbose", "recipes", "list"), "Received: both")


def test_a_broken_plugin_is_named_with_its_line(tmp_path):
    assert_user_error(bnas_larq("--plugin", "absent", "recipes", "list"), "'absent'", "No module")
    (tmp_path / "broken.py").write_text("\nregister()\n")
    done = bnas_larq("--plugin", "broken", "recipes", "list", cwd=tmp_path)
    assert_user_error(done, "NameError", "broken.py line 2")


def test_an_error_the_user_can_mend_is_one_line_without_traceback(tmp_path):
    (tmp_path / "strict.py").write_text(
        "from bnas_larq.errors import GenotypeError\n"
        "raise GenotypeError('An edge reads an earlier state.\\nReceived: 7.')\n"
    )
    done = bnas_larq("--plugin", "strict", "recipes", "list", cwd=tmp_path)
    assert_user_error(done)
    assert done.stderr == "Error: An edge reads an earlier state. Received: 7.\n"


def test_an_interrupt_is_130_and_says_how_to_go_on(tmp_path):
    (tmp_path / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    done = bnas_larq("--plugin", "interrupted", "recipes", "list", cwd=tmp_path)
    assert done.returncode == 130
    assert "--resume" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_sentence():
    with open("/dev/full", "w") as full:
        done = bnas_larq("recipes", "--help", stdout=full)
    assert_user_error(done, "disk is full")


def test_tensorflow_is_told_to_be_quiet_and_to_use_keras_2(tmp_path):
    (tmp_path / "look.py").write_text(
        "import os\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['TF_USE_LEGACY_KERAS'])\n"
    )
    args = ("--plugin", "look", "recipes", "list")
    wanted = {**os.environ, "PYTHONPATH": str(ROOT)}
    wanted.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-m", "bnas_larq.cli.main", *args],
        cwd=tmp_path,
        env=wanted,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "2 1"


@pytest.mark.parametrize("args", [["zoo", "show"], ["cost"]])
def test_a_name_that_no_file_can_have_is_a_sentence(args, capsys):
    assert main([*args, "a" * 300]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Error: A name or path must be one") and err.count("\n") == 1
