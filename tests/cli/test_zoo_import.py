"""`bnas-larq zoo import`, as users call it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.zoo.authors_layout import layout


@pytest.fixture
def checkpoint(tmp_path):
    config = NetworkConfig(cells=3, channels=2)
    draw = np.random.default_rng(0)
    tensors = {
        name: draw.uniform(0.1, 1.0, shape).astype(np.float32)
        for module in layout(Genotype.published("bnas_cifar"), config)
        for name, shape in module.tensors.items()
    }
    np.savez(tmp_path / "theirs.npz", **tensors)
    return tmp_path / "theirs.npz"


def test_import(checkpoint, in_one_process, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("BNAS_LARQ_ZOO", raising=False)
    (tmp_path / "code.npz").write_bytes(b"\x80\x04.")
    line = ["zoo", "import", checkpoint, "--variant", "auto", "--genotype", "bnas_cifar"]
    done, again, listed, shown, verified, mismatch, code, mean, helped = in_one_process(
        [
            [*line, "--mean", "0.5,0.4,0.3", "--input-size", 16],
            line,
            ["zoo", "list", "--json"],
            ["zoo", "show", "bnas-a-cifar10-imported"],
            ["zoo", "verify", "bnas-a-cifar10-imported"],
            ["zoo", "import", checkpoint, "--variant", "bnas-a"],
            ["zoo", "import", tmp_path / "code.npz", "--variant", "bnas-a"],
            [*line, "--mean", "0.5"],
            ["zoo", "import", "--help"],
        ]
    )
    assert done.code == 0, done.err
    folder = tmp_path / "keras" / "bnas_larq" / "zoo" / "bnas-a-cifar10-imported"
    assert done.out.strip() == str(folder)
    assert "left out" in done.err and "their authors'" in done.err and "not measured" in done.err
    network = json.loads((folder / "network.json").read_text())
    assert network["normalization"]["mean"] == [0.5, 0.4, 0.3]
    assert network["config"]["input_shape"] == [16, 16, 3]
    assert (again.code, len(again.errors)) == (2, 1) and "--overwrite" in again.err
    assert any(found["name"] == folder.name for found in json.loads(listed.out))
    assert "may not be redistributed" in shown.out and verified.code == 0
    for wrong, sentence in (
        (mismatch, "cells 3, channels 2. Use --variant auto --genotype bnas_cifar"),
        (code, "BadZipFile"),
        (mean, "--mean takes three numbers. Received: '0.5'"),
    ):
        assert (wrong.code, len(wrong.errors)) == (2, 1), wrong.err
        assert sentence in wrong.errors[0]
    assert "not pass them on" in " ".join(helped.out.split())
