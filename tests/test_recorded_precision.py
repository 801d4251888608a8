"""The precision of a stage is resolved once."""

from __future__ import annotations

import json

import pytest

from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.precision import RECORD, recorded_precision


def test_auto_is_measured_once(tmp_path):
    first = recorded_precision(tmp_path / "train", "auto")
    path = tmp_path / "train" / RECORD
    assert json.loads(path.read_text()) == {"name": first.name, "reason": first.reason}
    other = {"float32": "bfloat16", "bfloat16": "float32"}[first.name]
    path.write_text(json.dumps({"name": other, "reason": "another machine"}))
    assert recorded_precision(tmp_path / "train", "auto").name == other


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_what_is_asked_for_by_name_needs_no_record(tmp_path, name):
    assert recorded_precision(tmp_path, name).name == name
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_leaves_nothing_behind(tmp_path):
    with pytest.raises(BnasLarqError, match="Received: 'half'"):
        recorded_precision(tmp_path, "half")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "[]", '{"name": "auto", "reason": ""}', '{"name": "float32"}']
)
def test_a_damaged_record_stops_the_run(tmp_path, text):
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(RunError, match="Received: "):
        recorded_precision(tmp_path, "auto")
