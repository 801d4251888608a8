"""Entries are read as a stranger's: whatever was changed, or leads elsewhere, is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.data import Normalization
from bnas_larq.errors import BnasLarqError, WeightsError, ZooError
from bnas_larq.zoo.entries import Entry


@pytest.fixture
def entry(make_entry):
    return make_entry(
        license="Apache-2.0",
        description="Three toys.",
        metrics={"accuracy": 0.5, "examples": 10},
        cost={"bytes": 7},
        provenance={"seed": 1},
    )


@pytest.fixture
def rewrite(entry):
    """`rewrite(key=value)` changes entry.json; `rewrite(file=(name, facts))` one of its files."""

    def rewrite(file=None, remove=None, **values):
        path = entry.folder / "entry.json"
        held = json.loads(path.read_text()) | values
        held.pop(remove, None)
        if file is not None:
            held["files"][file[0]] = file[1]
        path.write_text(json.dumps(held))
        return entry.folder

    return rewrite


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_entry_tells_what_it_is(entry, small_network):
    assert (entry.name, entry.variant, entry.dataset) == ("toy", "bnas-d", "toys")
    assert entry.genotype == small_network.genotype.id == entry.network.genotype.id
    assert (entry.source, entry.redistributable) == ("published", True)
    assert entry.class_names == ("cat", "dog", "ship") and entry.accuracy == 0.5
    assert entry.normalization == Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert entry.card == "# toy\n"
    assert entry.summary() == "toy (bnas-d, toys, 50.00%)"
    assert set(entry.files) == {"card.md", "genotype.json", "network.json", "weights.h5"}
    for name, facts in entry.files.items():
        assert facts["bytes"] == (entry.folder / name).stat().st_size
    assert entry.verify() == () and entry.fetch() == entry.folder


def test_it_gives_the_model_with_its_weights(entry, small_network):
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    model, original = entry.load_model(name="mine"), small_network.load_model()
    assert isinstance(model, keras.Model) and model.name == "mine"
    np.testing.assert_array_equal(model(images), original(images))
    assert entry.load_model(include_top=False).output_shape == (None, 8, 8, 2)


def test_entries_may_be_moved(entry, tmp_path):
    moved = shutil.copytree(entry.folder, tmp_path / "elsewhere" / "Any Name")
    assert Entry.load(moved).verify() == ()


def test_facts_are_optional(make_entry):
    entry = make_entry(variant=None)
    assert entry.accuracy is None and entry.variant is None
    assert entry.summary() == "toy (no variant, toys, no measured accuracy)"


# -- tampered with -------------------------------------------------------------------------------


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["weights.h5", "network.json", "genotype.json", "card.md"])
@pytest.mark.parametrize("damage", [cut_off, flip_a_bit])
def test_a_changed_file_is_refused(entry, name, damage):
    damage(entry.folder / name)
    again = Entry.load(entry.folder)
    for use in (again.verify, again.fetch, again.load_model):
        with pytest.raises(ZooError, match=f"as they were published. Received: .*{name}"):
            use()


def test_what_does_not_need_the_changed_file_still_answers(entry):
    flip_a_bit(entry.folder / "weights.h5")
    assert Entry.load(entry.folder).class_names == ("cat", "dog", "ship")


def test_a_changed_description_is_refused_before_it_is_read(entry):
    (entry.folder / "network.json").write_text("{}")
    again = Entry.load(entry.folder)
    for use in (lambda: again.class_names, lambda: again.normalization):
        with pytest.raises(ZooError, match="as they were published"):
            use()


def test_a_lost_file_is_named(entry):
    (entry.folder / "weights.h5").unlink()
    with pytest.raises(ZooError, match="must all be there. Received: toy without .*weights.h5"):
        entry.verify()


def test_a_genotype_that_is_another_is_refused(rewrite):
    with pytest.raises(ZooError, match="entry.json and genotype.json must belong together"):
        Entry.load(rewrite(genotype="g-000000000000")).verify()


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a//b",
        "./a",
        "a\\..\\b",
        "C:evil",
        ".hidden",
        "a/.hidden",
        "line\nbreak",
        "entry.json",
    ],
)
def test_names_that_leave_the_folder_are_refused(rewrite, tmp_path, name):
    (tmp_path / "outside").write_text("secret")
    facts = {"sha256": "0" * 64, "bytes": 6, "url": "file:///etc/passwd"}
    with pytest.raises(ZooError, match="inside its folder, under plain names. Received") as error:
        Entry.load(rewrite(file=(name, facts)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("to_folder", [False, True])
def test_links_that_lead_out_of_the_folder_are_refused(entry, rewrite, tmp_path, to_folder):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret")
    facts = {"sha256": "0" * 64, "bytes": 6}
    if to_folder:
        (entry.folder / "sub").symlink_to(outside)
        folder = rewrite(file=("sub/f", facts))
    else:
        (entry.folder / "card.md").unlink()
        (entry.folder / "card.md").symlink_to(outside / "f")
        folder = entry.folder
    with pytest.raises(ZooError, match="a link that leads out of it"):
        Entry.load(folder)


def test_links_inside_and_a_linked_zoo_are_fine(entry, tmp_path):
    (entry.folder / "card.md").rename(entry.folder / "real.md")
    (entry.folder / "card.md").symlink_to("real.md")
    (tmp_path / "link").symlink_to(entry.folder)
    assert Entry.load(tmp_path / "link").verify() == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "other"}, '"format": "bnas-larq-zoo-entry"'),
        ({"version": 2}, "of version 1, which this release reads, not 2. Received"),
        ({"licence": "MIT"}, "fixed keys. Received: 'licence'.*did you mean 'license'"),
        ({"remove": "metrics"}, "needs every key. Received: no 'metrics'"),
        ({"name": "../up"}, "'name' must be of small letters"),
        ({"name": ["a"]}, "'name' must be of small letters"),
        ({"variant": "a b"}, "'variant' must be a variant's name"),
        ({"dataset": ""}, "'dataset' must be"),
        ({"source": "found"}, "'source' must be 'published' or 'imported'. Received: 'found'"),
        ({"redistributable": "yes"}, "'redistributable' must be true or false"),
        ({"license": "free\x1b[2J"}, "'license' must be one line of printable text"),
        ({"description": "two\nlines"}, "'description' must be one line"),
        ({"metrics": {"accuracy": 92.7}}, "'accuracy' is between 0 and 1"),
        ({"metrics": {"accuracy": float("nan")}}, "'accuracy' is between 0 and 1"),
        ({"metrics": []}, "'metrics' must be an object"),
        ({"files": []}, "'files' must be an object"),
        ({"files": {}}, "'files' must be an object that lists network.json. Received: {}"),
        (
            {"file": ("a", {"sha256": "0" * 63, "bytes": 1})},
            "'sha256' must be 64 hexadecimal digits",
        ),
        ({"file": ("a", {"sha256": "0" * 64, "bytes": -1})}, "'bytes' must be a size in bytes"),
        ({"file": ("a", {"sha256": "0" * 64, "bytes": True})}, "'bytes' must be a size in bytes"),
        ({"file": ("a", {"sha256": "0" * 64})}, "no 'bytes' in .*entry.json, files.a"),
        ({"file": ("a", "text")}, "'files' must be an object.*Received: 'text'"),
        ({"file": ("a", {"sha256": "0" * 64, "bytes": 1, "size": 1})}, "Received: 'size'"),
        ({"file": ("a", {"sha256": "0" * 64, "bytes": 1, "url": "ftp://x"})}, "http, https or"),
        ({"file": ("a", {"sha256": "0" * 64, "bytes": 1, "url": "http://x\n"})}, "http, https or"),
        (
            {"file": ("network.json", {"sha256": "0" * 64, "bytes": 1, "url": "http://x"})},
            "an object whose network.json has no url: it is never downloaded",
        ),
    ],
)
def test_a_damaged_entry_json_is_one_sentence(rewrite, values, message):
    with pytest.raises(ZooError, match=message) as error:
        Entry.load(rewrite(**values))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["", "[", '"text"', "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_one_sentence(entry, text):
    (entry.folder / "entry.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ZooError, match=r"Received: \S+entry.json"):
        Entry.load(entry.folder)


def test_a_folder_without_entry(tmp_path):
    with pytest.raises(ZooError, match="a folder with entry.json. Received"):
        Entry.load(tmp_path)


def test_a_card_cannot_rewrite_the_terminal(own_zoo, make_entry, entry, rewrite):
    card = entry.folder / "card.md"
    card.write_bytes(b"# toy\x1b]0;title\x07\r\n\tA \xc3\xa9\xff\n")
    from bnas_larq.files import sha256

    again = Entry.load(
        rewrite(file=("card.md", {"sha256": sha256(card), "bytes": card.stat().st_size}))
    )
    assert again.card == "# toy]0;title\nA é\ufffd\n"


# -- weights elsewhere ---------------------------------------------------------------------------


@pytest.fixture
def remote(entry, rewrite, tmp_path):
    """The entry without its weights, which are to be had from a URL."""
    source = tmp_path / "server" / "w.h5"
    source.parent.mkdir()
    shutil.move(entry.folder / "weights.h5", source)
    facts = {**entry.files["weights.h5"], "url": source.as_uri()}
    return Entry.load(rewrite(file=("weights.h5", facts))), source


def test_weights_are_downloaded_when_they_are_needed(remote, tmp_path):
    entry, source = remote
    assert entry.verify() == ("weights.h5",)
    assert entry.class_names == ("cat", "dog", "ship")
    assert not (tmp_path / "keras" / "bnas_larq" / "downloads").exists()
    folder = entry.fetch()
    assert folder.is_relative_to(tmp_path / "keras") and not folder.is_relative_to(entry.folder)
    assert names(folder)[-4:] == ["card.md", "genotype.json", "network.json", "weights.h5"]
    source.unlink()  # from here on from the cache
    assert entry.fetch() == folder
    assert entry.load_model().output_shape == (None, 3)


def test_other_weights_than_were_published_are_refused(remote):
    entry, source = remote
    flip_a_bit(source)
    with pytest.raises(WeightsError, match="must have the SHA-256"):
        entry.load_model()


def test_a_changed_description_in_the_cache_is_written_again(remote):
    entry, _ = remote
    folder = entry.fetch()
    (folder / "network.json").write_text("{}")
    assert entry.load_model().output_shape == (None, 3)


def test_a_link_in_the_cache_leads_nowhere_else(remote, tmp_path):
    entry, _ = remote
    folder = entry.fetch()
    (tmp_path / "victim").write_text("mine")
    (folder / "weights.h5").unlink()
    (folder / "weights.h5").symlink_to(tmp_path / "victim")
    with pytest.raises(ZooError, match="a link that leads out"):
        entry.fetch()
    assert (tmp_path / "victim").read_text() == "mine"


# -- storing -------------------------------------------------------------------------------------


def test_a_name_is_taken_once(make_entry, own_zoo):
    make_entry()
    before = (own_zoo / "toy" / "entry.json").read_bytes()
    with pytest.raises(ZooError, match="a name of its own. Received: 'toy'.*--overwrite"):
        make_entry(dataset="other")
    assert names(own_zoo) == ["toy"] and (own_zoo / "toy" / "entry.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "Toy", "../toy", "a/b", "a_b", "-a", "a.b", "a\n"])
def test_names_have_small_letters_digits_and_hyphens(make_entry, own_zoo, name):
    with pytest.raises(ZooError, match="small letters, digits and hyphens. Received"):
        make_entry(name)
    assert not own_zoo.exists()


def store(zoo, fill, **settings):
    from bnas_larq.zoo.entries import store_entry

    return store_entry(zoo, "toy", fill, **settings)


def test_what_fails_half_way_leaves_nothing_and_keeps_the_earlier_entry(entry, own_zoo):
    def fill(folder):
        (folder / "weights.h5").write_bytes(b"half")
        raise ZooError("in the middle")

    with pytest.raises(ZooError, match="in the middle"):
        store(own_zoo, fill, overwrite=True)
    assert names(own_zoo) == ["toy"] and entry.verify() == ()


def test_an_earlier_entry_is_replaced_as_a_whole(entry, own_zoo, small_network):
    def fill(folder):
        shutil.copytree(small_network.folder, folder, dirs_exist_ok=True)
        return {"variant": None, "dataset": "new"}

    assert store(own_zoo, fill, overwrite=True).dataset == "new"
    assert names(own_zoo) == ["toy"] and "card.md" not in names(own_zoo / "toy")


def test_only_entries_are_ever_replaced(own_zoo, tmp_path):
    (own_zoo / "toy").mkdir(parents=True)
    (own_zoo / "toy" / "thesis.tex").write_text("years of work")
    with pytest.raises(ZooError, match="Only an earlier entry is ever replaced"):
        store(own_zoo, lambda folder: {}, overwrite=True)
    (own_zoo / "toy" / "entry.json").write_text('{"format": "of something else"}')
    with pytest.raises(ZooError, match="Only an earlier entry is ever replaced"):
        store(own_zoo, lambda folder: {}, overwrite=True)
    assert names(own_zoo / "toy") == ["entry.json", "thesis.tex"]


def test_an_incomplete_entry_is_not_stored(own_zoo, small_network):
    def fill(folder):
        shutil.copytree(small_network.folder, folder, dirs_exist_ok=True)
        (folder / "weights.h5").unlink()
        return {"variant": None, "dataset": "new"}

    with pytest.raises(BnasLarqError, match="an object that lists weights.h5"):
        store(own_zoo, fill)
    assert names(own_zoo) == []


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_zoo_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match="written to disk. Received"):
        store(tmp_path / "file" / "zoo", lambda folder: {})
