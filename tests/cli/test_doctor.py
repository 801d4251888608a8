"""`bnas-larq doctor` on the packages that are really installed, and on one that cannot fit."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnas_larq import determinism
from bnas_larq.cli.doctor import misfits
from bnas_larq.cli.main import main

ROOT = Path(__file__).parents[2]


def install(folder, name, *requirements):
    """Write the metadata of an installed distribution into `folder`."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def test_it_shows_versions_and_machine(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "tensorflow ",
        "larq-compute-engine ",
        "Keras generation       2 ",
        "patches                sums in a fixed order, no rewriting of sums, graphs rewritten once",
        "functions parsed once",
        "cores",
        "fits",
    ):
        assert text in shown


def test_it_shows_devices_and_the_processes_of_a_cluster(monkeypatch, capsys):
    """What `--strategy` would use."""
    cluster = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}'
    for text, shown in (
        (cluster, "TF_CONFIG              worker 1 of worker at a:1, b:2\n"),
        ("{}", "TF_CONFIG              cannot be read (KeyError: 'task')\n"),
        ("", "TF_CONFIG              not set\n"),
    ):
        monkeypatch.setenv("TF_CONFIG", text)
        assert main(["doctor"]) == 0
        out = capsys.readouterr().out
        assert shown in out
        assert re.search(r"^devices                CPU:0", out, re.MULTILINE)


def test_a_patch_that_no_longer_acts_is_reported(monkeypatch, capsys):
    outcomes = {"sums in a fixed order": "it has no effect", "functions parsed once": None}
    monkeypatch.setattr(determinism, "check_patches", lambda: outcomes)
    assert main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "patches                functions parsed once\n" in out
    assert "runs may not repeat their bits" in err and "fixed order: it has no effect" in err


def test_on_a_terminal_every_line_is_ours():
    """TensorFlow and Larq Compute Engine are imported, and TensorFlow looks for its devices."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bnas_larq.cli.main", "doctor"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "0"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
            while block := os.read(ours, 1 << 16):
                shown += block
    os.close(ours)
    lines = shown.decode().splitlines()
    assert lines[-1].startswith("verdict ")
    assert [line for line in lines if not re.fullmatch(r"[\w -]{22} \S.*", line)] == []


@pytest.mark.parametrize("name", ["larq", "larq-zoo", "tf-keras"])
def test_what_is_installed_fits(name):
    assert misfits(name) == []


def test_what_does_not_fit_is_named(tmp_path, monkeypatch):
    install(
        tmp_path,
        "misfit-example",
        "larq<0.1",
        "no-such-distribution>=2",
        "numpy>=1",
        "never-wanted; extra == 'test'",
        "never-wanted; python_version < '3'",
        "misfit-deeper",
    )
    install(tmp_path, "misfit-deeper", "click>=99")
    monkeypatch.syspath_prepend(tmp_path)
    first, *rest = misfits("misfit-example")
    assert first.startswith("misfit-deeper needs click>=99, found 8")
    assert rest[0].startswith("misfit-example needs larq<0.1, found 0.")
    assert rest[1:] == ["misfit-example needs no-such-distribution>=2, found nothing"]
