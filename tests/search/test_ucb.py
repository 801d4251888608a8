"""The bandit's table: draws, bounds and reduction, against tables computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bnas_larq.errors import BnasLarqError, RunError
from bnas_larq.search.ucb import UcbTable


def table(edges=1, operations=3, **settings):
    return UcbTable(np.ones((edges, operations), bool), **{"floor": 1, **settings})


def play(table, reward, draws=None):
    """Credit `reward(path)` until the table is done, or for some draws; the paths drawn."""
    paths = []
    while not table.done and (draws is None or len(paths) < draws):
        paths.append(table.path())
        table.credit(reward(paths[-1]))
    return np.array(paths)


# -- bounds ----------------------------------------------------------------------------------------


def test_bounds_are_those_computed_by_hand():
    """Two rounds of three candidates, which earn 0.2 and 0.4, 0.5 and 0.7, 0.3 and 0.3."""
    earned = {0: iter((0.2, 0.4)), 1: iter((0.5, 0.7)), 2: iter((0.3, 0.3))}
    bandit = table(rounds=3, exploration=0.5)
    play(bandit, lambda path: next(earned[path[0]]), draws=2 * 3)

    means = [(0.2 + 0.4) / 2, (0.5 + 0.7) / 2, (0.3 + 0.3) / 2]
    bonus = 0.5 * math.sqrt(2 * math.log(6) / 2)  # δ = 0.5, N = 2 · 3 draws, n = 2
    exponentials = [math.exp(mean) for mean in means]
    assert bandit.counts().tolist() == [[2, 2, 2]]
    assert bandit.means()[0] == pytest.approx(means)
    assert bandit.bounds()[0] == pytest.approx([mean + bonus for mean in means])
    assert bandit.shares()[0] == pytest.approx([e / sum(exponentials) for e in exponentials])


def test_abandoned_candidates_stay_in_the_number_of_draws():
    """One round each: of 3 candidates the worst goes, of 2 the worse; 0.1, 0.5, 0.3 + 0.2·round."""
    rewards = [0.1, 0.5, 0.3]
    bandit = table(rounds=1)
    play(bandit, lambda path: rewards[path[0]] + 0.2 * bandit.round)
    assert bandit.alive.tolist() == [[False, True, False]]
    assert bandit.counts().tolist() == [[1, 2, 2]]
    means = [0.1, (0.5 + 0.7) / 2, (0.3 + 0.5) / 2]
    bounds = [
        mean + math.sqrt(2 * math.log(1 + 2 + 2) / n)
        for mean, n in zip(means, (1, 2, 2), strict=True)
    ]
    assert bandit.bounds()[0] == pytest.approx(bounds)
    assert bandit.shares().tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(("exploration", "left"), [(0.0, [True, False]), (1.0, [False, True])])
def test_a_seldom_drawn_candidate_has_the_larger_bonus(exploration, left):
    """m = 0.50 of 4 draws against m = 0.45 of one: √(2·ln 5 / 4) = 0.90 against 1.79."""
    bandit = UcbTable(np.ones((1, 2), bool), rounds=1, floor=1, exploration=exploration)
    bandit.restore({"round": 0, "drawn": 0, "alive": [[1, 1]], "credits": [[[0.5] * 3, []]]})
    assert bandit.bounds()[0, 1] == math.inf
    play(bandit, lambda path: (0.5, 0.45)[path[0]])
    assert bandit.counts().tolist() == [[4, 1]]
    assert bandit.alive[0].tolist() == left
    bounds = (
        0.5 + exploration * math.sqrt(2 * math.log(5) / 4),
        0.45 + exploration * math.sqrt(2 * math.log(5) / 1),
    )
    assert bandit.bounds()[0] == pytest.approx(bounds)


def test_of_equal_bounds_the_first_candidate_is_abandoned():
    """Also when the same credits came in another order: 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1."""
    assert (0.1 + 0.2) + 0.3 != (0.3 + 0.2) + 0.1
    earned = {0: [0.1, 0.2, 0.3], 1: [0.9] * 3, 2: [0.3, 0.2, 0.1]}
    bandit = table(rounds=3, floor=2)
    play(bandit, lambda path: earned[path[0]][bandit.round])
    assert bandit.alive.tolist() == [[False, True, True]]


# -- draws -----------------------------------------------------------------------------------------


def test_every_round_draws_each_candidate_of_an_edge_once():
    bandit = table(edges=28, operations=8, rounds=3, floor=2, seed=5)
    assert bandit.planned == 3 * (8 + 7 + 6 + 5 + 4 + 3)
    generator = np.random.default_rng(0)
    total = 0
    for left in (8, 7, 6, 5, 4, 3):
        for _ in range(3):
            alive = bandit.alive
            assert (alive.sum(axis=1) == left).all()
            paths = play(bandit, lambda _: generator.random(), draws=left)
            total += len(paths)
            for edge, drawn in enumerate(paths.T):
                assert sorted(drawn) == np.flatnonzero(alive[edge]).tolist()
    assert bandit.done and total == bandit.planned and bandit.round == 6 * 3


def test_the_order_is_a_function_of_seed_and_round():
    def paths(seed, draws):
        return play(table(edges=4, operations=5, seed=seed), lambda path: 0.5, draws)

    first = paths(seed=1, draws=10)
    assert first.tolist() == paths(seed=1, draws=10).tolist()
    assert first.tolist() != paths(seed=2, draws=10).tolist()
    assert first[:5].tolist() != first[5:].tolist(), "each round has an order of its own"
    assert len({tuple(drawn) for drawn in first[:5].T}) > 1, "and each edge"


def test_edges_with_fewer_candidates_draw_them_again_within_the_round():
    """Five and two candidates: a round is 5 draws, in which those two come 3 and 2 times."""
    alive = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], bool)
    bandit = UcbTable(alive, rounds=1, floor=2)
    paths = play(bandit, lambda path: 0.1 * path[0], draws=5)
    assert sorted(paths[:, 0]) == [0, 1, 2, 3, 4]
    assert sorted(paths[:2, 1]) == sorted(paths[2:4, 1]) == [1, 3]
    assert sorted(bandit.counts()[1]) == [0, 0, 0, 2, 3]
    play(bandit, lambda path: 0.1 * path[0])
    # The short edge stood at the floor from the start.
    assert bandit.alive.tolist() == [[False, False, False, True, True], alive[1].tolist()]
    assert bandit.planned == 5 + 4 + 3


# -- reduction -------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [1, 2, 3])
def test_no_edge_falls_below_the_floor(floor):
    generator = np.random.default_rng(1)
    bandit = table(edges=6, operations=5, rounds=2, floor=floor)
    play(bandit, lambda path: generator.random())
    assert (bandit.alive.sum(axis=1) == floor).all()


@pytest.mark.parametrize("seed", range(20))
def test_reduction_never_removes_the_best_of_a_planted_problem(seed):
    """Certain, not likely: the best candidate's lead exceeds all that the others can make of it.

    Three edges; a draw earns the sum of what its candidates are worth. The first edge's best one is
    0.5 above its others, while the other edges and the noise together move the sum by at most
    0.1 + 0.1 + 0.2 < 0.5. Every mean of the best is therefore above every mean of the others.
    """
    generator = np.random.default_rng(seed)
    best = generator.integers(8)
    worth = generator.uniform(0.0, 0.1, size=(3, 8))
    worth[0] = 0.0
    worth[0, best] = 0.5

    def reward(path):
        return worth[[0, 1, 2], path].sum() + generator.uniform(0.0, 0.2)

    bandit = table(edges=3, operations=8, rounds=2, floor=1, seed=seed)
    while not bandit.done:
        play(bandit, reward, draws=1)
        assert bandit.alive[0, best]
    assert bandit.alive[0].sum() == 1


def test_without_noise_every_edge_of_an_additive_problem_keeps_its_best():
    """One edge at a time is judged while the others are drawn at random: T makes up for it.

    Edges are worth 1 (best) or 0; with 200 rounds the mean of the 7 other edges' share in a
    candidate's credit deviates by about √(7·(1/4)·(3/4) / 200) = 0.08 of a lead of 1.
    """
    best = np.arange(8) % 4

    def reward(path):
        return float((path == best).sum())

    for seed in range(5):
        bandit = table(edges=8, operations=4, rounds=200, floor=1, seed=seed)
        play(bandit, reward)
        assert bandit.alive.argmax(axis=1).tolist() == best.tolist()


# -- record and state ------------------------------------------------------------------------------


def test_report_names_every_operation_of_every_edge():
    bandit = UcbTable(np.array([[1, 1, 1], [1, 1, 0]], bool), rounds=1, floor=2)
    fresh = bandit.report([("none", "conv", "pool"), ("none", "conv")])
    assert fresh[0]["pool"] == {"alive": True, "draws": 0, "mean": 0, "ucb": None, "share": 1 / 3}
    play(bandit, lambda path: (0.3, 0.6, 0.5)[path[0]])
    first, second = json.loads(json.dumps(bandit.report([("none", "conv", "pool"), ("a", "b")])))
    assert not first["none"]["alive"] and first["conv"]["alive"]
    assert first["conv"]["mean"] == pytest.approx(0.6)
    assert first["conv"]["ucb"] == pytest.approx(0.6 + math.sqrt(2 * math.log(3)))
    assert list(second) == ["a", "b"] and all(row["alive"] for row in second.values())


@pytest.mark.parametrize("draws", [0, 1, 4, 7, 11])
def test_state_round_trips_through_json_at_any_draw(draws):
    """A restored table makes the draws and decisions that the interrupted one would have made."""

    def reward(path):
        return float(np.sin(path @ np.arange(1, 5)))

    settings = {"edges": 4, "operations": 4, "rounds": 2, "floor": 2, "seed": 9}
    whole, again = table(**settings), table(**settings)
    play(whole, reward, draws)
    again.restore(json.loads(json.dumps(whole.state())))
    rest = play(whole, reward)
    assert play(again, reward).tolist() == rest.tolist()
    assert again.state() == whole.state()


@pytest.mark.parametrize(
    ("alive", "settings", "message"),
    [
        (
            np.ones((2, 3)),
            {"floor": 3},
            "floor must be at least 1.* Received: floor 3 for 3 candidates",
        ),
        (np.ones((2, 3)), {"floor": 0}, "Received: floor 0"),
        (np.ones((2, 3)), {"rounds": 0}, "0 rounds"),
        (np.array([[1, 1], [0, 0]]), {}, "a candidate on every edge"),
    ],
)
def test_impossible_bandits_are_refused(alive, settings, message):
    with pytest.raises(BnasLarqError, match=message):
        UcbTable(alive, **settings)


@pytest.mark.parametrize(
    "change",
    [
        *({"round": "x"}, {"drawn": -1}, {"alive": [[True]]}, {"alive": None}, {"credits": []}),
        {"credits": [[[float("nan")]] * 4] * 4},
    ],
)
def test_the_state_of_another_table_is_refused(change):
    bandit = table(edges=4, operations=4, rounds=2, floor=2, seed=9)
    for state in ({**bandit.state(), **change}, None, [], {}):
        with pytest.raises(RunError, match="table of credits must be the one"):
            bandit.restore(state)
