"""Searches with each of keras-tuner's oracles, a planted accuracy, and interruptions."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from bnas_larq.errors import RunError, TrainingStopped
from bnas_larq.files import append_line, read_json, read_lines
from bnas_larq.search.tuning import Encoding, TrialResult, TunerSearch, pareto_front
from bnas_larq.search.tuning.records import FRONT, TRIALS, best_row
from bnas_larq.search.tuning.tuner_search import TUNER_ID
from bnas_larq.settings import TunerSettings
from bnas_larq.spaces import SearchSpace

ROOT = Path(__file__).parents[3]
RATE = {"min": 1e-4, "max": 1e-2, "log": True}
TRAIN = {"learning_rate": RATE, "optimizer": ["sgd", "adam"]}
BINARY = SearchSpace("binary", *[("none", "bin_conv_3x3")] * 2, nodes=1)
SETTINGS = {
    "random": {"trials": 8, "hyperparameters": TRAIN},
    # Every proposal of the Gaussian process takes long, the longer the more there is to choose. The
    # last bits of a rate tell by which draws it was found.
    "bayesian": {"trials": 4, "space": BINARY, "hyperparameters": {"learning_rate": RATE}},
    "hyperband": {"trials": 40, "epochs": 4, "hyperband_factor": 2},
    "evolution": {"trials": 9, "population": 4, "sample": 2, "hyperparameters": TRAIN},
}


def rows_of(folder: Path) -> list[dict]:
    """trials.jsonl without its times."""
    rows = read_lines(folder / TRIALS)
    assert all(row.pop("seconds") >= 0 for row in rows)
    return rows


@pytest.mark.parametrize("oracle", SETTINGS)
def test_the_same_seed_tries_the_same_and_nothing_twice(found, planted, oracle, tmp_path):
    results = [found(tmp_path / name, oracle=oracle, **SETTINGS[oracle]) for name in "ab"]
    first, second = (rows_of(tmp_path / name) for name in "ab")
    assert first == second and len(first) > 3
    assert results[0].genotype.id == results[1].genotype.id
    trained = [(call[2], call[3]) for call in planted.calls]
    assert len(set(trained)) == len(trained) == 2 * len(first)


def test_neighbouring_seeds_share_no_draws(found, tmp_path):
    """keras-tuner counts its seed up with each value: seed 1 would repeat most of seed 0."""
    drawn = []
    for seed in (0, 1):
        found(tmp_path / str(seed), oracle="random", seed=seed, **SETTINGS["random"])
        rows = rows_of(tmp_path / str(seed))
        drawn.append({row["hyperparameters"]["learning_rate"] for row in rows})
    assert not drawn[0] & drawn[1]


def test_result_and_records(found, planted, tmp_path):
    result = found(tmp_path, oracle="evolution", seed=5, **SETTINGS["evolution"])
    rows = rows_of(tmp_path)
    assert [int(row["trial"]) for row in rows] == list(range(9))
    for row, (genotype, overrides, epochs, folder, seed) in zip(rows, planted.calls, strict=True):
        assert row["genotype"] == genotype and row["hyperparameters"] == overrides
        assert row["epochs"] == epochs == 10
        assert set(overrides) == set(TRAIN)
        assert folder.is_dir() and folder.parent == tmp_path / "trials" and seed == 5
    best = best_row(rows)
    assert best["accuracy"] == max(row["accuracy"] for row in rows)
    assert result.genotype.id == best["genotype"]
    assert (result.epoch, result.validation_accuracy) == (9, best["accuracy"])
    provenance = result.genotype.provenance
    assert provenance["data"] == "planted" and provenance["train"] == best["hyperparameters"]
    front = read_json(tmp_path / FRONT)
    expected = [rows[i] for i in pareto_front([(r["accuracy"], r["cost"]) for r in rows])]
    assert front["cost"] == "ops" and front["trials"] == 9
    assert [point["trial"] for point in front["front"]] == [row["trial"] for row in expected]


def test_of_equally_accurate_trials_the_cheapest_is_taken():
    rows = [
        {"accuracy": 0.5, "cost": 2.0},
        {"accuracy": 0.5, "cost": 1.0, "first": True},
        {"accuracy": 0.5, "cost": 1.0},
        {"accuracy": None, "cost": None},
    ]
    assert best_row(rows) is rows[1] and best_row(rows[3:]) is None


def test_without_a_cost_there_is_no_front(found, tmp_path):
    class NoCost:
        def __call__(self, genotype, train_overrides, epochs, folder, seed):
            return TrialResult(0.5)

    found(tmp_path, oracle="random", trials=2, cost=None, trial=NoCost())
    assert [row["cost"] for row in rows_of(tmp_path)] == [None, None]
    assert not (tmp_path / FRONT).exists()


def test_bayesian_optimisation_begins_after_a_third_of_the_trials():
    from bnas_larq.search.tuning.oracles import make_oracle

    encoding = Encoding(SearchSpace.bnas())
    for trials, points in ((3, 2), (30, 10), (1000, 66)):
        # 22 choices in the space bnas, and thrice that is keras-tuner's own number.
        settings = TunerSettings(oracle="bayesian", trials=trials)
        assert make_oracle(settings, encoding, 0, print).num_initial_points == points


# -- Hyperband -----------------------------------------------------------------------------------


def test_hyperband_goes_on_in_the_folder_of_the_smaller_bracket(found, planted, tmp_path):
    found(tmp_path, oracle="hyperband", **SETTINGS["hyperband"])
    rows = {row["trial"]: row for row in rows_of(tmp_path)}
    folders = {(call[0], call[2]): call[3] for call in planted.calls}
    continued = [row for row in rows.values() if row["continues"]]
    # Four epochs by a factor of 2: brackets of 1 → 2 → 4, 2 → 4 and 4 epochs.
    assert {row["epochs"] for row in rows.values()} == {1, 2, 4}
    assert {(rows[row["continues"]]["epochs"], row["epochs"]) for row in continued} == {
        (1, 2),
        (2, 4),
    }
    for row in continued:
        earlier = rows[row["continues"]]
        assert earlier["genotype"] == row["genotype"]
        key = row["genotype"]
        assert folders[key, row["epochs"]] == folders[key, earlier["epochs"]]
    # The better ones go on.
    first = [row for row in rows.values() if row["epochs"] == 1]
    kept = {row["continues"] for row in continued}
    worst_kept = min(row["accuracy"] for row in first if row["trial"] in kept)
    assert worst_kept >= max(row["accuracy"] for row in first if row["trial"] not in kept)


def test_checkpoints_stay_while_a_trial_may_go_on_from_them(search, tmp_path):
    class Keeping:
        """Trains one epoch after the other, and writes each of them down where the last one is."""

        trained: list[int] = []

        def __call__(self, genotype, train_overrides, epochs, folder, seed):
            checkpoints = folder / "checkpoints"
            done = len(read_lines(checkpoints / "epochs.jsonl"))
            for epoch in range(done, epochs):
                append_line(checkpoints / "epochs.jsonl", {"epoch": epoch})
            self.trained.append(epochs - done)
            return TrialResult(genotype.count("bin_conv_3x3") / 8)

    trial = Keeping()
    search(trial, oracle="hyperband", **SETTINGS["hyperband"]).run(folder=tmp_path, provenance={})
    rows = rows_of(tmp_path)
    epochs = {row["trial"]: row["epochs"] for row in rows}
    assert trial.trained == [row["epochs"] - epochs.get(row["continues"], 0) for row in rows]
    assert not list(tmp_path.rglob("checkpoints")), "the search is done"


def test_hyperband_stops_at_the_number_of_trials(found, tmp_path):
    result = found(tmp_path, oracle="hyperband", trials=5, epochs=4, hyperband_factor=2)
    assert result.epoch == 5


# -- trials that fail ----------------------------------------------------------------------------


def test_a_network_that_cannot_be_trained_is_left_out(search, planted, tmp_path):
    class Diverging:
        calls = 0

        def __call__(self, *args):
            self.calls += 1
            if self.calls <= 4:  # more than keras-tuner bears in a row
                raise TrainingStopped("The loss must stay finite. Received: nan.")
            return planted(*args)

    made = search(Diverging(), oracle="evolution", **SETTINGS["evolution"])
    result = made.run(folder=tmp_path, provenance={})
    rows = rows_of(tmp_path)
    assert [bool(row["failed"]) for row in rows] == [True] * 4 + [False] * 5
    assert rows[0]["accuracy"] is None and "Received: nan" in rows[0]["failed"]
    assert result.genotype.id not in {row["genotype"] for row in rows[:4]}


def test_if_all_fail_the_search_says_why(search, tmp_path):
    def diverging(*args):
        raise TrainingStopped("The loss must stay finite. Received: nan.")

    with pytest.raises(TrainingStopped, match=r"none of 3 \(The loss .* nan.\). Lower train.lea"):
        search(diverging, oracle="random", trials=3).run(folder=tmp_path, provenance={})


@pytest.mark.parametrize("error", [RunError("The disk is full."), ZeroDivisionError("a bug")])
def test_other_errors_stop_the_search_as_they_are(search, planted, error, tmp_path):
    def breaking(*args):
        if len(planted.calls) == 2:
            raise error
        return planted(*args)

    with pytest.raises(type(error), match=str(error)):
        search(breaking, oracle="random", trials=5).run(folder=tmp_path, provenance={})
    assert len(read_lines(tmp_path / TRIALS)) == 2


def test_a_result_that_cannot_be_written_stops_the_search(search, planted, full_disk, tmp_path):
    made = search(oracle="random", trials=3)
    with full_disk(1500), pytest.raises(RunError, match="must be written to disk"):
        made.run(folder=tmp_path, provenance={})
    made.run(folder=tmp_path, provenance={})
    assert len(rows_of(tmp_path)) == 3


# -- interruptions -------------------------------------------------------------------------------


class Killed(BaseException):
    """Passes every `except Exception`, as the end of a process does."""


@pytest.mark.parametrize("oracle", SETTINGS)
def test_killed_in_any_trial(search, found, planted, oracle, tmp_path):
    found(tmp_path / "whole", oracle=oracle, **SETTINGS[oracle])

    met = []

    def dying(*args):
        if args[2:4] not in met:
            met.append(args[2:4])
            if len(met) % 2 == 1:
                raise Killed
        return planted(*args)

    kills = 0
    while True:
        try:
            made = search(dying, oracle=oracle, **SETTINGS[oracle])
            made.run(folder=tmp_path / "pieces", provenance={})
            break
        except Killed:
            kills += 1
    assert kills >= 2
    whole, pieces = rows_of(tmp_path / "whole"), rows_of(tmp_path / "pieces")
    assert whole == pieces


def test_killed_at_any_write(search, found, monkeypatch, tmp_path):
    """The worst moments: between the files that belong together."""
    settings = {"oracle": "evolution", "trials": 5, "population": 2, "sample": 2}
    found(tmp_path / "whole", **settings)
    rename, writes = os.replace, [0]

    def counting(source, target):
        writes[0] += 1
        if writes[0] == limit:
            raise Killed
        rename(source, target)

    monkeypatch.setattr(os, "replace", counting)
    limit, folder = None, tmp_path / "counted"
    search(**settings).run(folder=folder, provenance={})
    total = writes[0]
    assert total > 5 * 5
    # All writes of the third trial, the first child, and the first ones of the search.
    each = total // 5
    for limit in [*range(1, each), *range(2 * each, 3 * each + 2)]:
        writes[0] = 0
        folder = tmp_path / f"{limit}"
        with pytest.raises(Killed):
            search(**settings).run(folder=folder, provenance={})
        search(**settings).run(folder=folder, provenance={})
        assert rows_of(folder) == rows_of(tmp_path / "whole"), f"killed at write {limit}"


#: Is killed by itself within its third trial.
SUICIDE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import Planted, SMALL
from bnas_larq.settings import TunerSettings
from bnas_larq.search.tuning import TunerSearch
planted = Planted()
def trial(*args):
    if len(planted.calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return planted(*args)
settings = TunerSettings(oracle="evolution", trials=6, population=3, sample=2)
TunerSearch(settings, SMALL, trial, seed=0).run(folder=Path(sys.argv[1]), provenance={})
"""


def test_killed_for_good(found, planted, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SUICIDE, tmp_path / "killed", Path(__file__).parent],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(read_lines(tmp_path / "killed" / TRIALS)) == 2
    settings = {"oracle": "evolution", "trials": 6, "population": 3, "sample": 2}
    for name in ("killed", "whole"):
        found(tmp_path / name, **settings)
    assert len(planted.calls) == 4 + 6, "what was measured is not measured again"
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def test_a_finished_search_is_only_read(found, planted, tmp_path):
    first = found(tmp_path, oracle="random", **SETTINGS["random"])
    trained = len(planted.calls)
    again = found(tmp_path, oracle="random", **SETTINGS["random"])
    assert again == first and len(planted.calls) == trained


# -- who a process is ----------------------------------------------------------------------------


def test_a_worker_does_not_own_a_search(found, monkeypatch, tmp_path):
    monkeypatch.setenv(TUNER_ID, "worker-1")
    with pytest.raises(RunError, match="together. Received: KERASTUNER_TUNER_ID alone"):
        found(tmp_path, oracle="random", trials=2)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    with pytest.raises(RunError, match="Received: KERASTUNER_TUNER_ID=worker-1. Set it to chief"):
        found(tmp_path, oracle="random", trials=2)


def test_several_workers_need_someone_who_starts_them(search, monkeypatch):
    with pytest.raises(RunError, match="Received: workers=2 without launch. Give it, set workers"):
        search(workers=2, oracle="random", trials=2)
    set_role(monkeypatch, "worker-1", "127.0.0.1", "9")
    assert search(workers=2, oracle="random", trials=2).settings.workers == 2


@pytest.mark.parametrize("address", ["192.0.2.1:9", "127.0.0.1:99999", "127.0.0.1:http"])
def test_a_chief_listens_on_its_own_machine(found, monkeypatch, tmp_path, address):
    """192.0.2.1 is nobody's: RFC 5737."""
    ip, port = address.split(":")
    set_role(monkeypatch, "chief", ip, port)
    with pytest.raises(RunError, match=f"of its own machine, on a free port. Received: {address}"):
        found(tmp_path, oracle="random", trials=2)


def test_a_second_chief_does_not_take_the_workers_of_the_first(found, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        set_role(monkeypatch, "chief", "127.0.0.1", str(server.getsockname()[1]))
        with pytest.raises(RunError, match="on a free port"):
            found(tmp_path, oracle="random", trials=2)


def set_role(monkeypatch, name, ip, port):
    monkeypatch.setenv(TUNER_ID, name)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", ip)
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", port)


def test_no_two_processes_train_a_trial_at_once(search, tmp_path):
    """Two workers of one name get the same trial, as do an old and a new one of a chief that was
    started again: the second waits for the first one's result."""
    refused = []

    def trial(genotype, train_overrides, epochs, folder, seed):
        with pytest.raises(Timeout), FileLock(folder / ".lock", timeout=0):
            pass
        refused.append(folder)
        return TrialResult(0.25, 1.0)

    search(trial, trials=2, oracle="random").run(folder=tmp_path, provenance={})
    assert len(refused) == 2


def test_what_all_must_do_alike_comes_first(planted, tmp_path):
    settings, order = TunerSettings(oracle="random", trials=2), []

    def trial(*args):
        order.append("trial")
        return planted(*args)

    search = TunerSearch(settings, BINARY, trial, seed=0, prepare=lambda: order.append("prepare"))
    search.run(folder=tmp_path, provenance={})
    assert order == ["prepare", "trial", "trial"]
