"""BATS' recipe, tiny: a progressive search whose genotype is trained in two stages and exported."""

from __future__ import annotations

import dataclasses

import pytest

from bnas_larq import Run, SearchSpace
from bnas_larq.errors import BnasLarqError
from bnas_larq.files import read_json, read_lines
from bnas_larq.spaces import SPACES

TINY = {
    "data.name": "digits",
    "data.limit": 120,
    "data.augmentation.cutout": 0,
    "search.progressive": {"cells": [1, 2], "kept": [2]},
    "search.channels": 4,
    "search.groups": 2,
    "search.epochs": 2,
    "search.alpha_start_epoch": 0,
    "search.batch_size": 30,
    "network.cells": 1,
    "network.channels": 4,
    "network.groups": 2,
    "train.epochs": 1,
    "train.batch_size": 40,
    "export.parity_images": 4,
}


@pytest.fixture(autouse=True)
def one_node(monkeypatch):
    """Cells of one node in place of four, which take a minute to trace."""
    small = dataclasses.replace(SearchSpace.bats(), nodes=1)
    monkeypatch.setitem(SPACES, "bats", lambda: small)


def test_from_images_to_a_file(tmp_path):
    with Run.create("bats", tmp_path / "run", overrides=TINY) as run:
        run.run()
    folder = tmp_path / "run"
    assert [row["epoch"] for row in read_lines(folder / "search" / "alphas.jsonl")] == [0, 1]
    assert run.genotype.provenance["cells"] == 2 and run.genotype.provenance["space"] == "bats"
    assert [row["stage"] for row in read_lines(folder / "train" / "metrics.jsonl")] == [
        *("real-kernels", "binary")
    ]
    report = read_json(folder / "export.json")
    assert report["parity"]["max_abs_difference"] < 1e-3
    for row in report["convolutions"]:
        if "_preprocess" in row["name"]:
            assert row["binary"]
        if "_bin_group_" in row["name"]:
            assert not row["binary"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"search.groups": 3}, "Groups divide .* Received: groups=3, channels=4"),
        ({"network.groups": 4}, "at least two .* Received: groups=4, channels=4"),
        ({"search.space": "bnas", "network.groups": 1}, "have groups. Received: groups=2"),
        ({"search.cells": 3}, "search.cells 3. Progressive stages have numbers"),
        ({"search.momentum": 0.5}, "search.momentum 0.5. Only SGD in a supernet has"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(override, message, tmp_path):
    with pytest.raises(BnasLarqError, match=message):
        with Run.create("bats", tmp_path / "run", overrides={**TINY, **override}) as run:
            run.search()
    assert not (tmp_path / "run" / "search").exists()
