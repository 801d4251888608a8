"""What a TARGET means, by the order of precedence, and how everything else is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bnas_larq.errors import ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.run.targets import OF_CELLS, TRAINED, Kind, find_target
from bnas_larq.zoo.entries import store_entry

ALL = tuple(Kind)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder: a run, an entry `mine` of data set `toys` in the user's zoo, files."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("BNAS_LARQ_ZOO", raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=2, channels=4, cells=1)
    genotype = Genotype.published("bnas_cifar")

    def fill(path):
        StoredNetwork(path, genotype, config, ("a", "b"), {}, {}).save()
        (path / "weights.h5").write_bytes(b"weights")
        return {"variant": None, "dataset": "toys"}

    store_entry(tmp_path / "keras" / "bnas_larq" / "zoo", "mine", fill)
    for run in ("run", "bnas-d", "run.h5"):
        (folder / run).mkdir()
        (folder / run / "recipe.yaml").write_text("")
    (folder / "mine").mkdir()  # holds something else than an entry
    genotype.save(folder / "cell.json")
    (folder / "model.keras").write_bytes(b"model")
    return folder


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("larq_zoo:QuickNet", Kind.LARQ_ZOO),
        ("model.keras", Kind.SAVED_MODEL),
        ("absent.h5", Kind.SAVED_MODEL),
        ("run.h5", Kind.SAVED_MODEL),
        ("bnas_cifar", Kind.GENOTYPE),
        ("random:1", Kind.GENOTYPE),
        ("random:darts:1", Kind.GENOTYPE),
        ("cell.json", Kind.GENOTYPE),
        ("bnas-d", Kind.VARIANT),
        ("BNAS-D-v2", Kind.VARIANT),
        ("run", Kind.RUN),
        ("./bnas-d", Kind.RUN),
        ("mine", Kind.ENTRY),
        ("../keras/bnas_larq/zoo/mine", Kind.ENTRY),
    ],
)
def test_the_first_kind_counts(here, text, kind):
    target = find_target(text, ALL, "This")
    assert (target.text, target.kind) == (text, kind)
    assert (target.entry is not None) == (kind is Kind.ENTRY)


def test_kinds_that_are_not_taken_are_skipped(here):
    assert find_target("bnas-d", TRAINED, "This").kind is Kind.RUN
    assert find_target("run.h5", TRAINED, "This").kind is Kind.RUN
    assert find_target("bnas-d", OF_CELLS, "This").kind is Kind.VARIANT


def test_a_run_comes_before_the_entry_of_its_name_and_a_path_is_no_name(here):
    (here / "mine" / "network.json").write_text("{}")
    assert find_target("mine", ALL, "This").kind is Kind.RUN
    (here / "mine" / "network.json").unlink()
    with pytest.raises(ZooError, match="Received: 'mine', which holds neither"):
        find_target(here.joinpath("mine").relative_to(here), TRAINED, "This")


def test_what_recipes_and_cards_call_a_target(here):
    run, entry = find_target("run", ALL, "This"), find_target("mine", ALL, "This")
    assert (run.name, run.reference) == ("run", str(here / "run"))
    assert (entry.name, entry.reference) == ("mine", "mine")
    folder = entry.entry.folder
    by_path = find_target(str(folder), ALL, "This")
    assert (by_path.name, by_path.reference) == ("mine", str(folder))
    assert entry.network().genotype == by_path.trained_network().genotype


@pytest.mark.parametrize(
    ("text", "kinds", "message"),
    [
        ("bnas-dd", ALL, r"Received: 'bnas-dd'; did you mean 'bnas-d'\?"),
        ("mined", TRAINED, r"takes a run's folder or a zoo entry \(its.*did you mean 'mine'\?"),
        ("toys", TRAINED, r"'toys', a data set's name. Entries of it: mine \(no variant, toys"),
        ("gone/run", ALL, "'gone/run', which does not exist. `bnas-larq zoo list` shows"),
        ("gone", (Kind.RUN,), "takes a run's folder. Received: 'gone', which does not exist"),
        ("..", ALL, r"'\.\.', a folder that holds neither"),
        ("", ALL, "Received: ''; known: "),
        ("cell.json", TRAINED, "Received: 'cell.json', a file"),
        ("model.keras", OF_CELLS, "Received: 'model.keras', a saved Keras model"),
        ("bnas_cifar", TRAINED, "Received: 'bnas_cifar', a genotype"),
        ("larq_zoo:X", OF_CELLS, "Received: 'larq_zoo:X', a larq_zoo network"),
        ("mine", (Kind.RUN,), "This takes a run's folder. Received: 'mine', a zoo entry"),
        ("run", (Kind.ENTRY,), "a run's folder. Publish it first: bnas-larq zoo publish"),
    ],
)
def test_everything_else_is_refused(here, text, kinds, message):
    with pytest.raises(ZooError, match=message):
        find_target(text, kinds, "This")


def test_a_damaged_entry_is_no_unknown_one(here):
    entry = find_target("mine", ALL, "This").entry
    (entry.folder / "entry.json").write_text("{}")
    for text in ("mine", str(entry.folder)):
        with pytest.raises(ZooError, match="A zoo entry must be a JSON object"):
            find_target(text, ALL, "This")


def test_no_kind_needs_tensorflow_to_be_told(here):
    code = (
        "import sys; from bnas_larq.run.targets import Kind, find_target\n"
        "for text in sys.argv[1:]: find_target(text, tuple(Kind), 'This')\n"
        "assert not {'tensorflow', 'h5py', 'larq_zoo'} & set(sys.modules)"
    )
    texts = ("bnas-d", "random:1", "run", "mine", "model.keras", "larq_zoo:QuickNet")
    done = subprocess.run([sys.executable, "-c", code, *texts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
