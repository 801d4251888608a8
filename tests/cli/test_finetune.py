"""`bnas-larq finetune` as users start it: a folder of images, a kill in each stage, wrong input."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

from bnas_larq.backend import keras
from bnas_larq.cli.main import main
from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.files import read_json, read_lines, sha256
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.run.finetune_source import finetune_recipe, pin_weights
from bnas_larq.run.finetuning import finetune
from bnas_larq.run_folder import RunFolder

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
EPOCHS = HEAD_EPOCHS = 8
CLASSES = ["apple", "pear", "quince"]
AUGMENTATION = {"crop_padding": 1, "flip": True, "color_jitter": [0.1, 0.1, 0.1, 0.1]}
#: What the command line below says, for the same in Python.
SETTINGS = {
    "epochs": EPOCHS,
    "head_epochs": HEAD_EPOCHS,
    "batch_size": 8,
    "train": {"drop_path": 0.3, "label_smoothing": 0.1},
    "seed": 3,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> StoredNetwork:
    """A network for two classes, as a run leaves it."""
    keras.utils.set_random_seed(1)
    stored = StoredNetwork(
        tmp_path_factory.mktemp("source") / "toy",
        Genotype(CELL, CELL),
        NetworkConfig(input_shape=(8, 8, 3), num_classes=2, channels=4, cells=3),
        ("cat", "dog"),
        {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]},
        {"name": "toys"},
    )
    stored.save()
    save_weights(build_network(stored.genotype, stored.config), stored.weights)
    recipe = {"data": {"augmentation": AUGMENTATION}}
    (stored.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return stored


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Sixteen images of another size in each of three classes, which differ in their colour."""
    folder, generator = tmp_path_factory.mktemp("data") / "fruit", np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(16):
            pixels = generator.integers(0, 120, (10, 12, 3))
            pixels[..., number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def line(source, images) -> list[object]:
    """The command line, but for --out."""
    return [
        *("finetune", source.folder, "--data", images, "--epochs", EPOCHS),
        *("--head-epochs", HEAD_EPOCHS, "--seed", 3, "--set", "train.batch_size=8"),
        *("--set", "train.drop_path=0.3", "--set", "train.label_smoothing=0.1"),
    ]


def weights(path: Path) -> dict[str, bytes]:
    """All arrays of an HDF5 file by their path in it."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, node: arrays.update(
                {name: node[()].tobytes()} if hasattr(node, "dtype") else {}
            )
        )
    return arrays


@pytest.fixture(scope="module")
def resumed(start, in_one_process, line, tmp_path_factory):
    """The folder of a run that was killed in both stages, and what was said when it ended."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    checkpoints = folder / "train" / "checkpoints"

    def kill_at(reached: Path, *more: str) -> None:
        process = start(*line, "--out", folder, *more)
        while not reached.is_dir():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert "train" not in read_json(folder / "state.json"), "killed too late"

    kill_at(checkpoints / "head" / "epoch-00002")
    assert not list(checkpoints.glob("epoch-*")), "killed too late"
    kill_at(checkpoints / f"epoch-{HEAD_EPOCHS + 2:05d}", "--resume")
    (done,) = in_one_process([[*line, "--out", folder, "--resume"]])
    assert done.code == 0, done.err
    return folder, done.out, done.err


@pytest.fixture(scope="module")
def in_python(source, images, tmp_path_factory):
    """The same without an interruption, in Python: (folder, model)."""
    folder = tmp_path_factory.mktemp("python") / "run"
    return folder, finetune(source.folder, images, out=folder, **SETTINGS)


def test_a_killed_run_ends_with_the_weights_of_the_uninterrupted_one(resumed, in_python):
    ours, theirs = weights(resumed[0] / "weights.h5"), weights(in_python[0] / "weights.h5")
    assert ours == theirs and len(ours) > 10


def test_its_metrics_have_every_epoch_once_with_the_same_values(resumed, in_python):
    ours, theirs = (
        [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in read_lines(folder / "train" / "metrics.jsonl")
        ]
        for folder in (resumed[0], in_python[0])
    )
    assert ours == theirs
    assert [row["epoch"] for row in ours] == list(range(HEAD_EPOCHS + EPOCHS))


def test_the_last_command_went_on_in_the_second_stage(resumed):
    _, out, err = resumed
    assert out == f"{resumed[0] / 'result.json'}\n"
    assert "search: already done" in err and "head epoch" not in err
    total = HEAD_EPOCHS + EPOCHS
    assert f"train epoch {total}/{total}" in err and "evaluate: test accuracy" in err
    assert not list(resumed[0].rglob("*checkpoint*"))


def test_the_run_is_one_like_all_others(resumed, source, images, capsys):
    folder = resumed[0]
    network = StoredNetwork.load(folder)
    assert network.class_names == tuple(CLASSES) and network.config.num_classes == 3
    assert network.genotype.id == source.genotype.id
    assert network.config == source.config.replace(num_classes=3)
    assert network.normalization == source.normalization
    assert read_json(folder / "network.json")["data"]["image_shape"] == [8, 8, 3]
    result = read_json(folder / "result.json")
    assert result["finished"] is True and result["recipe"] == "toy-fruit"
    assert result["finetuned_from"] == str(source.folder)
    assert result["test"]["examples"] == round(3 * 16 / 5)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["finetune"]["entry"] == str(source.folder)
    assert recipe["finetune"]["sha256"] == sha256(source.weights)
    assert recipe["data"]["data_dir"] == str(images) and recipe["data"]["image_size"] == 8
    usual = AugmentationSettings().model_dump()
    assert recipe["data"]["augmentation"] == {**usual, **AUGMENTATION}
    assert (recipe["network"]["cells"], recipe["network"]["channels"]) == (3, 4)
    assert main(["evaluate", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == result["test"]


def test_a_trained_run_no_longer_needs_its_source(resumed, source, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(resumed[0], folder)
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace(str(source.folder), str(tmp_path / "gone")))
    state = read_json(folder / "state.json")
    test = state.pop("evaluate")["test"]
    (folder / "state.json").write_text(json.dumps(state))
    assert main(["evaluate", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == test


def test_its_recipe_alone_repeats_it(resumed, in_python, tmp_path):
    """`train` with the folder's recipe: pinned to the same weights, the same bits."""
    out = tmp_path / "again"
    line = ["train", resumed[0] / "recipe.yaml", "--out", out, "--tensorboard"]
    assert main([str(word) for word in line]) == 0
    assert list((out / "tensorboard" / "train").rglob("events.*"))
    assert weights(out / "weights.h5") == weights(in_python[0] / "weights.h5")


# -- refused ---------------------------------------------------------------------------------------


@pytest.fixture
def begun(source, tmp_path) -> tuple[Path, list[object]]:
    """A run that has only just begun, from a source that may be changed."""
    copy = tmp_path / "toy"
    shutil.copytree(source.folder, copy)
    recipe = finetune_recipe(copy, {"name": "toy-digits", "data": {"name": "digits"}})
    recipe = recipe.model_copy(update={"finetune": pin_weights(recipe.finetune)})
    folder = RunFolder.create(tmp_path / "begun", recipe.to_yaml())
    folder.unlock()
    return folder.path, ["finetune", copy, "--data", "digits", "--out", folder.path]


def test_a_run_does_not_go_on_from_other_weights(refuse, begun):
    folder, again = begun
    network = StoredNetwork.load(again[1])
    save_weights(build_network(network.genotype, network.config), network.weights)
    message = refuse(*again, "--resume")
    assert "resumes with the weights it began with" in message and str(again[1]) in message
    assert "weights its recipe names" in refuse(
        *("train", folder / "recipe.yaml", "--out", folder, "--resume")
    )
    assert "head epoch" not in message and not (folder / "train").exists()


def test_a_run_does_not_go_on_with_other_settings(refuse, begun):
    _, again = begun
    assert "Received: another finetune than" in refuse(*again, "--resume", "--head-epochs", 1)
    assert "Received: another train than" in refuse(*again, "--resume", "--epochs", 1)


def test_what_a_run_begins_with_is_not_replaced(refuse, begun):
    _, (_, source, *_) = begun
    before = sha256(source / "weights.h5")
    for out in (source, source.parent):
        message = refuse("finetune", source, "--data", "digits", "--out", out, "--overwrite")
        assert "does not overwrite the network it starts from" in message
    assert sha256(source / "weights.h5") == before


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (("--set", "network.channels=8"), "keeps its size. Received: network.channels 8;"),
        (("--set", "genotype=bnas_cifar"), "keeps its genotype"),
        (("--set", "finetune.sha256=" + "f" * 64), "the weights its recipe names"),
        (("--set", "finetune.head_epoch=1"), "did you mean 'head_epochs'?"),
        (("--resume", "--overwrite"), "Give one of them"),
        (("--data-dir", "elsewhere"), "needs no other directory"),
        (("--set", "train.batch_size=1000"), "batch size 1000"),
    ],
)
def test_wrong_settings(refuse, line, tmp_path, more, part):
    assert part in refuse(*line, "--out", tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_wrong_sources_and_data(refuse, line, images, tmp_path):
    _, source, *rest = line
    out = ("--out", tmp_path / "out")
    assert "bnas-larq zoo list" in refuse("finetune", tmp_path / "absent", *rest, *out)
    (tmp_path / "untrained").mkdir()
    for name in ("network.json", "genotype.json"):
        shutil.copy(source / name, tmp_path / "untrained")
    assert "starts from trained weights" in refuse("finetune", tmp_path / "untrained", *rest, *out)
    absent = refuse("finetune", source, "--data", tmp_path / "no" / "where", *out)
    assert "which does not exist" in absent
    assert "digits" in refuse("finetune", source, "--data", "digits", "--data-dir", ".", *out)
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_written_among_its_images(refuse, line, images, source):
    inside = images / "runs" / "mine"
    assert "into the folder of its images" in refuse(*line, "--out", inside)
    assert not inside.parent.exists()
    file = next(path for path in images.rglob("*.png"))
    out = ("--out", images.parent / "elsewhere")
    assert "which is a file" in refuse("finetune", source.folder, "--data", file, *out)
