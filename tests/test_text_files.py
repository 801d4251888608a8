"""Text files are regular, bounded and plain: whatever else comes ends at once, in one kind of
error."""

from __future__ import annotations

import json
import math
import os

import pytest

from bnas_larq.files import read_lines, sha256
from bnas_larq.text_files import parse_json, parse_yaml, read_bytes, read_text, read_yaml

#: Ten lists, each of nine of the one before: 3 billion values in 400 bytes.
LAUGHS = "a: &a [1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
#: The same by merge keys.
MERGES = "a: &a {x: 1}\n" + "".join(
    f"m{n + 1}: &m{n + 1} {{<<: [*{'a' if n == 0 else f'm{n}'}, *{'a' if n == 0 else f'm{n}'}]}}\n"
    for n in range(40)
)


def fifo(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)
    return path


# -- files -----------------------------------------------------------------------------------------


def test_a_regular_file_is_read(tmp_path):
    (tmp_path / "a").write_text("α\n", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_text(tmp_path / "a") == read_text(tmp_path / "link") == "α\n"


@pytest.mark.parametrize("read", [read_text, read_bytes, read_yaml, sha256])
def test_pipes_and_devices_never_block(tmp_path, read):
    for path in (fifo(tmp_path / "pipe"), "/dev/zero", tmp_path):
        with pytest.raises(OSError):
            read(path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_names_that_no_system_has_are_value_errors(path):
    with pytest.raises(ValueError):
        read_text(path)


def test_larger_files_than_the_limit_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert len(read_bytes(tmp_path / "a", 11)) == 11
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_text(tmp_path / "a", 10)
    with open(tmp_path / "sparse", "wb") as stream:
        stream.truncate(2**40)
    for read in (read_text, read_yaml, read_lines):
        with pytest.raises(Exception, match="more than"):
            read(tmp_path / "sparse")


# -- JSON ------------------------------------------------------------------------------------------


def test_json_is_read_as_python_writes_it():
    values = {"a": [1, 0.1, 1e-45, -2.5e300, None, True], "ö": {"\x01": "😀"}}
    assert parse_json(json.dumps(values)) == values
    assert math.isnan(parse_json("NaN")) and parse_json("[-Infinity]") == [-math.inf]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "[1, -" + "9" * 300 + "]", "1 2", "\0"]
    + ['"\\ud800"', "\ud800", "'a'"],
    ids=lambda text: repr(text[:12]),
)
def test_other_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


# -- YAML ------------------------------------------------------------------------------------------


def test_aliases_and_merge_keys_are_read():
    text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: [2, 3]}\n"
    assert parse_yaml(text) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": [2, 3]}}
    assert parse_yaml("[0x1f, 0b11, 1:30, 2001-01-02, 1e-3]")[:3] == [31, 3, 90]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (LAUGHS, "more than 100,000 values"),
        (MERGES, "more than 100,000 values"),
        ("&a [*a]", "alias inside its own anchor"),
        ("a: &a {b: *a}", "alias inside its own anchor"),
        ("[" * 10_000, "more than 50 levels"),
        ("- " * 10_000, "more than 50 levels"),
        ("9" * 5000, "300 digits"),
        ("x: 0x" + "f" * 5000, "300 digits"),
        ("x: 1" + ":1" * 5000, "300 digits"),
        ("seed: 2001-99-99", "month must be in 1..12"),
        ("seed: !!int x", "invalid literal"),
        ("seed: !!int ''", "not what its form says"),
        ("seed: !!bool x", "not what its form says"),
        ("seed: !!float x", "not what its form says"),
        ("seed: !!timestamp x", "not what its form says"),
        ("[1]: 2", "unhashable"),
        ("a: 1\nb: 2\na: 3", "'a' is repeated.*line 3"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a\0b", "special characters"),
        ("a: [", "expected the node content"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_other_yaml_is_a_value_error_of_one_line(text, part):
    with pytest.raises(ValueError, match=part) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)
