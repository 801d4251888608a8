"""`bnas-larq doctor` on the packages that are really installed, and on one that cannot fit."""

from __future__ import annotations

import pytest

from bnas_larq.cli.doctor import misfits
from bnas_larq.cli.main import main


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
        "cores",
        "fits",
    ):
        assert text in shown


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
