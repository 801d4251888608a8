"""Networks that verify faces, from a recipe to two images, on drawn faces."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import keras, tf
from bnas_larq.cli.main import main
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.margin_head import CenterLoss, MarginHead
from bnas_larq.networks.embedding_network import build_embedding_network
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.recipe import load_recipe
from bnas_larq.run.creation import resolve_recipe
from bnas_larq.run.face_study import FaceStudy, compare_images
from bnas_larq.run.face_verification import NETWORKS, with_head
from bnas_larq.study_settings import FacesSettings

SMALL = {
    "data.image_size": [8, 8],
    "network.widths": [8, 16],
    "network.blocks": [1, 1],
    "train.epochs": 6,
    "train.batch_size": 8,
    "data.augmentation.crop_padding": 1,
    "faces": {"train_people": 4, "features": 8, "folds": 2, "center_weight": 0.01},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Eight people of four pictures each: a colour of their own, with noise."""
    folder = tmp_path_factory.mktemp("people")
    random = np.random.default_rng(0)
    for person in range(1, 9):
        colour = random.integers(40, 216, (8, 8, 3))
        (folder / f"s{person}").mkdir()
        for number in range(1, 5):
            noisy = np.clip(colour + random.normal(0, 12, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"s{person}" / f"{number}.png")
    return folder


def recipe(people, **changes):
    return resolve_recipe("faces-orl", {**SMALL, "data.data_dir": str(people), **changes})


@pytest.fixture(scope="module")
def study(people, tmp_path_factory):
    """A finished run's folder, and its table: of one replica, which does what no strategy does."""
    path = tmp_path_factory.mktemp("runs") / "faces"
    faces = FaceStudy.create(recipe(people), path, strategy="mirrored")
    table, _ = faces.run()
    faces.close()
    return path, table


def test_both_networks_are_trained_verified_and_exported(study):
    path, table = study
    record = json.loads((path / "networks" / "verification.json").read_text())
    assert list(record["networks"]) == list(NETWORKS) == ["binary", "full-precision"]
    assert record["image_shape"] == [8, 8, 3]
    for name, facts in record["networks"].items():
        # 2 folds of 2 people, of 4·3/2 pairs each, and as many of two people.
        assert facts["pairs"] == 2 * 2 * 6 * 2
        assert f"{facts['accuracy']:.4f}" in table and name in table
        folder = path / "networks" / name
        report = json.loads((folder / "export.json").read_text())
        assert report["binary_convolutions"] == (2 if name == "binary" else 0)
        # Without the head, which has no part in the file.
        assert [c["name"] for c in report["convolutions"] if c["kind"] == "dense"] == ["embedding"]
        assert report["parity"]["images"] == 16
        assert (folder / "model.tflite").stat().st_size == report["bytes"]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6
        assert not (folder / "checkpoints").exists()
    assert (path / "networks" / "roc.png").is_file()


def test_two_images_are_compared(study, people, capsys):
    path, _ = study
    same = compare_images(path, people / "s5" / "1.png", people / "s5" / "2.png")
    itself = compare_images(path, people / "s5" / "1.png", people / "s5" / "1.png")
    for name in NETWORKS:
        assert 0 <= same[name].distance <= 4
        assert (itself[name].distance, itself[name].same) == (0.0, True)
        assert same[name].same == (same[name].distance < same[name].threshold)
    files = [str(people / "s5" / "1.png")] * 2
    assert main(["verify-faces", str(path), *files]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("binary: same person (distance 0.000, threshold ")
    assert second.startswith("full-precision: same person")


def test_a_finished_run_is_not_done_again(study, people):
    path, table = study
    before = (path / "networks" / "binary" / "weights.h5").read_bytes()
    again = FaceStudy.create(recipe(people), path, resume=True)
    assert again.run()[0] == table
    again.close()
    assert (path / "networks" / "binary" / "weights.h5").read_bytes() == before


class Killed(Exception):
    pass


def test_killed_and_resumed_it_ends_with_the_same_networks(study, people, tmp_path, monkeypatch):
    from bnas_larq.run import face_verification

    def stop(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        # After the training of the first network.
        patch.setattr(face_verification, "verify_people", stop)
        faces = FaceStudy.create(recipe(people), tmp_path / "run")
        with pytest.raises(Killed):
            faces.run()
        faces.close()
    faces = FaceStudy.create(recipe(people), tmp_path / "run", resume=True)
    assert faces.run()[0] == study[1]
    faces.close()
    for name in NETWORKS:
        files = [p / "networks" / name / "weights.h5" for p in (study[0], tmp_path / "run")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_head_comes_on_top_of_the_networks_own_layers():
    config = ResidualConfig(input_shape=(8, 8, 3), widths=(4, 8), blocks=(1, 1))
    network = build_embedding_network(None, config, features=6)
    plain = with_head(network, 3, FacesSettings())
    assert isinstance(plain.layers[-1], MarginHead) and plain.output_shape == (None, 3)
    centred = with_head(network, 3, FacesSettings(center_weight=0.1))
    assert any(isinstance(layer, CenterLoss) for layer in centred.layers)
    for layer in network.layers:
        assert layer in plain.layers and layer in centred.layers
    keras.backend.clear_session()
    assert with_head(network, 3, FacesSettings(head="cosface")).layers[-1].kind == "cosface"
    images = tf.random.stateless_uniform((2, 8, 8, 3), (1, 2))
    assert plain([images, tf.constant([0, 2], tf.int64)]).shape == (2, 3)


def test_what_a_recipe_of_faces_refuses(people, tmp_path):
    cases = {
        "data.name": ("digits", "one folder per person. Received: data.name digits"),
        "network.kind": ("cells", "not searched. Received: no genotype"),
        "train.mixup": (0.2, "Received: train.mixup"),
        "train.stages": ([{"epochs": 1}], "Received: train.stages"),
    }
    for key, (value, message) in cases.items():
        changes = {key: value}
        if key == "network.kind":
            changes |= {"network.widths": [32, 64, 128], "network.blocks": [2, 3, 3]}
        with pytest.raises(BnasLarqError, match=message):
            FaceStudy.create(recipe(people, **changes), tmp_path / "run")
    with pytest.raises(BnasLarqError, match="reads. Received: data.limit 9"):
        FaceStudy.create(recipe(people, **{"data.limit": 9}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.data_dir": "/nowhere"}, "Received: /nowhere"),
        ({"faces.train_people": 8}, "Received: train=8 of 8 people"),
        ({"faces.folds": 3}, "Received: 4 people for 3 folds"),
        ({"train.batch_size": 17}, "batch size 17 for 16"),
        ({"network.scheme": "full-precision"}, "binarises nothing has no activations"),
    ],
)
def test_a_study_that_does_not_fit_its_people_replaces_nothing(people, tmp_path, changes, message):
    old, new = tmp_path / "old", tmp_path / "new"
    FaceStudy.create(recipe(people), old).close()
    (old / "networks").mkdir()
    for path, overwrite in ((old, True), (new, False)):
        with pytest.raises(BnasLarqError, match=message):
            FaceStudy.create(recipe(people, **changes), path, overwrite=overwrite)
    assert (old / "networks").exists() and not new.exists()


def test_other_runs_compare_no_faces(tmp_path, people):
    path = tmp_path / "run"
    FaceStudy.create(recipe(people), path).close()
    with pytest.raises(
        BnasLarqError, match=f"finished run with the section faces. Received: {path}"
    ):
        compare_images(path, "a.png", "b.png")


def test_the_shipped_recipe():
    shipped = load_recipe("faces-orl")
    assert shipped.study == "faces" and shipped.faces.train_people == 20
