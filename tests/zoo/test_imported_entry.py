"""An imported checkpoint becomes an entry of the user's zoo, where the factories find it."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.errors import BnasLarqError, ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.zoo import BNASD, find_entry, list_entries
from bnas_larq.zoo.authors_layout import layout
from bnas_larq.zoo.checkpoint_import import read_import
from bnas_larq.zoo.imported_entry import CIFAR10, CIFAR10_CLASSES, import_entry
from bnas_larq.zoo.preprocessing import IMAGENET


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(num_classes=…)`: a file of a small network with the ImageNet cell."""

    def make(genotype: str = "bnas_imagenet", **settings):
        config = NetworkConfig(**{"cells": 1, "channels": 2, **settings})
        draw = np.random.default_rng(0)
        path = tmp_path / "small.npz"
        tensors = {
            name: draw.uniform(0.1, 1.0, shape).astype(np.float32)
            for module in layout(Genotype.published(genotype), config)
            for name, shape in module.tensors.items()
        }
        np.savez(path, **tensors)
        return path

    return make


def test_round_trip_through_the_zoo(shared, own_zoo):
    """Import, then `BNASD(weights="imagenet")`: the logits of the authors' program."""
    path = shared / "fixtures" / "open_imagenet.npz"
    entry = import_entry(path, "auto", "bnas_imagenet")
    assert entry.folder == own_zoo / "bnas-d-imagenet-imported"
    fixture = np.load(path)
    with pytest.warns(UserWarning, match="not the paper's BNASD: 4 cells of 8 channels"):
        model = BNASD(weights="imagenet", classifier_activation=None)
    logits = model(fixture["input_nchw"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, fixture["logits"], atol=1e-4)


def test_the_entry_tells_what_it_is(checkpoint, own_zoo):
    path = checkpoint()
    entry = import_entry(path, "auto", "bnas_imagenet", "head")
    assert [found.name for found in list_entries()] == ["bnas-d-cifar10-imported"] == [entry.name]
    assert (entry.source, entry.redistributable, entry.variant) == ("imported", False, "bnas-d")
    assert entry.metrics == {}
    assert "their authors'" in entry.license and "not be redistributed" in entry.license
    assert entry.class_names == CIFAR10_CLASSES
    assert entry.normalization == CIFAR10
    assert entry.provenance["full_precision"] == "head"
    assert entry.provenance["checkpoint"]["name"] == "small.npz"
    assert str(path.parent) not in (entry.folder / "entry.json").read_text()
    assert "**Accuracy**: not measured" in entry.card
    assert "cell0_node3_from1_bin_dil_conv_3x3_conv, cell0_node3" in entry.card
    config = entry.network.config
    assert (config.padding, len(config.full_precision)) == ("symmetric", 2)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    expected = read_import(path, "bnas_imagenet", "head").load_model()(images)
    np.testing.assert_array_equal(find_entry("cifar10").load_model()(images), expected)


def test_large_images_and_ones_own_facts(checkpoint, own_zoo, tmp_path):
    path = checkpoint(input_shape=(96, 96, 3), num_classes=3)
    entry = import_entry(path, "auto", "bnas_imagenet", input_shape=(96, 96, 3), name="a")
    assert (entry.dataset, entry.normalization) == ("imagenet", IMAGENET)
    assert entry.class_names == ("class 0", "class 1", "class 2")
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n\nship\n")
    entry = import_entry(
        path,
        "auto",
        "bnas_imagenet",
        dataset="my_pets",
        input_shape=(96, 96, 3),
        out=tmp_path / "zoo",
        labels=labels,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )
    assert entry.folder == tmp_path / "zoo" / "bnas-d-my-pets-imported"
    assert entry.class_names == ("cat", "dog", "ship")
    assert entry.normalization.to_dict() == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def test_nothing_is_overwritten_unasked(checkpoint, own_zoo):
    path = checkpoint()
    import_entry(path, "auto", "bnas_imagenet")
    with pytest.raises(ZooError, match="name of its own.*--overwrite"):
        import_entry(path, "auto", "bnas_imagenet", "head")
    assert find_entry("cifar10").provenance["full_precision"] == "all-binary"
    import_entry(path, "auto", "bnas_imagenet", "head", overwrite=True)
    assert find_entry("cifar10").provenance["full_precision"] == "head"
    assert [folder.name for folder in own_zoo.iterdir()] == ["bnas-d-cifar10-imported"]


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({}, {"genotype": None}, "does not tell its genotype.*--genotype bnas_imagenet"),
        ({}, {"variant": "bnas-x"}, "variant is a network.*did you mean 'bnas-"),
        (
            {},
            {"variant": "bnas-d"},
            "of bnas-d must have its genotype and size .cells 12, channels 64.. "
            "Received: .*small.npz with cells 1, channels 2. "
            "Use --variant auto --genotype bnas_imagenet",
        ),
        ({}, {"variant": "bnas-a", "genotype": None}, "here bnas_cifar .*It fits bnas_imagenet"),
        ({}, {"variant": "bnas-a"}, r"its genotype and size \(genotype g-"),
        ({"num_classes": 7}, {}, "7 classes and the CIFAR stem.*Give --dataset"),
        ({}, {"labels": "absent.txt"}, "one name a line, here 10. Received: absent.txt"),
        ({}, {"name": "Bad Name"}, "small letters, digits and hyphens"),
        ({}, {"dataset": "../x"}, "small letters, digits"),
        ({}, {"mean": (0.5, 0.5, np.nan)}, "three finite means"),
        ({}, {"full_precision": "some"}, "all-binary, head. Received: 'some'"),
    ],
)
def test_refused_and_nothing_written(settings, arguments, message, checkpoint, own_zoo):
    arguments = {"variant": "auto", "genotype": "bnas_imagenet", **arguments}
    with pytest.raises(BnasLarqError, match=message):
        import_entry(checkpoint(**settings), **arguments)
    assert not own_zoo.exists() or list(own_zoo.iterdir()) == []


def test_labels_must_fit(checkpoint, own_zoo, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\n")
    with pytest.raises(ZooError, match="here 10. Received: .*labels.txt with 2"):
        import_entry(checkpoint(), "auto", "bnas_imagenet", labels=labels)
    labels.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ZooError, match="UnicodeDecodeError"):
        import_entry(checkpoint(), "auto", "bnas_imagenet", labels=labels)
