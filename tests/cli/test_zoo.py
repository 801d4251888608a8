"""`bnas-larq zoo` as users type it: a finished run is published, listed, shown, verified, tampered
with.
"""

from __future__ import annotations

import json
import shutil

import pytest

from bnas_larq.files import read_json
from bnas_larq.zoo import find_entry
from bnas_larq.zoo.literature import LITERATURE
from bnas_larq.zoo.variants import VARIANTS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A new Keras home, and with it an empty zoo of the user."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keras")
        patch.setenv("KERAS_HOME", str(folder))
        patch.delenv("BNAS_LARQ_ZOO", raising=False)
        yield folder


@pytest.fixture(scope="module")
def zoo(home):
    return home / "bnas_larq" / "zoo"


@pytest.fixture(scope="module")
def commands(in_one_process, finished, zoo):
    """What an entry's author types, one after the other."""
    publish = ("zoo", "publish", finished.folder, "--name", "tiny-digits")
    lines = {
        "made": (*publish, "--variant", "bnas-d", "--description", "Tiny.", "--note", "A test's."),
        "again": publish,
        "list": ("zoo", "list"),
        "json": ("zoo", "list", "--json"),
        "card": ("zoo", "show", "tiny-digits"),
        "facts": ("zoo", "show", zoo / "tiny-digits", "--json"),
        "verified": ("zoo", "verify", "tiny-digits"),
        "elsewhere": (*publish, "--out", zoo.parent / "other"),
        "paper": ("zoo", "show", "bnas-d"),
        "paper-json": ("zoo", "show", "bnas-a", "--json"),
        "misspelt": ("zoo", "shwo", "bnas-d"),
    }
    return dict(zip(lines, in_one_process(list(lines.values())), strict=True))


def test_variants_are_listed_without_weights(in_one_process):
    listing = ("zoo", "list", "--variants")
    text, facts = in_one_process([listing, (*listing, "--json")])
    variants, literature = text.out.split("\n\n")
    rows = {line.split()[0]: line for line in variants.splitlines()}
    assert text.code == facts.code == 0 and list(rows) == ["name", *VARIANTS]
    compared = {line.split()[0]: line.split() for line in literature.splitlines()[2:]}
    assert list(compared) == list(LITERATURE)
    assert {"bi-real", "62.2", "83.9"} < set(compared["bireal34"])
    assert rows["bnas-d-v2-paper"].split()[2:] == [
        *("12", "88", "4", "conv"),
        'BNASDv2(convention="paper")',
    ]
    first = json.loads(facts.out)[0]
    assert (first["cells"], first["channels"], first["shortcut"]) == (20, 36, "conv")


def test_a_run_is_published(commands, finished, zoo):
    accuracy = read_json(finished.folder / "result.json")["test_accuracy"]
    made = commands["made"]
    assert (made.code, made.out) == (0, f"{zoo / 'tiny-digits'}\n"), made.err
    assert f"tiny-digits (bnas-d, digits, {accuracy:.2%})" in made.err
    assert read_json(zoo / "tiny-digits" / "entry.json")["metrics"]["accuracy"] == accuracy
    again = commands["again"]
    assert again.code == 2 and "a name of its own. Received: 'tiny-digits'" in again.errors[0]
    assert commands["elsewhere"].code == 0
    assert (zoo.parent / "other" / "tiny-digits" / "entry.json").is_file()


def test_it_is_listed_and_shown(commands, finished):
    accuracy = read_json(finished.folder / "result.json")["test_accuracy"]
    (row,) = [line for line in commands["list"].out.splitlines() if line.startswith("tiny-digits")]
    assert row.split()[1:4] == ["bnas-d", "digits", f"{accuracy:.2%}"]
    (nano,) = [line for line in commands["list"].out.splitlines() if line.startswith("bnas-nano")]
    shipped = find_entry("bnas-nano")
    file, cost = shipped.deployed, shipped.cost
    assert nano.split()[4:10] == [
        f"{cost['ops_honest']:.3g}",
        f"{cost['ops_paper']:.3g}",
        f"{cost['bytes']:,}",
        f"{file['bytes']:,}",
        f"{file['accuracy']:.2%}",
        f"{file['memory']['peak_activations']:,}",
    ]
    (own,) = [row for row in json.loads(commands["json"].out) if row["name"] == "tiny-digits"]
    assert own["metrics"]["examples"] == 359 and own["description"] == "Tiny."
    card = commands["card"].out
    assert card.startswith("# tiny-digits\n\nTiny.") and "- A test's." in card
    assert json.loads(commands["facts"].out)["files"].keys() >= {"card.md", "weights.h5"}
    assert commands["verified"].out == "tiny-digits: 8 files intact\n"


def test_what_the_papers_reported_is_shown(commands):
    text = commands["paper"].out
    assert "12 cells of 64 channels" in text and "57.69 %" in text and "tiny-digits" in text
    assert json.loads(commands["paper-json"].out)["cells"] == 20
    assert commands["misspelt"].code == 2
    assert "did you mean 'show'" in commands["misspelt"].errors[0]


def test_what_is_damaged_or_unfinished_is_refused(
    commands, in_one_process, finished, zoo, tmp_path, monkeypatch
):
    own = tmp_path / "keras" / "bnas_larq" / "zoo"
    for name in ("intact", "tampered"):
        shutil.copytree(zoo / "tiny-digits", own / name)
    content = bytearray((own / "tampered" / "weights.h5").read_bytes())
    content[-1] ^= 1
    (own / "tampered" / "weights.h5").write_bytes(content)
    (own / "broken").mkdir()
    (own / "broken" / "entry.json").write_text("{}")
    unfinished = shutil.copytree(finished.folder, tmp_path / "unfinished")
    (unfinished / "state.json").write_text("{}")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    every, one, unknown, listed, run, left = in_one_process(
        [
            ("zoo", "verify"),
            ("zoo", "verify", own / "tampered", own / "intact"),
            ("zoo", "show", "absent"),
            ("zoo", "list"),
            ("zoo", "show", finished.folder),
            ("zoo", "publish", unfinished, "--name", "absent"),
        ]
    )
    results = dict(line.split(": ", 1) for line in every.out.splitlines())
    assert results["intact"] == "8 files intact"
    assert results["tampered"].startswith("failed. A zoo entry's files must be as they were publi")
    assert results["broken"].startswith("failed. A zoo entry must be a JSON object")
    assert one.errors == ["Error: 1 of 2 entries did not pass."]
    assert "`bnas-larq zoo show` takes a variant (bnas-d) or a zoo entry" in unknown.errors[0]
    assert listed.code == 0 and "Warning: A zoo entry is left out." in listed.err
    assert "a run's folder. Publish it first" in run.errors[0]
    assert "Only a trained and evaluated run is published" in left.errors[0]
    assert not (own / "absent").exists()
    for done in (every, one, unknown, run, left):
        assert done.code == 2 and len(done.errors) == 1 and "Traceback" not in done.err
