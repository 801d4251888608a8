"""A comparison from Python, without its runs, and how options may change when it is resumed."""

from __future__ import annotations

import pytest

from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import read_json
from bnas_larq.recipe import load_recipe
from bnas_larq.run import comparison_plan, comparison_request
from bnas_larq.run.comparison import Comparison, table_notes
from bnas_larq.run.comparison_plan import load_budget
from bnas_larq.run.comparison_request import ComparisonRequest

BUDGET = """\
data: {name: digits, limit: 200}
search: {cells: 1, channels: 2, epochs: 1, batch_size: 32}
network: {cells: 1, channels: 2}
train: {batch_size: 60}
"""


@pytest.fixture
def methods(tmp_path):
    path = tmp_path / "given.yaml"
    path.write_text("genotype: random:3\n")
    return [path]


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "budget.yaml"
    path.write_text(BUDGET)
    return {"budget": path, "seeds": [3], "random": 1}


def test_a_comparison_is_created_extended_and_opened(methods, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(ComparisonRequest, "check", lambda request: None)
    out = tmp_path / "out"
    overrides = {"train.epochs": 5}
    with Comparison.create(methods, out, overrides=overrides, **settings) as comparison:
        assert [run["name"] for run in comparison.plan()] == ["given-seed3", "random-bnas-0"]
        with pytest.raises(RunError, match="Only one process"):
            Comparison.open(out)
    assert read_json(out / "options.json")["overrides"] == ["train.epochs=5"]
    # A refused request leaves the folder unlocked.
    settings.update(resume=True, seeds=[3, 4])
    (out / "runs" / "given-seed3").mkdir(parents=True)
    methods[0].write_text("genotype: random:4\n")
    with pytest.raises(RunError, match="another recipe for given-seed3") as refused:
        Comparison.create(methods, out, **settings)
    methods[0].write_text("genotype: random:3\n")
    with Comparison.create(methods, out, **settings) as comparison:
        assert [run["name"] for run in comparison.plan()][2:] == ["given-seed4"]
    assert refused.value.__traceback__ is not None
    with Comparison.open(out) as comparison:
        assert len(comparison.plan()) == 3 and comparison.failures() == {}


@pytest.mark.parametrize("started", [True, False])
def test_a_planned_draw_keeps_its_seed_when_seeds_are_added(
    methods, settings, tmp_path, monkeypatch, started
):
    """Also where more draws than seeds shared the first one."""
    monkeypatch.setattr(ComparisonRequest, "check", lambda request: None)
    out = tmp_path / "out"

    def planned(**more):
        with Comparison.create(methods, out, **{**settings, **more}) as comparison:
            entries = {run["name"]: run["seed"] for run in comparison.plan()}
        recipes = {name: load_recipe(out / "recipes" / f"{name}.yaml").seed for name in entries}
        assert recipes == entries
        return {name: seed for name, seed in entries.items() if name.startswith("random")}

    first = planned(seeds=[0], random=2)
    assert first == {"random-bnas-0": 0, "random-bnas-1": 0}
    if started:
        (out / "runs" / "random-bnas-1").mkdir(parents=True)
    assert planned(seeds=[0, 1], random=2, resume=True) == first
    # Further draws take all seeds in turn.
    more = {**first, "random-bnas-2": 0, "random-bnas-3": 1}
    assert planned(seeds=[0, 1], random=4, resume=True) == more
    assert planned(seeds=[0, 1], random=4, resume=True) == more


@pytest.mark.parametrize(
    ("train", "images", "numbers"),
    [
        ("{epochs: 5, batch_size: 60}", "", "5 epochs, batch 60"),
        (
            "{on: all, epochs: 4, batch_size: 60, stages: [{epochs: 3}, {}]}",
            " and what was held out from it for validation",
            "3 + 4 epochs, batch 60",
        ),
        (
            "{epochs: 4, batch_size: 60, stages: [{batch_size: 30}, {}]}",
            "",
            "4 + 4 epochs, batch 30 + 60",
        ),
    ],
)
def test_the_table_tells_how_the_plan_trained(settings, train, images, numbers):
    path = settings["budget"]
    path.write_text(BUDGET.replace("{batch_size: 60}", train))
    (note,) = (note for note in table_notes(load_budget(path)) if note.startswith("Every genotype"))
    assert f"on the whole training part{images}: 1 cells" in note and f", {numbers}. " in note


def test_a_dry_run_checks_the_data_and_writes_nothing(methods, settings, tmp_path):
    before = sorted(tmp_path.iterdir())
    request = ComparisonRequest(methods, tmp_path / "out", **settings)
    assert request.dry_run().endswith("2 runs")
    wrong = ComparisonRequest(methods, overrides={"train.batch_size": 181}, **settings)
    with pytest.raises(BnasLarqError, match="Method given: .*batch size 181 for 180"):
        wrong.dry_run()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("wrong", [{"seeds": []}, {"seeds": [-1]}, {"random": 0}])
def test_options_that_give_no_comparison(methods, settings, wrong):
    with pytest.raises(RunError, match="at least one seed and one random genotype"):
        ComparisonRequest(methods, **settings | wrong).plan()


def test_a_comparison_is_resumed_or_replaced(methods):
    with pytest.raises(RunError, match="resumed or replaced"):
        Comparison.create(methods, resume=True, overwrite=True)


@pytest.mark.parametrize("name", ["plan.json", "failures.json", "options.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "3", '[{"name": 1}]', '{"seeds": [true]}', "{"])
def test_a_damaged_comparison_is_a_sentence(
    methods, settings, tmp_path, monkeypatch, name, content
):
    monkeypatch.setattr(ComparisonRequest, "check", lambda request: None)
    Comparison.create(methods, tmp_path / "out", **settings).close()
    (tmp_path / "out" / name).write_text(content)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=f"{name}"):
        if name == "options.json":
            Comparison.create(methods, tmp_path / "out", **settings, resume=True)
        with Comparison.open(tmp_path / "out") as comparison:
            comparison.write()
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert before == after


def test_memory_of_gpus_is_shared_before_images_are_counted(methods, settings, monkeypatch):
    """TensorFlow counts them, and reads the variable when it first computes."""
    done = []
    monkeypatch.setattr(comparison_request, "share_gpu_memory", lambda: done.append("share"))
    described = comparison_plan._described

    def counted(data):
        done.append("count")
        return described(data)

    monkeypatch.setattr(comparison_plan, "_described", counted)
    ComparisonRequest(methods, **settings).plan()
    assert done == ["share", "count"]
