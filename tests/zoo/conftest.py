"""Zoos that tests may fill: empty ones in a temporary folder, and entries that cost nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.zoo.entries import Entry, store_entry

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]


@pytest.fixture(scope="session")
def small_network(tmp_path_factory) -> StoredNetwork:
    """An untrained network of one cell on 8×8 images, as it lies in run folders and entries."""
    stored = StoredNetwork(
        tmp_path_factory.mktemp("network"),
        Genotype(CELL, CELL),
        NetworkConfig(input_shape=(8, 8, 3), num_classes=3, channels=2, cells=1),
        ("cat", "dog", "ship"),
        {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        {"name": "toys"},
    )
    stored.save()
    from bnas_larq.networks.network import build_network

    model = build_network(stored.genotype, stored.config)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape).astype("float32") for w in model.weights])
    save_weights(model, stored.weights)
    return stored


@pytest.fixture
def own_zoo(tmp_path, monkeypatch) -> Path:
    """An empty zoo of the user in a new Keras home; the packaged one is empty too."""
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("BNAS_LARQ_ZOO", raising=False)
    monkeypatch.setattr("bnas_larq.resources.zoo_dir", lambda: packaged)
    return tmp_path / "keras" / "bnas_larq" / "zoo"


@pytest.fixture
def make_entry(own_zoo, small_network) -> Callable[..., Entry]:
    """`make_entry("name", zoo=…, cells=…, **facts)`: an entry around `small_network`.

    With `cells` or `channels` the entry is described as that large, and its weights do not fit.
    """

    def make(name: str = "toy", zoo: Path | None = None, **facts) -> Entry:
        size = {key: facts.pop(key) for key in ("cells", "channels") if key in facts}

        def fill(folder: Path) -> dict:
            described = dataclasses.replace(
                small_network,
                folder=folder,
                config=dataclasses.replace(small_network.config, **size),
            )
            described.save()
            shutil.copy(small_network.weights, folder)
            (folder / "card.md").write_text(f"# {name}\n")
            return {"variant": "bnas-d", "dataset": "toys", **facts}

        return store_entry(zoo or own_zoo, name, fill)

    return make


# -- a network with reduction cells, for factories and preprocessing ------------------------------


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A folder with network.json, genotype.json and weights.h5: 3 cells of 4 channels, none of them
    at its initial value.
    """
    from bnas_larq.networks.network import build_network

    genotype = Genotype.published("bnas_cifar")
    config = NetworkConfig(input_shape=(32, 32, 3), num_classes=10, channels=4, cells=3)
    model = build_network(genotype, config)
    draw = np.random.default_rng(1)
    for weight in model.weights:
        if "bn" in weight.name:
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(draw.normal(0.0, 0.3, weight.shape))
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    normalization = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    names = tuple(f"class {letter}" for letter in "abcdefghij")
    StoredNetwork(folder, genotype, config, names, normalization, {"name": "cifar10"}).save()
    save_weights(model, folder / "weights.h5")
    return folder


@pytest.fixture(scope="session")
def stored_entry(run_folder, tmp_path_factory) -> Entry:
    """The run's network as an entry; no zoo that is searched holds it. Read only."""
    folder = tmp_path_factory.mktemp("zoo") / "bnasd-cifar10-test"
    shutil.copytree(run_folder, folder)
    return Entry.create(
        folder, name=folder.name, variant="bnas-d", dataset="cifar10", metrics={"accuracy": 0.99}
    )


@pytest.fixture
def zoo_entry(stored_entry, own_zoo, monkeypatch) -> Entry:
    """The entry in a zoo that is searched. Read only."""
    monkeypatch.setenv("BNAS_LARQ_ZOO", str(stored_entry.folder.parent))
    return stored_entry


@pytest.fixture
def zoo_copy(stored_entry, own_zoo) -> Entry:
    """The same in the user's zoo, to be damaged."""
    folder = own_zoo / stored_entry.name
    shutil.copytree(stored_entry.folder, folder)
    return Entry.load(folder)
