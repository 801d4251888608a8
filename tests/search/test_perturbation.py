"""Choice by perturbation: what is kept, records, resumption, and a trained supernet."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.files import read_lines
from bnas_larq.genotype import Edge
from bnas_larq.recipe import parse_recipe
from bnas_larq.search.gradient_search import GradientSearch
from bnas_larq.search.perturbation import PerturbationChoice, decisions_near_chance
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import SearchSpace

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("two", OPERATIONS, OPERATIONS, nodes=2)
EDGES = len(SPACE.edges)
#: Of each kind: how much an accuracy depends on each candidate.
IMPORTANCE = np.random.default_rng(3).permutation(2 * EDGES * 3).reshape(2, EDGES, 3) / 100
UNIFORM = [np.full([EDGES, 3], 1 / 3, np.float32)] * 2


class Measure:
    """An accuracy that is a sum over candidates; counts its calls."""

    calls = 0

    def __call__(self, normal, reduce):
        self.calls += 1
        return float((IMPORTANCE * [normal, reduce]).sum())


def timeless(log):
    return [{**row, "seconds": 0} for row in read_lines(log)]


def test_what_is_missed_most_is_kept(tmp_path):
    measure = Measure()
    cells = PerturbationChoice(SPACE, measure, tmp_path / "log.jsonl")(UNIFORM)
    for cell, importance in zip(cells, IMPORTANCE, strict=True):
        best = importance.argmax(axis=1)
        # Node 0 has two edges. Node 1 keeps two of three: those of the largest importance.
        kept = sorted(sorted((2, 3, 4), key=lambda edge: -importance[edge].max())[:2])
        assert cell[0] == tuple(Edge(OPERATIONS[best[edge]], edge) for edge in (0, 1))
        assert cell[1] == tuple(Edge(OPERATIONS[best[edge]], edge - 2) for edge in kept)
    rows = read_lines(tmp_path / "log.jsonl")
    assert [row["decision"] for row in rows] == list(range(2 * EDGES + 2 * 2))
    assert PerturbationChoice(SPACE, measure, tmp_path / "none.jsonl").planned == len(rows)
    # Three candidates of each edge, then the three edges of one node of each cell; and nothing.
    assert measure.calls == 2 * EDGES * (3 + 1) + 2 * (3 + 1)
    assert all(row["seconds"] >= 0 for row in rows)
    first = rows[0]
    assert first["before"] == pytest.approx((IMPORTANCE / 3).sum())
    # The first nodes keep both of their edges.
    assert sum(row["before"] is None for row in rows) == 2
    removed = dict(zip(OPERATIONS, first["without"].values(), strict=True))
    assert first["without"] == removed
    assert first["kept"] == min(removed, key=removed.get)


def test_decisions_near_chance_are_counted():
    """With two classes: below 0.5 + 0.05·0.5; a node that keeps all its edges decides nothing."""
    rows = [{"decision": n, "before": b} for n, b in enumerate((0.9, 0.53, 0.52, None, 0.3))]
    assert decisions_near_chance(rows, num_classes=2) == [2, 4]


def test_a_killed_choice_goes_on_behind_its_records(tmp_path):
    log = tmp_path / "log.jsonl"
    whole = PerturbationChoice(SPACE, Measure(), log, seed=5)(UNIFORM)
    rows, lines = timeless(log), log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:11]) + lines[11][:9])
    measure = Measure()
    assert PerturbationChoice(SPACE, measure, log, seed=5)(UNIFORM) == whole
    assert timeless(log) == rows
    assert measure.calls == 2 * (3 + 1)
    other = PerturbationChoice(SPACE, Measure(), tmp_path / "other.jsonl", seed=6)(UNIFORM)
    assert other == whole, "the order does not matter to a sum"
    assert timeless(tmp_path / "other.jsonl") != rows


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {"kept": "identity"}),
        (0, {"kept": [0, 1]}),
        (0, {"state": None}),
        (0, {"node": 5}),
        (0, {"cell": "other"}),
        (2 * EDGES, {"kept": "none"}),
        (2 * EDGES, {"kept": [0]}),
        (2 * EDGES, {"kept": [0, 9]}),
    ],
)
def test_a_record_that_is_not_of_its_decision_is_refused(tmp_path, number, changes):
    log = tmp_path / "log.jsonl"
    PerturbationChoice(SPACE, Measure(), log)(UNIFORM)
    rows = read_lines(log)
    rows[number] |= changes
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunError, match=f"keeps what the space has. .*decision {number}. Delete"):
        PerturbationChoice(SPACE, Measure(), log)(UNIFORM)


def test_neither_pruned_candidates_nor_an_excluded_zeroise_are_kept(tmp_path):
    alive = [np.ones([EDGES, 3], bool), np.ones([EDGES, 3], bool)]
    alive[0][:, 2] = False
    choice = PerturbationChoice(SPACE, Measure(), tmp_path / "a.jsonl", zeroise_competes=False)
    normal, reduce = choice(UNIFORM, alive)
    assert {edge.op for node in normal for edge in node} == {"max_pool_3x3"}
    assert "none" not in {edge.op for node in reduce for edge in node}


@pytest.mark.usefixtures("small_spaces")
def test_of_a_trained_supernet(search_data, tmp_path, caplog):
    """Without Zeroise the mixture is as it was: its accuracy is that of softmax(α)."""
    keras.utils.set_random_seed(1)
    caplog.set_level("INFO", logger="bnas_larq")
    values = {"cells": 1, "channels": 2, "epochs": 1, "alarms": {"action": "off"}}
    settings = SearchSettings(space="tiny", choice="perturbation", choice_examples=8, **values)
    searcher = GradientSearch(settings, 2, (8, 8, 3))
    relaxation = searcher.supernet.relaxation
    result = searcher.run(search_data, folder=tmp_path, provenance={"seed": 1})
    assert searcher.supernet.relaxation is relaxation
    told = [line.partition(":")[0] for line in caplog.messages if "decision " in line]
    assert told == [f"search decision {number}/6" for number in range(1, 7)]
    rows = read_lines(tmp_path / "perturbation.jsonl")
    assert len(rows) == 2 * 2 + 2
    assert all(8 * value % 1 == 0 for row in rows for value in row["without"].values())
    for row in rows[:4]:
        cell = getattr(result.genotype, row["cell"])
        assert Edge(row["kept"], row["state"]) in cell[row["node"]]
    facts = {"space": "tiny", "epoch": 1, "choice": "perturbation", "seed": 1}
    assert result.genotype.provenance == facts
    assert (result.epoch, result.validation_accuracy) == (
        1,
        read_lines(tmp_path / "alphas.jsonl")[0]["val_accuracy"],
    )
    again = GradientSearch(settings, 2, (8, 8, 3))
    assert again.run(search_data, folder=tmp_path, provenance={"seed": 1}) == result


def test_a_supernet_of_sampled_paths_has_no_mixture_to_perturb():
    with pytest.raises(BnasLarqError, match="gumbel-hard trains paths of one candidate"):
        parse_recipe({"search": {"choice": "perturbation", "relaxation": "gumbel-hard"}})


def test_channels_that_bypass_the_candidates_cannot_be_taken_away():
    with pytest.raises(BnasLarqError, match="channel_proportion is 4, set it to 1, or choice"):
        parse_recipe({"search": {"choice": "perturbation", "channel_proportion": 4}})
