"""`bnas-larq compare` in processes of its own: killed in a run, resumed, with a run that fails."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from bnas_larq.cli.main import main
from bnas_larq.errors import RunError
from bnas_larq.files import read_json, read_lines
from bnas_larq.run.comparison import Comparison
from bnas_larq.run.comparison_plan import load_budget
from bnas_larq.run.comparison_request import ComparisonRequest
from bnas_larq.run_folder import RunFolder

BUDGET = """\
data: {name: digits, limit: 200}
search: {cells: 1, channels: 2, epochs: 1, batch_size: 32, limit: 128}
network: {cells: 1, channels: 2}
train: {epochs: 6, batch_size: 60, optimizer: adam, schedule: cosine, drop_path: 0.0}
export: {enabled: false}
"""
SEARCHED = "space: two-nodes, epochs: 10, batch_size: 32"
RUNS = ["given-seed3", "searched-seed3", "random-two-nodes-0"]


class Compared(NamedTuple):
    """A comparison that was killed, resumed with a damaged recipe, and resumed once more."""

    folder: Path
    killed_at: list[dict]
    half: object
    half_result: dict
    done: object


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    """Arguments: two methods and a budget. A given genotype takes no search, and so little time."""
    root = tmp_path_factory.mktemp("methods")
    (root / "given.yaml").write_text("genotype: random:two-nodes:3\n")
    (root / "searched.yaml").write_text(f"search: {{{SEARCHED}}}\n")
    (root / "budget.yaml").write_text(BUDGET)
    return (root / "given.yaml", root / "searched.yaml", "--budget", root / "budget.yaml")


@pytest.fixture(scope="module")
def compared(start, in_one_process, methods, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "out"
    process = start("compare", *methods, "--seeds", "3", "--random", "1", "--out", folder)
    run = folder / "runs" / RUNS[0]
    while not (run / "train" / "checkpoints" / "epoch-00002").is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = read_lines(run / "train" / "metrics.jsonl")
    # The run's own process must not go on and hold the folder.
    wait_for_lock(run)
    recipe = folder / "recipes" / f"{RUNS[2]}.yaml"
    content = recipe.read_text()
    recipe.write_text(content.replace("channels", "chanels"))
    (half,) = in_one_process([["compare", "--out", folder, "--resume"]])
    half_result = read_json(folder / "comparison.json")
    recipe.write_text(content)
    again = ["compare", *methods, "--seeds", "3", "--random", "1", "--out", folder, "--resume"]
    (done,) = in_one_process([again])
    assert done.code == 0, done.err
    return Compared(folder, killed_at, half, half_result, done)


def wait_for_lock(path: Path) -> None:
    """Lock a run folder as soon as nobody else does, and give it free again."""
    end = time.monotonic() + 30
    while True:
        folder = RunFolder(path)
        try:
            folder.lock()
        except RunError:
            assert time.monotonic() < end, "the run outlives the comparison"
            time.sleep(0.05)
        else:
            folder.unlock()
            return


def test_a_killed_run_goes_on_and_finished_ones_are_left_alone(compared):
    rows = read_lines(compared.folder / "runs" / RUNS[0] / "train" / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(6))
    # What was trained before the kill was not trained again: also its times are the same.
    assert 2 <= len(compared.killed_at) < 6 and rows[:2] == compared.killed_at[:2]
    for number, name in enumerate(RUNS[:2], 1):
        assert f"run {number}/3, {name}: already done" in compared.done.err
    assert f"run 3/3, {RUNS[2]}: already done" not in compared.done.err


def test_a_failed_run_is_recorded_with_its_sentence_and_tried_again(compared):
    assert compared.half.code == 0, compared.half.err
    runs = {run["name"]: run for run in compared.half_result["runs"]}
    assert [runs[name]["status"] for name in RUNS] == ["finished", "finished", "failed"]
    assert "did you mean 'channels'" in runs[RUNS[2]]["reason"]
    assert f"{RUNS[2]} failed: A recipe has fixed keys" in compared.half.out
    assert compared.half_result["finished"] is False
    result = read_json(compared.folder / "comparison.json")
    assert result["finished"] is True
    assert [run["status"] for run in result["runs"]] == ["finished"] * 3
    assert " failed" not in compared.done.out


def test_the_table_has_a_row_for_each_method_and_one_for_chance(compared):
    given, searched, random = rows = read_json(compared.folder / "comparison.json")["methods"]
    assert [row["method"] for row in rows] == ["given", "searched", "random (two-nodes)"]
    assert given["search_seconds"]["n"] == random["search_seconds"]["n"] == 0
    assert searched["search_seconds"]["mean"] > 0
    for row, name in zip(rows, RUNS, strict=True):
        own = read_json(compared.folder / "runs" / name / "result.json")
        assert row["test_accuracy"] == {"mean": own["test_accuracy"], "std": None, "n": 1}
        assert row["bytes"]["mean"] == own["cost"]["bytes"] > 0
        assert row["genotypes"] == [own["genotype"]]
    lines = compared.done.out.splitlines()
    assert lines[-1] == str(compared.folder / "comparison.json")
    assert any(line.startswith("random (two-nodes)") for line in lines)
    for suffix in ("csv", "md", "png"):
        assert (compared.folder / f"comparison.{suffix}").stat().st_size > 200


def test_all_networks_are_trained_with_the_budget(compared):
    budget = yaml.safe_load((compared.folder / "recipe.yaml").read_text())
    for name in RUNS:
        recipe = yaml.safe_load((compared.folder / "runs" / name / "recipe.yaml").read_text())
        assert {recipe[key] == budget[key] for key in ("data", "network", "train")} == {True}
        assert recipe["seed"] == 3
    _, searched, _ = read_json(compared.folder / "plan.json")
    adapted = {entry["key"]: entry for entry in searched["adapted"]}
    assert adapted["entropy_tau"]["own"] == 7.7 and adapted["entropy_tau"]["used"] == 0.77


def test_another_recipe_for_the_same_run_is_refused(refuse, compared, methods, tmp_path):
    before = (compared.folder / "plan.json").read_bytes()
    given, searched, option, budget = methods
    other = tmp_path / searched.name
    other.write_text(f"search: {{{SEARCHED}, alpha_learning_rate: 0.5}}\n")
    where = ("--out", compared.folder, "--resume")
    message = refuse("compare", given, other, option, budget, *where)
    assert f"another recipe for {RUNS[1]}" in message
    less = tmp_path / budget.name
    less.write_text(BUDGET.replace("epochs: 6", "epochs: 7"))
    message = refuse("compare", given, searched, option, less, *where)
    assert "another train than in" in message
    message = refuse("compare", *methods, *where, "--set", "train.epochs=7", "--seeds", "4")
    assert "another --seeds, --set than in" in message
    assert (compared.folder / "plan.json").read_bytes() == before


def test_a_dry_run_shows_the_plan_and_writes_nothing(methods, tmp_path, capsys):
    arguments = ["compare", *methods, "--out", tmp_path / "out", "--dry-run"]
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert "search.entropy_tau 7.7 -> 0.77" in out and out.endswith("6 runs\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "A comparison needs METHODS"),
        (("--resume", "--seeds", "1"), "A comparison needs METHODS"),
        (("--resume",), "holds plan.json"),
        (("quickstrat",), "did you mean 'quickstart'"),
        (("quickstart", "--budget", "no.yaml"), "does not exist"),
        (("quickstart", "--budget", "quickstart"), "Received: 'search.alpha_learning_rate'"),
        (("quickstart", "--seeds", "x"), "is no number"),
        (("quickstart", "--random", "0"), "--random"),
        (("quickstart", "--resume", "--overwrite"), "resumed or replaced"),
        (("quickstart", "--dry-run", "--overwrite"), "--dry-run replaces nothing"),
        (("quickstart", "--set", "search.epochs"), "KEY=VALUE"),
    ],
)
def test_bad_input_is_one_sentence(refuse, tmp_path, arguments, part):
    assert part in refuse("compare", "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_data_is_found_before_anything_is_written(refuse, methods, tmp_path):
    wrong = ("--set", "train.batch_size=181", "--out", tmp_path / "out")
    message = refuse("compare", *methods, *wrong)
    assert "Method given: " in message and "batch size 181 for 180 examples" in message
    assert not (tmp_path / "out").exists()


def test_an_ordinary_run_is_no_comparison(refuse, methods, tmp_path):
    """Also one that has the budget's own recipe, or that was killed early."""
    run = RunFolder.create(tmp_path / "run", load_budget(str(methods[-1])).to_yaml())
    (run / "search").mkdir()
    run.unlock()
    before = sorted(run.path.iterdir())
    for arguments, part in (
        (("--resume",), "holds plan.json"),
        ((*methods, "--resume"), "no beginning of this comparison"),
        ((*methods, "--overwrite"), "no beginning of this comparison"),
        (methods, "which exists"),
    ):
        assert part in refuse("compare", *arguments, "--out", run.path)
        assert sorted(run.path.iterdir()) == before


@pytest.fixture
def planned(monkeypatch):
    """`planned(ARGS)`: the plan that `compare ARGS` writes, by the runs' names; nothing is run."""
    monkeypatch.setattr(ComparisonRequest, "check", lambda request: None)
    monkeypatch.setattr(Comparison, "run", lambda comparison: ("", comparison.folder.path))

    def planned(*arguments, out):
        code = main([str(argument) for argument in ("compare", *arguments, "--out", out)])
        assert code == 0
        return {entry["name"]: entry for entry in read_json(out / "plan.json")}

    return planned


def test_a_further_method_gets_the_options_that_the_comparison_began_with(
    refuse, planned, methods, tmp_path
):
    given, _, *budget = methods
    # In `bnas`, which random genotypes are drawn from until something is searched.
    searched = tmp_path / "searched.yaml"
    searched.write_text("search: {epochs: 10, batch_size: 32}\n")
    out, override = tmp_path / "out", ("--set", "search.order=2")
    first = planned(given, *budget, "--seeds", "5,7", "--random", "3", *override, out=out)
    assert read_json(out / "options.json") == {
        "seeds": [5, 7],
        "random": 3,
        "overrides": ["search.order=2"],
        "data_dir": None,
        "random_ops": None,
    }
    both = planned(searched, *budget, "--resume", out=out)
    assert list(both) == [*first, "searched-seed5", "searched-seed7"]
    assert len([name for name in both if name.startswith("random-")]) == 3
    recipe = yaml.safe_load((out / "recipes" / "searched-seed7.yaml").read_text())
    assert recipe["search"]["order"] == 2
    # The same ones may be said again, others not.
    assert planned(searched, *budget, "--resume", "--seeds", "5,7", *override, out=out) == both
    bounds = ("--random-ops", "1e6", "2e6")
    for other in (("--seeds", "5"), ("--random", "2"), ("--set", "search.order=1"), bounds):
        message = refuse("compare", searched, *budget, "--resume", *other, "--out", out)
        assert f"another {other[0]} than in" in message
    # A folder of an earlier version goes on with what is given.
    (out / "options.json").unlink()
    more = planned(searched, *budget, "--resume", "--seeds", "9", *override, out=out)
    assert "searched-seed9" in more and not (out / "options.json").exists()


def test_all_methods_may_get_further_seeds_and_random_genotypes(refuse, planned, methods, tmp_path):
    given, searched, *budget = methods
    out = tmp_path / "out"
    first = planned(given, searched, *budget, "--seeds", "5,7", out=out)
    kept = {path: path.read_bytes() for path in (out / "recipes").iterdir()}
    # Not for some of them only, nor in place of others.
    grown = (*budget, "--resume", "--seeds", "2,5,7", "--random", "4")
    assert "Received: no given. Add" in refuse("compare", searched, *grown, "--out", out)
    message = refuse("compare", *methods, "--resume", "--seeds", "2,5", "--out", out)
    assert "another --seeds than in" in message
    assert read_json(out / "options.json")["seeds"] == [5, 7]
    more = planned(given, searched, *grown, out=out)
    assert list(more)[: len(first)] == list(first)
    assert {"given-seed2", "searched-seed2"} < set(more)
    assert len([name for name in more if name.startswith("random-")]) == 4
    assert {path: path.read_bytes() for path in kept} == kept
    assert read_json(out / "options.json")["seeds"] == [5, 7, 2]
    # From here on these are the options it goes on with.
    assert planned(*methods, "--resume", out=out) == more
    assert planned(*methods, "--resume", "--seeds", "2,5,7", out=out) == more
    message = refuse("compare", *methods, "--resume", "--seeds", "5,7", "--out", out)
    assert "another --seeds than in" in message


def test_a_damaged_file_of_options_is_one_sentence(refuse, planned, methods, tmp_path):
    out = tmp_path / "out"
    planned(*methods, out=out)
    for damaged in ("[]", '{"seeds": [5]}', '{"seeds": 5, "random": 2, "overrides": []}'):
        (out / "options.json").write_text(damaged)
        message = refuse("compare", *methods, "--resume", "--out", out)
        assert "options.json must hold seeds, random, overrides, data_dir" in message


def test_a_comparison_that_was_killed_at_its_very_beginning(refuse, planned, methods, tmp_path):
    out = tmp_path / "out"
    plan = planned(*methods, "--seeds", "4", out=out)
    for left in (("plan.json",), ("plan.json", "options.json", "environment.json")):
        for name in left:
            (out / name).unlink()
        assert "Give METHODS" in refuse("compare", "--resume", "--out", out)
        seeds = () if "options.json" not in left else ("--seeds", "4")
        assert planned(*methods, "--resume", *seeds, out=out) == plan
        assert (out / "environment.json").is_file()
    (out / "plan.json").unlink()
    assert list(planned(*methods, "--overwrite", "--seeds", "6", out=out))[0] == "given-seed6"
    # With another budget it is not this comparison's beginning.
    (out / "plan.json").unlink()
    (out / "options.json").unlink()
    message = refuse("compare", *methods, "--resume", "--set", "train.epochs=9", "--out", out)
    assert "no beginning of this comparison" in message


def test_the_recipe_of_a_run_that_has_not_begun_may_be_mended(refuse, planned, methods, tmp_path):
    given, _, *budget = methods
    method, out = tmp_path / "method.yaml", tmp_path / "out"
    method.write_text("search: {epochs: 10, batch_size: 32}\n")
    before = planned(given, method, *budget, "--seeds", "1,2", out=out)
    method.write_text("search: {epochs: 20, batch_size: 32}\n")
    after = planned(method, *budget, "--resume", out=out)
    assert list(after) == list(before) and after["given-seed1"] == before["given-seed1"]
    # 1 of 20 epochs instead of 1 of 10, on 128 images of 90 % of 1,438.
    rate = pytest.approx(3e-4 * 20 * (0.9 * 1438 / 128), rel=1e-5)
    adapted = {entry["key"]: entry["used"] for entry in after["method-seed1"]["adapted"]}
    recipe = yaml.safe_load((out / "recipes" / "method-seed1.yaml").read_text())
    assert adapted["alpha_learning_rate"] == recipe["search"]["alpha_learning_rate"] == rate
    # One seed that has begun: the method stays what it was, for all seeds.
    (out / "runs" / "method-seed2").mkdir(parents=True)
    method.write_text("search: {epochs: 30, batch_size: 32}\n")
    message = refuse("compare", method, *budget, "--resume", "--out", out)
    assert "another recipe for method-seed2" in message
    assert {entry["name"]: entry for entry in read_json(out / "plan.json")} == after
    assert yaml.safe_load((out / "recipes" / "method-seed1.yaml").read_text()) == recipe


def test_a_folder_with_other_things_is_left_alone(refuse, methods, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        refuse("compare", *methods, "--out", tmp_path, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_any_result_the_exit_code_is_2(in_one_process, compared, tmp_path):
    """Only a damaged recipe is left of the plan, which fails before TensorFlow is loaded."""
    folder = tmp_path / "out"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipe.yaml").write_bytes((compared.folder / "recipe.yaml").read_bytes())
    (folder / "plan.json").write_text(json.dumps([read_json(compared.folder / "plan.json")[0]]))
    (folder / "recipes" / f"{RUNS[0]}.yaml").write_text("serach: {}\n")
    (done,) = in_one_process([["compare", "--out", folder, "--resume"]])
    assert done.code == 2 and len(done.errors) == 1
    assert "No run of the comparison has a result" in done.errors[0]
    assert "did you mean 'search'" in done.errors[0]
