"""Everything a user can get wrong ends with exit code 2 and one sentence, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from bnas_larq.checkpoints import Checkpoints
from bnas_larq.cli.main import main
from bnas_larq.files import read_json
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.run_folder import RunFolder


@pytest.fixture
def begun(tiny, tmp_path):
    """A run folder that has only just begun."""
    recipe = load_recipe(tiny)
    folder = RunFolder.create(tmp_path / "begun", recipe.to_yaml())
    folder.unlock()
    return folder.path


@pytest.fixture
def images(tmp_path):
    """A folder with five images in each of two classes."""
    folder = tmp_path / "images"
    for name in ("apple", "pear"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.full((8, 8, 3), 20 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def contents(folder):
    """All files of a folder and what is in them."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


# -- recipes -------------------------------------------------------------------------------------


def test_a_damaged_recipe(refuse, tmp_path):
    (tmp_path / "bad.yaml").write_text("search: {epochs: 3\ntrain: [")
    message = refuse("run", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert "A recipe must be readable YAML" in message and "bad.yaml" in message
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_no_mapping_or_no_text(refuse, tmp_path):
    (tmp_path / "bad.yaml").write_text("- 1\n- 2\n")
    assert "mapping of sections" in refuse("run", tmp_path / "bad.yaml", "--out", tmp_path / "o")
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "readable YAML" in refuse("run", tmp_path / "bad.yaml", "--out", tmp_path / "o")


@pytest.mark.parametrize(
    ("text", "found", "known"),
    [
        ("search: {epoch: 3}\n", "search.epoch", "epochs"),
        ("serach: {epochs: 3}\n", "serach", "search"),
        ("data: {augmentation: {flp: true}}\n", "data.augmentation.flp", "flip"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(refuse, tmp_path, text, found, known):
    (tmp_path / "odd.yaml").write_text(text)
    message = refuse("run", tmp_path / "odd.yaml", "--out", tmp_path / "out")
    assert f"Received: '{found}'; did you mean '{known}'?" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("serach.epochs=3", "did you mean 'search'?"),
        ("search.epochs=none", "search.epochs"),
        ("search.epochs=0", "search.epochs"),
        ("search.epochs", "KEY=VALUE"),
        ("name.first=x", "'name' is a value"),
        ("search.space=bnsa", "did you mean 'bnas'?"),
        ("seed=4294967296", "seed"),
        ("train.learning_rate=.nan", "train.learning_rate"),
    ],
)
def test_an_impossible_override(refuse, tiny, tmp_path, override, part):
    message = refuse("run", tiny, "--set", override, "--out", tmp_path / "out")
    assert part in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "override", "part"),
    [
        ("run", "search.scheme=sgn-scale", "did you mean 'sign-scale'?"),
        ("run", "network.scheme=sgn-scale", "did you mean 'sign-scale'?"),
        ("run", "train.batch_size=181", "batch size 181 for 180 examples"),
        ("search", "search.batch_size=81", "batch size 81 for 80 examples"),
        ("run", "data.limit=1", "at least one example in both parts"),
    ],
)
def test_what_does_not_fit_the_data_is_found_before_the_search(
    refuse, tiny, tmp_path, command, override, part
):
    message = refuse(command, tiny, "--set", override, "--out", tmp_path / "out")
    assert part in message
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe(refuse, tmp_path):
    assert "did you mean 'quickstart'?" in refuse("run", "quickstrat", "--out", tmp_path / "out")
    assert "does not exist" in refuse("run", tmp_path / "absent.yaml", "--out", tmp_path / "out")


# -- data ----------------------------------------------------------------------------------------


def test_an_unreadable_image_is_named(refuse, tiny, images, tmp_path):
    (images / "pear" / "2.png").write_bytes(b"no image")
    message = refuse(
        *("run", tiny, "--set", "data.name=folder", "--data-dir", images),
        *("--out", tmp_path / "out"),
    )
    assert str(images / "pear" / "2.png") in message
    assert not (tmp_path / "out").exists()


def test_an_image_that_ends_too_early_is_named(refuse, tiny, images, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(images / "apple" / "3.png")
    whole = (images / "apple" / "3.png").read_bytes()
    (images / "apple" / "3.png").write_bytes(whole[: len(whole) // 2])
    message = refuse(
        *("run", tiny, "--set", "data.name=folder", "--data-dir", images),
        *("--out", tmp_path / "out"),
    )
    assert str(images / "apple" / "3.png") in message


def test_a_class_folder_without_images_is_named(refuse, tiny, images, tmp_path):
    (images / "quince").mkdir()
    (images / "quince" / "notes.txt").write_text("none yet")
    message = refuse(
        *("run", tiny, "--set", "data.name=folder", "--data-dir", images),
        *("--out", tmp_path / "out"),
    )
    assert "Every class folder needs images" in message and str(images / "quince") in message
    assert not (tmp_path / "out").exists()


def test_an_unknown_data_set(refuse, tiny, tmp_path):
    message = refuse(
        *("run", tiny, "--set", "data.name=cifar11", "--data-dir", tmp_path),
        *("--out", tmp_path / "out"),
    )
    assert "'cifar11'" in message
    assert not (tmp_path / "out").exists()


def test_a_folder_for_the_embedded_data_is_not_passed_over(refuse, tiny, images, tmp_path):
    message = refuse("run", tiny, "--data-dir", images, "--out", tmp_path / "out")
    assert "--set data.name=folder" in message


# -- genotypes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_genotype_with_an_impossible_edge(refuse, tiny, tmp_path, command):
    values = Genotype.published("bnas_imagenet").to_dict()
    values.pop("id")
    values["normal"][1][0]["state"] = 3
    (tmp_path / "g.json").write_text(json.dumps(values))
    message = refuse(command, tiny, "--genotype", tmp_path / "g.json", "--out", tmp_path / "out")
    assert "Node 1 can read states 0 to 2 only" in message and "state 3" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("genotype", "part"),
    [
        ("bnas_imagnet", "did you mean 'bnas_imagenet'?"),
        ("random:x", "random:SEED"),
    ],
)
def test_an_unknown_genotype(refuse, tiny, tmp_path, genotype, part):
    assert part in refuse("train", tiny, "--genotype", genotype, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- folders -------------------------------------------------------------------------------------


def test_an_existing_output_folder_is_left_alone(refuse, tiny, begun, tmp_path):
    before = contents(begun)
    message = refuse("run", tiny, "--out", begun)
    assert "--resume" in message and "--overwrite" in message
    assert contents(begun) == before
    (tmp_path / "file").write_text("mine")
    assert "which exists" in refuse("run", tiny, "--out", tmp_path / "file")
    assert "folder to write to" in refuse("run", tiny, "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize("own", ["notes.txt", "recipe.yaml"])
def test_overwrite_replaces_nothing_but_runs(refuse, tiny, tmp_path, own):
    """Also a folder with a recipe.yaml of the user's own, and training images beside it."""
    folder = tmp_path / "project"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "photo.png").write_bytes(b"dear")
    (folder / own).write_text("name: mine\n")
    before = contents(folder)
    assert "Only an earlier run's folder" in refuse("run", tiny, "--out", folder, "--overwrite")
    assert contents(folder) == before


@pytest.mark.parametrize(
    "wrong",
    [
        ("--genotype", "bnas_imagnet"),
        ("--set", "data.limit=1"),
        ("--set", "network.scheme=none"),
    ],
)
def test_overwrite_with_a_recipe_that_cannot_run_keeps_the_earlier_run(refuse, tiny, begun, wrong):
    before = contents(begun)
    refuse("run", tiny, "--out", begun, "--overwrite", *wrong)
    assert contents(begun) == before


BANDIT = (
    *("search.searcher=bandit", "search.bandit.finish_epochs=0"),
    "search.alpha_learning_rate=3e-4",
)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (
            BANDIT,
            "Received: 75 draws (3 rounds for each number of candidates) and 12 epochs of 2 s",
        ),
        ((*BANDIT, "search.bandit.rounds=1", "search.bandit.floor=7"), "floor 7 for 7 candidates"),
        (
            (*BANDIT, "search.bandit.floor=1", "search.zeroise_competes=false"),
            "search.bandit.floor 1 in space 'two-nodes' with search.zeroise_competes false",
        ),
        # Three of four channels, and one of the two that tiny's cells have.
        (("search.channels=4", "search.channel_proportion=3"), "4 channels, proportion 3"),
        (("search.channel_proportion=2",), "Received: 2 channels, proportion 2"),
        (("search.relaxation=concrete", "search.temperature=[0, 1]"), "first=0.0, last=1.0"),
        (("search.alpha_start_epoch=12",), "search.epochs 12 with search.alpha_start_epoch 12"),
        (("network.scheme=sgn-scale",), "did you mean 'sign-scale'?"),
    ],
)
def test_a_search_that_cannot_begin_keeps_the_earlier_run(refuse, tiny, begun, overrides, part):
    before = contents(begun)
    changes = [word for override in overrides for word in ("--set", override)]
    assert part in refuse("search", tiny, "--out", begun, "--overwrite", *changes)
    assert contents(begun) == before


def test_a_run_is_not_resumed_with_another_recipe(refuse, tiny, begun):
    before = contents(begun)
    message = refuse("run", tiny, "--set", "search.epochs=5", "--out", begun, "--resume")
    assert "Received: another search than in" in message
    message = refuse("run", tiny, "--seed", "5", "--out", begun, "--resume")
    assert "Received: another seed than in" in message
    assert contents(begun) == before


def test_resume_and_overwrite_exclude_each_other(refuse, tiny, begun):
    message = refuse("run", tiny, "--out", begun, "--resume", "--overwrite")
    assert "Give one of them" in message


@pytest.mark.parametrize("command", ["run", "evaluate", "export"])
def test_a_second_process_in_the_same_folder_is_refused(refuse, tiny, begun, command):
    first = RunFolder.open(begun, lock=True)
    args = [tiny, "--resume", "--out", begun] if command == "run" else [begun]
    assert "Only one process works in a run folder" in refuse(command, *args)
    first.unlock()


def test_a_report_is_also_written_while_another_process_is_at_work(begun, capsys):
    first = RunFolder.open(begun, lock=True)
    assert main(["report", str(begun)]) == 0, capsys.readouterr().err
    assert "unfinished; stages done: none" in (begun / "report.html").read_text()
    first.unlock()


@pytest.mark.parametrize("command", ["evaluate", "export", "report"])
def test_a_folder_that_is_no_run(refuse, tmp_path, command):
    message = refuse(command, tmp_path)
    assert f"`bnas-larq {command}` takes a run's folder" in message
    assert f"Received: '{tmp_path}', a folder that holds neither" in message
    assert "absent', which does not exist" in refuse(command, tmp_path / "absent")


def test_damaged_files_of_a_run_are_named(refuse, tiny, begun):
    (begun / "state.json").write_text('{"search": ')
    assert "state.json" in refuse("run", tiny, "--out", begun, "--resume")
    (begun / "recipe.yaml").write_text("search: [")
    assert "recipe.yaml must be readable" in refuse("evaluate", begun)


# -- what is found only when the network is there ------------------------------------------------


@pytest.fixture(scope="module")
def broken(in_one_process, finished, tmp_path_factory):
    """How commands end in copies of a finished run in which something is wrong."""
    from bnas_larq.networks.network import build_network
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.networks.weight_files import save_weights

    root = tmp_path_factory.mktemp("broken")

    def copy(name: str, *undone: str):
        folder = root / name
        shutil.copytree(finished.folder, folder)
        state = read_json(folder / "state.json")
        (folder / "state.json").write_text(
            json.dumps({stage: facts for stage, facts in state.items() if stage not in undone})
        )
        return folder

    other = copy("another network", "evaluate")
    config = StoredNetwork.load(other).config
    genotype = Genotype.load(other / "genotype.json")
    save_weights(build_network(genotype, config, channels=6), other / "weights.h5")

    cut = copy("cut off", "evaluate")
    (cut / "weights.h5").write_bytes((cut / "weights.h5").read_bytes()[:20000])

    damaged = copy("damaged checkpoints", "train", "evaluate", "export")
    checkpoints = Checkpoints(damaged / "train" / "checkpoints")
    for epoch in (3, 4):
        saved = checkpoints.save(epoch, lambda folder: (folder / "state").write_bytes(b"state"))
        (saved / "state").write_bytes(b"st")

    untrained = copy("untrained", "train", "evaluate", "export")
    (untrained / "weights.h5").unlink()

    lines = {
        "another network": ["evaluate", other],
        "cut off": ["export", cut, "--overwrite"],
        "damaged checkpoints": ["run", damaged / "recipe.yaml", "--resume", "--out", damaged],
        "untrained": ["evaluate", untrained],
    }
    before = {name: contents(root / name) for name in lines}
    ends = in_one_process(list(lines.values()))
    return {
        name: (done, contents(root / name) == before[name])
        for name, done in zip(lines, ends, strict=True)
    }


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("another network", ("Weights must have the network's shapes", "weights.h5")),
        ("cut off", ("Weights must be an intact HDF5 file", "weights.h5")),
        ("damaged checkpoints", ("needs one intact checkpoint", "Delete its folders epoch-*")),
        ("untrained", ("Train it first",)),
    ],
)
def test_a_run_in_which_something_is_wrong(broken, case, parts):
    done, untouched = broken[case]
    assert done.code == 2 and "Traceback" not in done.err
    assert len(done.errors) == 1 and done.err.splitlines()[-1] == done.errors[0]
    for part in parts:
        assert part in done.errors[0]
    assert untouched


def test_an_interrupt_is_130_and_the_folder_can_be_resumed(start, tiny, tmp_path):
    process = start("run", tiny, "--out", tmp_path / "run")
    while not (tmp_path / "run" / "recipe.yaml").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("Error: Interrupted.") and "--resume" in err
    assert "Traceback" not in err
    RunFolder.open(tmp_path / "run", lock=True).unlock()
