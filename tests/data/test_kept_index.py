"""Large data sets are opened again without reading every file."""

import os

import numpy as np
import pytest
from PIL import Image

from bnas_larq.data import kept_index, load_dataset, tfds_records
from bnas_larq.data.kept_index import joined_names, split_names
from bnas_larq.data.tfds_records import Records
from bnas_larq.resources import index_dir


@pytest.fixture
def keeping(tmp_path, monkeypatch):
    """Data sets of any size get an index."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    for module in (kept_index, tfds_records):
        monkeypatch.setattr(module, "INDEXED_FROM", 1)


@pytest.fixture
def read(monkeypatch):
    """Names of the files whose headers are read."""
    names, image_header = [], kept_index.image_header

    def noted(path):
        names.append(path.name)
        return image_header(path)

    monkeypatch.setattr(kept_index, "image_header", noted)
    return names


@pytest.fixture
def folder(tmp_path):
    for label in range(2):
        for number in range(5):
            path = tmp_path / "images" / f"class {label}" / f"caf\udce9 {number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (8, 6), (10 * number, 0, 0, 255)).save(path)
    return tmp_path / "images"


def load(folder):
    return load_dataset("folder", data_dir=str(folder), memory_limit_mb=1, image_size=8)


def test_headers_are_read_once(keeping, read, folder):
    first = load(folder)
    assert len(read) == 10 and len(list(index_dir().iterdir())) == 1
    read.clear()
    again = load(folder)
    assert read == []
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert one.fingerprint() == other.fingerprint()
        np.testing.assert_array_equal(one.images_at([0, 1]), other.images_at([0, 1]))


def test_what_has_changed_is_read_again(keeping, read, folder):
    load(folder)
    read.clear()
    changed, new = (folder / "class 1" / name for name in ("a.png", "c.png"))
    old = sorted((folder / "class 1").iterdir())
    old[0].rename(changed)
    os.utime(old[1], ns=(1, 1))
    Image.new("RGB", (9, 9)).save(new)
    assert len(load(folder).train.labels)
    assert sorted(read) == sorted([changed.name, old[1].name, new.name])
    read.clear()
    load(folder)
    assert read == []


def test_a_home_that_takes_no_files_stops_nothing(keeping, read, folder, tmp_path):
    (tmp_path / "keras").write_text("a file")
    assert len(load(folder).train.labels) and len(load(folder).train.labels)
    assert len(read) == 20


def test_a_damaged_index_is_made_anew(keeping, read, folder):
    load(folder)
    (path,) = index_dir().iterdir()
    for damage in (b"", path.read_bytes()[:-50], b"no archive"):
        path.write_bytes(damage)
        read.clear()
        load(folder)
        assert len(read) == 10


def test_small_folders_have_none(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    load(folder)
    assert not index_dir().exists()


def test_records_are_indexed_once(keeping, varied_pictures, monkeypatch):
    read, indexed = [], Records._indexed

    def noted(self, file):
        read.append(file)
        return indexed(self, file)

    monkeypatch.setattr(Records, "_indexed", noted)
    source = {**varied_pictures.source("tfds"), "image_size": 32, "memory_limit_mb": 1}
    first = load_dataset(**source)
    assert len(read) == 2
    again = load_dataset(**source)
    assert len(read) == 2
    assert first.train.fingerprint() == again.train.fingerprint()
    np.testing.assert_array_equal(first.train.images_at([5]), again.train.images_at([5]))
    os.utime(read[0], ns=(1, 1))
    load_dataset(**source)
    assert read[2:] == read[:1]


def test_names_that_are_no_text_are_kept():
    names = ["a/b", "caf\udce9", "ä"]
    assert split_names(joined_names(names)) == names
