"""Every kind of file that a run writes, damaged in every way: one sentence, and nothing is lost."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bnas_larq.errors import BnasLarqError
from bnas_larq.files import read_record, read_rows, visible_files
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.report.comparison_report import run_facts
from bnas_larq.report.html_report import write_report
from bnas_larq.report.pictures import read_confusion
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.run_records import Alphas, Epoch, Export
from bnas_larq.zoo.published_run import FinishedRun

PLANNED = dict.fromkeys(("name", "method", "seed", "searcher", "space", "genotype"))


def confusion(run: Path) -> Any:
    table = read_confusion(run / "confusion.csv")
    if table is None:
        raise BnasLarqError("damaged")
    return table


#: File → what reads it.
READERS = {
    "state.json": lambda run: RunFolder(run).facts("train"),
    "result.json": lambda run: run_facts(run, PLANNED, None),
    "export.json": lambda run: read_record(run / "export.json", Export),
    "network.json": StoredNetwork.load,
    "genotype.json": StoredNetwork.load,
    "environment.json": FinishedRun.load,
    "recipe.yaml": lambda run: recipe_of(RunFolder(run)),
    "confusion.csv": confusion,
    "search/metrics.jsonl": lambda run: read_rows(run / "search" / "metrics.jsonl", Epoch),
    "search/alphas.jsonl": lambda run: read_rows(run / "search" / "alphas.jsonl", Alphas),
    "search/alarms.jsonl": lambda run: run_facts(run, PLANNED, None),
    "train/metrics.jsonl": FinishedRun.load,
}
#: Whole files; of a series, the first line.
DAMAGES = {
    "nothing": b"",
    "cut off": b'{"a": [1, 2',
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "huge": b'{"seed": ' + b"9" * 5000 + b"}",
    "no text": b"\xff\xfe\x00",
    "NUL": b"\0" * 100,
    "a list": b"[1]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"x"',
    "NaN": b"NaN",
}
#: In place of any value.
WRONG = ("x", "", [], {}, None, 1e308, -1, 10**290, True, math.nan, "\0", [[1]], {"a": 1})


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def sentence(error: Exception) -> None:
    assert "\n" not in str(error) and "Received: " in str(error)


@pytest.mark.parametrize("name", READERS)
def test_an_intact_file_is_read(run, name):
    assert READERS[name](run)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_a_sentence(run, name):
    path = run / name
    series = path.read_bytes() if path.suffix == ".jsonl" else b""
    for damage, content in DAMAGES.items():
        if damage == "nothing" and path.suffix == ".jsonl":
            continue  # a series that has not begun
        if damage in ("a number", "cut off") and path.suffix == ".csv":
            continue  # a table of one class
        path.write_bytes(content + (b"\n" + series if series else b""))
        with pytest.raises(BnasLarqError) as error:
            READERS[name](run)
        if name != "confusion.csv":
            sentence(error.value)


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_its_place_does_not_block(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(BnasLarqError):
        READERS[name](run)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where values are in nested lists and objects; of a long list, the first two."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items
    for key, item in items:
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    return value


def wrong_values(path: Path) -> Iterator[str]:
    """A JSON file, or a series with its first line, with any one value replaced."""
    first, *rest = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    values = json.loads(first)
    for place in places(values):
        for wrong in WRONG:
            yield "\n".join([json.dumps(changed(values, place, wrong)), *rest])


@pytest.mark.parametrize("name", [name for name in READERS if "json" in name])
def test_values_of_other_kinds_are_read_or_a_sentence(run, name):
    for text in wrong_values(run / name):
        (run / name).write_text(text)
        try:
            READERS[name](run)
        except BnasLarqError as error:
            sentence(error)


@pytest.mark.parametrize(
    "name", ["result.json", "state.json", "export.json", "network.json", "environment.json"]
)
def test_a_report_is_written_whatever_a_value_is(finished, tmp_path, name):
    shutil.copy(finished.folder / name, tmp_path / name)
    for text in wrong_values(tmp_path / name):
        (tmp_path / name).write_text(text)
        assert write_report(tmp_path).stat().st_size > 1000


@pytest.mark.parametrize("name", ["search/metrics.jsonl", "search/alarms.jsonl"])
def test_any_number_is_drawn_or_left_out(finished, tmp_path, name):
    """One wrong value for each key, all in the same series: pictures take a second."""
    (tmp_path / "search").mkdir()
    for other in ("search/metrics.jsonl", "search/alarms.jsonl"):
        shutil.copy(finished.folder / other, tmp_path / other)
    first, *rest = (tmp_path / name).read_text().splitlines()
    for wrong in (1e308, -1e308, 0, 10**290):
        row = {
            key: wrong if isinstance(value, float) and key != "seconds" else value
            for key, value in json.loads(first).items()
        }
        (tmp_path / name).write_text("\n".join([json.dumps(row), *rest]))
        assert "data:image/png" in write_report(tmp_path).read_text()


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.json", "export.json", "network.json", "genotype.json"])
@pytest.mark.parametrize("damage", ["deep", "a list", "NaN"])
def test_nothing_is_rewritten_before_all_is_read(refuse, run, name, damage):
    (run / name).write_bytes(DAMAGES[damage])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert name.partition(".")[0] in refuse("report", run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["state.json", "recipe.yaml"])
def test_other_commands_refuse_a_damaged_run(refuse, run, tiny, name):
    (run / name).write_bytes(DAMAGES["deep"])
    for command in (("evaluate", run), ("run", tiny, "--out", run, "--resume"), ("export", run)):
        assert name in refuse(*command)


def test_a_report_leaves_damaged_series_out_and_says_so(run):
    """The pictures of an earlier report are not taken for those of the damaged series."""
    pictures = {
        "search/metrics.jsonl": "loss, accuracy, entropy and operation shares over the search",
        "search/alphas.jsonl": "softmax of the architecture weights",
        "train/metrics.jsonl": "loss, accuracy and learning rate over training",
        "confusion.csv": "confusion matrix of the test images",
        "genotype.json": "the normal cell as a graph",
    }
    page = (run / "report.html").read_text()
    assert all(f'alt="{text}"' in page for text in pictures.values())
    for name in (*pictures, "search/alarms.jsonl"):
        (run / name).write_text(f"[1]\n{(run / name).read_text()}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        page = write_report(run).read_text()
    told = " ".join(str(warning.message) for warning in caught)
    assert not any(f'alt="{text}"' in page for text in pictures.values())
    for name in ("search/metrics.jsonl", "search/alphas.jsonl", "train/metrics.jsonl"):
        assert f"{run / name} (line 1)" in told and f"{run / name} (line 1)" in page
    assert "alarms.jsonl" in told and "confusion.csv" in told and "A genotype must be JSON" in told


def test_cells_that_are_too_large_are_not_drawn(tmp_path):
    cell = tuple((("bin_conv_3x3", node + 1),) for node in range(32))
    Genotype(cell, cell).save(tmp_path / "genotype.json")
    with pytest.warns(UserWarning, match="A graph of at most 700 lines .* is drawn. Received: "):
        page = write_report(tmp_path).read_text()
    assert "data:image" not in page and "node 31 =" in page


@pytest.mark.parametrize("name", ["a\0b", "caf\udce9"])
def test_a_run_is_not_begun_under_a_name_that_is_no_text(tmp_path, name):
    with pytest.raises(BnasLarqError, match="A run's folder has a name of Unicode characters"):
        RunFolder.check_new(tmp_path / name)


def test_names_of_other_encodings_are_escaped_in_a_report(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    (folder / "na\udcefve.txt").write_text("x")
    assert visible_files(folder) == [r"na\udcefve.txt"]
    assert r"Run caf\udce9" in write_report(folder).read_text()
