"""Which entry is meant: by name, by data set, by path; and what is said when none is."""

from __future__ import annotations

import os
import shutil

import pytest

from bnas_larq.errors import RunError, ZooError
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.resources import keras_home, user_zoo, zoo_dir, zoos
from bnas_larq.zoo.registry import find_entry, list_entries, resolve_entry


def resolve(target):
    entry = resolve_entry(target)
    return StoredNetwork.load(target if entry is None else entry.fetch())


def listed():
    return [entry.name for entry in list_entries()]


def test_zoos_are_searched_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "k"))
    monkeypatch.setenv("BNAS_LARQ_ZOO", f"{tmp_path / 'a'}{os.pathsep}{os.pathsep}~/b")
    home = os.path.expanduser("~")
    own = tmp_path / "k" / "bnas_larq" / "zoo"
    assert [str(z) for z in zoos()] == [f"{tmp_path}/a", f"{home}/b", str(own), str(zoo_dir())]
    assert user_zoo() == own
    monkeypatch.delenv("KERAS_HOME")
    assert str(keras_home()) == f"{home}/.keras"


def test_the_first_zoo_with_a_name_counts(make_entry, own_zoo, tmp_path, monkeypatch):
    make_entry("both", dataset="users")
    make_entry("users")
    make_entry("both", zoo=tmp_path / "packaged", dataset="packaged")
    make_entry("packaged", zoo=tmp_path / "packaged")
    assert listed() == ["both", "packaged", "users"]
    assert find_entry("both").dataset == "users"
    make_entry("both", zoo=tmp_path / "first", dataset="first")
    monkeypatch.setenv("BNAS_LARQ_ZOO", str(tmp_path / "first"))
    assert find_entry("both").dataset == "first"


def test_no_zoo_at_all(own_zoo):
    assert list_entries() == []
    with pytest.raises(ZooError, match="Received: 'cifar10', which nobody published. There are n"):
        find_entry("cifar10")


def test_temporary_folders_and_other_files_are_no_entries(make_entry, own_zoo):
    make_entry("real")
    shutil.copytree(own_zoo / "real", own_zoo / ".real.123.tmp")
    (own_zoo / "README.md").write_text("")
    (own_zoo / "empty").mkdir()
    assert listed() == ["real"]


def test_an_exact_name_comes_before_a_data_set(make_entry):
    make_entry("toys", dataset="other")
    make_entry("better", dataset="toys", metrics={"accuracy": 1.0})
    assert find_entry("toys").name == "toys"


def test_of_a_data_set_the_most_accurate_comes_first(make_entry):
    make_entry("a", metrics={"accuracy": 0.4})
    make_entry("b", metrics={"accuracy": 0.6})
    make_entry("c", metrics={"accuracy": 0.6})
    make_entry("unmeasured")
    make_entry("of-another", variant="bnas-a", metrics={"accuracy": 0.9})
    assert find_entry("toys", "bnas-d").name == "b"
    assert find_entry("toys", "bnas-a").name == "of-another"
    assert find_entry("toys").name == "of-another"


def test_the_variants_own_size_comes_before_accuracy(make_entry):
    make_entry("small", metrics={"accuracy": 0.9})
    make_entry("full", cells=12, channels=64)
    assert find_entry("toys", "bnas-d").name == "full"
    make_entry("better", cells=12, channels=64, metrics={"accuracy": 0.1})
    assert find_entry("toys", "bnas-d").name == "better"


def test_an_entry_belongs_to_its_variant(make_entry):
    make_entry("mine")
    make_entry("free", variant=None)
    assert find_entry("mine", "bnas-d").name == "mine"
    with pytest.raises(ZooError, match="Received: 'mine', of bnas-d, for bnas-a.*find_entry"):
        find_entry("mine", "bnas-a")
    with pytest.raises(ZooError, match="Received: 'free', of no variant, for bnas-a"):
        find_entry("free", "bnas-a")


def test_what_exists_is_named_when_nothing_is_found(make_entry):
    make_entry("mine", metrics={"accuracy": 0.5})
    make_entry("other", variant="bnas-a", dataset="cifar10")
    with pytest.raises(ZooError) as error:
        find_entry("imagenet", "bnas-d")
    text = str(error.value)
    assert "'imagenet' for bnas-d, which nobody published" in text
    assert "For bnas-d there are: mine (bnas-d, toys, 50.00%)." in text
    assert "For others: other (bnas-a, cifar10, no measured accuracy)." in text
    for command in ("bnas-larq run", "bnas-larq zoo publish", "bnas-larq zoo import"):
        assert command in text


def test_a_damaged_entry_is_left_out_with_a_warning_and_an_error_when_asked_for(
    make_entry, own_zoo
):
    make_entry("intact")
    make_entry("damaged")
    (own_zoo / "damaged" / "entry.json").write_text("{")
    with pytest.warns(UserWarning, match="left out.*damaged/entry.json"):
        assert listed() == ["intact"]
    with pytest.warns(UserWarning, match="left out"):
        assert find_entry("toys").name == "intact"
    with pytest.raises(ZooError, match="must be readable JSON. Received: .*damaged"):
        find_entry("damaged")


def test_resolve_takes_entries_by_name_and_folder_and_runs(make_entry, small_network, own_zoo):
    make_entry("mine")
    for target in ("mine", own_zoo / "mine", str(own_zoo / "mine")):
        assert resolve(target).folder == own_zoo / "mine"
        assert resolve_entry(target).name == "mine"
    assert resolve(small_network.folder).class_names == small_network.class_names
    assert resolve_entry(str(small_network.folder)) is None


def test_resolve_verifies_entries(make_entry, own_zoo):
    make_entry("mine")
    (own_zoo / "mine" / "weights.h5").write_bytes(b"tampered")
    for target in ("mine", own_zoo / "mine"):
        with pytest.raises(ZooError, match="as they were published"):
            resolve(target)


def test_resolve_says_what_it_takes(make_entry, tmp_path, monkeypatch):
    make_entry("mine")
    with pytest.raises(
        ZooError, match="a run's folder.*Received: '.*absent', which does not exist"
    ):
        resolve(tmp_path / "absent")
    with pytest.raises(ZooError, match="Received: '.*', which holds neither"):
        resolve(tmp_path)
    with pytest.raises(ZooError, match="Received: 'toys', a data set's name.*mine"):
        resolve("toys")
    with pytest.raises(ZooError, match="Received: 'nothing', which nobody published"):
        resolve("nothing")
    with pytest.raises(ZooError, match="Received: ''"):
        resolve("")
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(RunError, match="needs network.json"):
        resolve(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(RunError, match="recipe.yaml must be readable"):
        resolve(tmp_path)


def test_a_folder_here_comes_before_an_entry_of_its_name(
    make_entry, small_network, tmp_path, monkeypatch
):
    make_entry("mine")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_network.folder, tmp_path / "mine")
    assert resolve_entry("mine") is None
    (tmp_path / "empty").mkdir()
    make_entry("empty")
    assert resolve_entry("empty").name == "empty"


def test_numbers_that_none_can_be_are_left_out_of_the_list(make_entry, capsys):
    from bnas_larq.cli.main import main

    make_entry("strange", cost={"ops_paper": 10**298, "bytes": 5})  # files hold no longer ones
    assert main(["zoo", "list"]) == 0
    assert "strange" in capsys.readouterr().out
