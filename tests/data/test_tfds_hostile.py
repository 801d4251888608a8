"""Prepared TFDS data sets that lie: modules to import, labels, numbers of examples, names."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bnas_larq.data import data_errors, load_dataset
from bnas_larq.data.tfds_source import find_builder
from bnas_larq.errors import DataError


def write(folder, *, labels=lambda number: number % 2, channels=1, label=None):
    """A data set of 20 training images that TFDS prepared; returns its version's folder."""
    shape = (6, 5, channels)
    image = np.zeros(shape, np.uint8)
    image[..., :1] = 9
    examples = [(number, {"image": image, "label": labels(number)}) for number in range(20)]
    tfds.dataset_builders.AdhocBuilder(
        name="things",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": label or tfds.features.ClassLabel(num_classes=2),
            }
        ),
        split_datasets={"train": examples},
        data_dir=str(folder),
    ).download_and_prepare()
    return folder / "things" / "1.0.0"


def load(folder, name="things", **arguments):
    return load_dataset(name, data_dir=str(folder), **arguments)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def version(prepared, tmp_path):
    """A copy in `tmp_path` to be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "things" / "1.0.0"))


@pytest.mark.parametrize(
    "place, key",
    [
        (place, key)
        for place in ("root", "label")
        for key in ("pythonClassName", "python_class_name")
    ]
    + [("root", "type")],
)
def test_no_module_of_a_features_file_is_imported(version, tmp_path, monkeypatch, key, place):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((version / "features.json").read_text())
    feature = features if place == "root" else features["featuresDict"]["features"]["label"]
    del feature["pythonClassName"]
    feature[key] = "evil_module.Feature"
    if key == "type":
        feature["content"] = {}
    (version / "features.json").write_text(json.dumps(features))
    for folder in (tmp_path, version):
        with pytest.raises(DataError, match="features of TFDS alone. Received: 'evil_module.Feat"):
            load(folder)
    assert not (tmp_path / "mark").exists()


def test_tfds_itself_still_finds_features_of_others(version, tmp_path):
    load(tmp_path)
    assert isinstance(vars(tfds.features.FeatureConnector)["cls_from_name"], classmethod)


@pytest.mark.parametrize("count", [10**9, 10**15, -5])
@pytest.mark.parametrize("memory", [2000, 0])
def test_more_examples_than_the_files_hold_are_refused(version, tmp_path, count, memory):
    info = json.loads((version / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(count)]
    (version / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=rf"description says. Received: \d+ instead of {count} "):
        load(tmp_path, memory_limit_mb=memory)


def classes(version, count):
    """Have the description claim another number of classes than the labels were written with."""
    features = json.loads((version / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = str(count)
    (version / "features.json").write_text(json.dumps(features))


def test_endless_classes_are_refused(version, tmp_path):
    classes(version, 10**9)
    with pytest.raises(
        DataError, match="at most 100,000 classes. Received: things with 1000000000"
    ):
        load(tmp_path)


def test_labels_that_a_terminal_obeys_are_refused(version, tmp_path):
    (version / "label.labels.txt").write_text("no\n\x1b[2Jyes\n")
    with pytest.raises(DataError, match=r"printable UTF-8 text. Received: b'\\x1b\[2Jyes'"):
        load(tmp_path)


@pytest.mark.parametrize("memory", [2000, 0])
def test_a_label_outside_the_classes_is_refused(tmp_path, memory):
    version = write(
        tmp_path,
        labels=lambda number: 5 if number == 19 else number % 2,
        label=tfds.features.ClassLabel(num_classes=6),
    )
    classes(version, 2)
    with pytest.raises(DataError, match="a label from 0 to 1. Received: another one in things"):
        with data_errors():
            dataset = load(tmp_path, memory_limit_mb=memory)
            for part in (dataset.train, dataset.validation, dataset.test):
                list(part.epoch(0, 0))


@pytest.mark.parametrize("memory", [2000, 0])
def test_some_unlabelled_images_are_refused(tmp_path, memory):
    # The order of writing is shuffled: nine of ten have none, but perhaps not the first.
    write(tmp_path, labels=lambda number: number % 2 if number < 10 else -1)
    with pytest.raises(DataError, match="label"), data_errors():
        dataset = load(tmp_path, memory_limit_mb=memory)
        for part in (dataset.train, dataset.validation, dataset.test):
            list(part.epoch(0, 0))


def test_transparency_shows_the_background(tmp_path):
    write(tmp_path, channels=4)
    for memory in (2000, 0):
        assert load(tmp_path, memory_limit_mb=memory).train.images_at([0]).min() == 255
        dataset = load(tmp_path, memory_limit_mb=memory, background=(1, 2, 3))
        assert dataset.train.images_at([0])[0, 0, 0].tolist() == [1, 2, 3]


def test_a_folder_that_tfds_does_not_find_by_its_name_is_opened_by_its_version(version, tmp_path):
    (tmp_path / "things").rename(tmp_path / "Numbered")
    version = tmp_path / "Numbered" / "1.0.0"
    with pytest.raises(DataError, match="TFDS does not find") as caught:
        load(tmp_path, "Numbered")
    assert str(caught.value).endswith(f"Give --data-dir {version}.")
    assert find_builder("Numbered", str(version)).info.splits["train"].num_examples == 20


def test_an_empty_folder_is_not_proposed_instead_of_itself(tmp_path):
    (tmp_path / "empty_things").mkdir()
    with pytest.raises(DataError) as caught:
        load(tmp_path, "empty_things")
    assert "did you mean 'empty_things'" not in str(caught.value)
