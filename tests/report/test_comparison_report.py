"""The table of a comparison: means and spreads by hand, failures, alarms, and its picture."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from bnas_larq.files import append_line, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.report import figure_style as style
from bnas_larq.report.comparison_report import (
    comparison_csv,
    comparison_markdown,
    comparison_text,
    method_rows,
    run_facts,
    save_comparison_picture,
)
from bnas_larq.report.curves import save_study_curves

PLANNED = {
    "name": "a-seed0",
    "method": "a",
    "seed": 0,
    "searcher": "gradient",
    "space": "bnas",
    "genotype": None,
    "adapted": [],
}


def run(method, seed, accuracy=None, **other):
    """Facts of a run; without an accuracy it failed."""
    done = accuracy is not None
    return {
        **PLANNED,
        "name": f"{method}-seed{seed}",
        "method": method,
        "seed": seed,
        "status": "finished" if done else "failed",
        "reason": None if done else "The loss must stay finite.",
        "genotype": f"g-{seed}" if done else None,
        "search_seconds": 60.0 * (1 + seed) if done else None,
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy,
        "ops_honest": 2e7 if done else None,
        "ops_paper": 1e7 if done else None,
        "bytes": 1500 if done else None,
        "zeroise": 0.25 if done else None,
        "parameter_free": 0.5 if done else None,
        "alarms": {},
        **other,
    }


@pytest.fixture
def runs():
    return [
        run("a", 0, 0.5),
        run("b", 0, 0.4, alarms={"pooling": [2, 3]}),
        run("random (bnas)", 0, 0.45, search_seconds=None),
        run("a", 1, 0.6),
        run("b", 1),
        run("c", 0),
    ]


def test_means_and_sample_deviations(runs):
    a, b, random, c = method_rows(runs)
    assert (a["method"], a["runs"], a["finished"], a["failed"]) == ("a", 2, 2, 0)
    assert a["test_accuracy"]["mean"] == pytest.approx(0.55)
    # Two values, 0.1 apart: sqrt(2 · 0.05² / (2 − 1)).
    assert a["test_accuracy"]["std"] == pytest.approx(math.sqrt(2 * 0.05**2))
    assert a["search_seconds"] == {"mean": 90.0, "std": pytest.approx(math.sqrt(1800)), "n": 2}
    assert a["genotypes"] == ["g-0", "g-1"]
    assert (b["finished"], b["failed"]) == (1, 1)
    assert b["test_accuracy"] == {"mean": 0.4, "std": None, "n": 1}
    assert random["search_seconds"] == {"mean": None, "std": None, "n": 0}
    assert (c["finished"], c["test_accuracy"]["mean"], c["genotypes"]) == (0, None, [])


def test_the_text_has_a_line_for_each_method_and_says_what_failed(runs):
    text = comparison_text(method_rows(runs), runs, ["A note."])
    lines = text.splitlines()
    assert lines[1].split()[:3] == ["a", "bnas", "2/2"]
    for part in ("1 min 30 s ± 42.4 s", "55.00 ± 7.07", "2.000e7", "1.5 kB", "25%", "50%"):
        assert part in lines[1]
    assert lines[4].split() == ["c", "bnas", "0/1", *["–"] * 7]
    assert "Genotypes of a: g-0, g-1" in lines
    assert "b-seed1 failed: The loss must stay finite." in lines
    assert "b-seed0: alarm `pooling` in search epoch 2–3." in lines
    assert lines[-1] == "A note."


def test_the_markdown_is_one_table_and_a_list(runs):
    text = comparison_markdown(method_rows(runs), runs, ["x | y"], "Title")
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4 and len({line.count("|") for line in table}) == 1
    assert lines[0] == "# Title" and lines[-1] == r"- x \| y"


def test_the_csv_file_has_every_measure_with_its_spread(runs):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(method_rows(runs)))))
    assert [row["method"] for row in rows] == ["a", "b", "random (bnas)", "c"]
    assert float(rows[0]["test_accuracy_mean"]) == pytest.approx(0.55)
    assert rows[1]["test_accuracy_std"] == "" and rows[1]["test_accuracy_n"] == "1"
    assert rows[0]["genotypes"] == "g-0 g-1" and rows[3]["failed"] == "1"


def test_dollars_in_names_are_no_mathematics(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", lambda figure, path: figure)
    for run in runs:
        run["method"] = f"{run['method']} $x^$"
    figure = save_comparison_picture(method_rows(runs), runs, tmp_path / "a.png", "$5 and $^")
    drawn = [figure.get_suptitle(), *(tick.get_text() for tick in figure.axes[0].get_yticklabels())]
    assert drawn[0].startswith(r"\$5 and \$^.") and r"a \$x^\$ (2)" in drawn
    curves = [("$x^$", [{"accuracy": 0.5}])]
    assert save_study_curves(curves, tmp_path / "b.png", "$x^$").get_suptitle() == r"\$x^\$"


def test_the_picture_is_the_same_each_time_also_without_a_finished_run(runs, tmp_path):
    for number, some in enumerate((runs, runs[-1:])):
        rows = method_rows(some)
        paths = [
            save_comparison_picture(rows, some, tmp_path / f"{number}{name}.png", "T")
            for name in "ab"
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_facts_come_from_the_run_folder(tmp_path):
    write_json(
        tmp_path / "result.json",
        {
            "finished": True,
            "genotype": "g-1",
            "test_accuracy": 0.5,
            "validation_accuracy": 0.6,
            "seconds": {"search": 12.5, "train": 3.0},
            "cost": {"ops_honest": 2.0, "ops_paper": 1.0, "bytes": 7},
        },
    )
    Genotype.published("bnas_cifar").save(tmp_path / "genotype.json")
    for epoch, alarms in enumerate([[], ["zeroise"], ["zeroise", "entropy"]]):
        append_line(tmp_path / "search" / "alarms.jsonl", {"epoch": epoch, "alarms": alarms})
    facts = run_facts(tmp_path, PLANNED, "an earlier failure")
    assert facts["status"] == "finished" and facts["reason"] is None
    assert (facts["search_seconds"], facts["train_seconds"]) == (12.5, 3.0)
    assert (facts["ops_honest"], facts["ops_paper"], facts["bytes"]) == (2.0, 1.0, 7)
    # Of the published cell's 16 edges 6 + 6 are Zeroise, and two are pools.
    assert facts["zeroise"] == 12 / 16 and facts["parameter_free"] == 2 / 16
    assert facts["alarms"] == {"zeroise": [2, 3], "entropy": [3]}
    json.dumps(facts)


def test_a_run_that_did_not_search_has_no_search_time(tmp_path):
    write_json(tmp_path / "result.json", {"finished": True, "seconds": {"search": 0.1}})
    facts = run_facts(tmp_path, {**PLANNED, "genotype": "random:3"}, None)
    assert facts["search_seconds"] is None


@pytest.mark.parametrize(("failure", "status"), [(None, "unfinished"), ("Why.", "failed")])
def test_a_run_without_a_result(tmp_path, failure, status):
    facts = run_facts(tmp_path / "absent", PLANNED, failure)
    assert facts["status"] == status and facts["reason"] == failure
    assert facts["test_accuracy"] is None and facts["zeroise"] is None
