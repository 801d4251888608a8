"""Tables of latencies: which entry counts where, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml

from bnas_larq.costs.latency_tables import LatencyTable, Place
from bnas_larq.errors import BnasLarqError

TABLE = {
    "bin_conv_3x3": [
        {"channels": 16, "size": 32, "milliseconds": 0.21},
        {"channels": 32, "size": [32, 24], "stride": 2, "milliseconds": 0.12},
        {"milliseconds": 0.15},
    ],
    "bin_conv_5x5": [{"stride": 1, "milliseconds": 0.4}],
    "max_pool_3x3": 0.04,
    "none": 0,
    "stem": 1,
}


@pytest.fixture(params=[yaml.safe_dump, json.dumps], ids=["yaml", "json"])
def table(request, tmp_path):
    """The table behind a file."""
    path = tmp_path / "latency.file"
    path.write_text(request.param(TABLE), encoding="utf-8")
    return LatencyTable.load(path)


@pytest.mark.parametrize(
    ("name", "place", "wanted"),
    [
        ("bin_conv_3x3", Place(1, 16, (32, 32)), 0.21),
        ("bin_conv_3x3", Place(2, 16, (32, 32)), 0.21),
        ("bin_conv_3x3", Place(1, 16, (32, 24)), 0.15),
        ("bin_conv_3x3", Place(2, 32, (32, 24)), 0.12),
        ("bin_conv_3x3", Place(1, 32, (32, 24)), 0.15),
        ("max_pool_3x3", Place(1, 8, (4, 4)), 0.04),
        ("stem", Place(1, 8, (4, 4)), 1.0),
        ("classifier", Place(1, 8, (4, 4)), 0.0),
    ],
)
def test_the_first_entry_that_fits_counts(table, name, place, wanted):
    assert table.milliseconds(name, place) == wanted


def test_round_trip(table):
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_what_is_not_in_the_table(table):
    with pytest.raises(BnasLarqError, match="no entry for bin_conv_5x5 that fits stride 2, 8 chan"):
        table.milliseconds("bin_conv_5x5", Place(2, 8, (4, 4)))
    table.check_holds(["none", "bin_conv_3x3"])
    with pytest.raises(BnasLarqError, match="Received: none for avg_pool_3x3. Measure and add"):
        table.check_holds(["bin_conv_3x3", "avg_pool_3x3"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "holds milliseconds from 0 up by operation.* Received: \\[\\]; Correct"),
        ({}, "holds milliseconds from 0 up by operation.* Received: {}"),
        ({"bin_conv_3X3": 1.0}, "Received: 'bin_conv_3X3'; did you mean 'bin_conv_3x3'"),
        ({1: 1.0}, "must be registered. Received: 1; known"),
        ({"stem": -0.1}, "from 0 up.* Received: -0.1 for stem"),
        ({"stem": float("nan")}, "Received: nan for stem"),
        ({"stem": True}, "Received: True for stem"),
        ({"stem": "fast"}, "Received: 'fast' for stem"),
        ({"stem": []}, "Received: \\[\\] for stem"),
        ({"stem": {"stride": 1}}, "Received: {'stride': 1} for stem.milliseconds"),
        ({"stem": {"chanels": 1, "milliseconds": 1}}, "Received: 'chanels' .*mean 'channels'"),
        ({"stem": {"channels": 1.5, "milliseconds": 1}}, "whole numbers.* Received: 1.5 for stem"),
        ({"stem": {"channels": True, "milliseconds": 1}}, "Received: True for stem.channels"),
        ({"stem": {"size": [1, 2, 3], "milliseconds": 1}}, "`size` .one or .height, width."),
        ({"stem": {"size": 0, "milliseconds": 1}}, "Received: 0 for stem.size"),
        ({"none": 0.1}, "Zeroise takes no time.* Received: a time for none"),
    ],
)
def test_damaged_tables(values, message):
    with pytest.raises(BnasLarqError, match=message):
        LatencyTable.from_dict(values)


def test_unreadable_files(tmp_path):
    with pytest.raises(BnasLarqError, match="readable YAML or JSON.*search.cost.table"):
        LatencyTable.load(tmp_path / "absent.yaml")
    path = tmp_path / "damaged.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(BnasLarqError, match="readable YAML or JSON"):
        LatencyTable.load(path)
    path.write_text("!!python/object/apply:os.system [ls]", encoding="utf-8")
    with pytest.raises(BnasLarqError, match="readable YAML or JSON"):
        LatencyTable.load(path)
