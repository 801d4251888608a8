"""JSON files as pydantic models: whatever is wrong with one is our own sentence. Files are written
where they are named, through no link."""

from __future__ import annotations

import os

import pydantic
import pytest

from bnas_larq.errors import BnasLarqError, ZooError
from bnas_larq.files import (
    expand_home,
    read_model,
    replace_folder,
    temporary_folder,
    write_atomic,
    write_json,
)


class Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    size: int = pydantic.Field(description="a size")


class Thing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    parts: dict[str, Part]
    cells: int = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[1]",
            "A thing must be valid: Input should be an object. Received: .*thing.json. Restore",
        ),
        ("{", "A thing must be readable JSON. Received: .*thing.json"),
        ("[" * 100_000, "A thing must be readable JSON. Received: .*thing.json"),
        (f'{{"parts": {{}}, "cells": {"9" * 9999}}}', "A thing must be readable JSON"),
        ("{}", "needs every key. Received: no 'parts' in .*thing.json. Restore it."),
        ('{"parts": {"a": {"siz": 1}}}', "'siz' in .*thing.json, parts.a; did you mean 'size'"),
        ('{"parts": {"a": {"size": "x"}}}', "A thing's 'size' must be a size. Received: 'x' in"),
        ('{"parts": {}, "cells": "5"}', "'cells' must be valid: .* integer. Received: '5' in"),
    ],
    ids=lambda value: value[:30],
)
def test_what_is_wrong_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "thing.json"
    path.write_text(text)
    with pytest.raises(ZooError, match=message) as error:
        read_model(path, Thing, Part, subject="A thing", remedy="Restore it.", error=ZooError)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_sound_file_becomes_the_model(tmp_path):
    write_json(tmp_path / "thing.json", {"parts": {"a": {"size": 2}}})
    thing = read_model(tmp_path / "thing.json", Thing, subject="A thing", remedy="Restore it.")
    assert thing.parts["a"].size == 2 and thing.cells == 3


# -- places ----------------------------------------------------------------------------------------


def test_an_interrupt_leaves_no_temporary_file(tmp_path):
    def interrupted():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.bin", interrupted())
    assert not any(tmp_path.iterdir())


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / f".a.txt.{os.getpid()}.tmp").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "years of work"
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "precious"]


def test_a_link_like_a_killed_process_s_folder_does_not_become_the_target(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / ".entry.1.tmp.old").symlink_to(tmp_path / "precious")
    new = temporary_folder(tmp_path / "entry")
    (new / "file").write_text("new")
    replace_folder(new, tmp_path / "entry")
    assert (tmp_path / "entry" / "file").read_text() == "new"
    assert os.listdir(tmp_path / "precious") == []


def test_a_home_folder_is_found_or_refused(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("~/runs/x") == "/home/me/runs/x"
    assert expand_home("runs/~/x") == "runs/~/x" and expand_home("./~") == "./~"
    with pytest.raises(BnasLarqError, match="home folder that exists. Received: '~nobody-here/x'"):
        expand_home("~nobody-here/x")
