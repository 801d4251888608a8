"""BNAS-UCB on tiny images: what its draws train and record, reduction, kill and resume."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import EpochPipeline
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import BnasLarqError, RecipeError, TrainingStopped
from bnas_larq.files import read_json, read_lines
from bnas_larq.search.bandit_search import BanditSearch
from bnas_larq.search.searcher import SearchData
from bnas_larq.search.single_path import SinglePath, equal_batch_size
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import SPACES, SearchSpace
from bnas_larq.supernet.fixed_choices import FixedPath

OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "bin_conv_3x3")
STEPS, BATCH, EPOCHS = 5, 4, 4
#: One round of 4, then of 3 candidates on each of 2 + 2 edges, down to 2.
DRAWS = 4 + 3


@pytest.fixture(scope="module", autouse=True)
def tiny_space():
    """A space of one node and four candidates, known to recipes as `tiny`."""
    make_deterministic(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny", lambda: SearchSpace("tiny", OPERATIONS, OPERATIONS, nodes=1))
        yield


def make(seed=1, checkpoint_seconds=0.0, bandit=(), **settings):
    """A search of two cells; its weights and its draws follow the seed."""
    keras.utils.set_random_seed(seed)
    values = {"cells": 1, "channels": 4, "channel_proportion": 2, "epochs": EPOCHS}
    values |= {"alarms": {"action": "off"}, **settings}
    values["bandit"] = {"rounds": 1, "finish_epochs": 2, "credit_examples": 10, **dict(bandit)}
    return BanditSearch(
        SearchSettings(space="tiny", searcher="bandit", **values),
        2,
        (8, 8, 3),
        seed,
        checkpoint_seconds=checkpoint_seconds,
    )


class Killed(Exception):
    """Stands for `kill -9`."""


def batch(epoch, number, offset):
    """Images of two classes, of which one is brighter."""
    generator = np.random.default_rng([epoch, number, offset])
    labels = generator.integers(2, size=BATCH)
    noise = generator.normal(size=(BATCH, 8, 8, 3))
    return (noise + labels[:, None, None, None]).astype(np.float32), labels


def pipeline(offset, broken_at=math.inf, nan_at=math.inf):
    """Batches that are a function of epoch and number; from one of them on something is wrong."""

    def read(epoch, number):
        step = epoch * STEPS + number
        if step >= broken_at:
            raise Killed
        images, labels = batch(epoch, number, offset)
        return images * np.float32(math.nan if step >= nan_at else 1.0), labels

    def epoch(number, first):
        def load(step):
            images, labels = tf.numpy_function(read, [number, step], (tf.float32, tf.int64))
            return tf.ensure_shape(images, (BATCH, 8, 8, 3)), tf.ensure_shape(labels, (BATCH,))

        return tf.data.Dataset.range(first, STEPS).map(load)

    return EpochPipeline(epoch, STEPS)


def search_data(**broken):
    images, labels = (
        np.concatenate(parts) for parts in zip(batch(0, 0, 7), batch(0, 1, 7), strict=True)
    )
    whole = tf.data.Dataset.from_tensor_slices((np.tile(images, (2, 1, 1, 1)), np.tile(labels, 2)))
    held_out = tf.data.Dataset.from_tensors(batch(0, 0, 9))
    return SearchData(pipeline(0, **broken), pipeline(1), whole.batch(6), held_out)


def run(searcher, folder, **broken):
    return searcher.run(search_data(**broken), folder=folder, provenance={"data": "made up"})


# -- one whole search ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny_space, tmp_path_factory):
    """(searcher, its folder, what it found) of an uninterrupted search."""
    searcher, folder = make(), tmp_path_factory.mktemp("whole")
    return searcher, folder, run(searcher, folder)


def test_draws_are_recorded_with_their_credit(whole):
    rows = read_lines(whole[1] / "draws.jsonl")
    assert [row["draw"] for row in rows] == list(range(DRAWS))
    assert [row["round"] for row in rows] == [0] * 4 + [1] * 3
    assert set(rows[0]) == {"draw", "round", "loss", "accuracy", "credit", "normal", "reduce"} | {
        "seconds"
    }
    # Of the first `credit_examples` = 10 images.
    assert all((10 * row["credit"]) % 1 == pytest.approx(0, abs=1e-9) for row in rows)
    for kind in ("normal", "reduce"):
        for edge in range(2):
            # Every candidate once in the first round, and then all but the abandoned one.
            drawn = [row[kind][edge] for row in rows]
            assert sorted(drawn[:4]) == sorted(OPERATIONS)
            assert len(set(drawn[4:])) == 3


def test_the_table_is_what_the_draws_earned(whole):
    """Two candidates stay on every edge: those that the credits of draws.jsonl say."""
    rows, table = read_lines(whole[1] / "draws.jsonl"), read_json(whole[1] / "ucb.json")
    assert (table["round"], table["draws"], table["planned"]) == (2, DRAWS, DRAWS)
    for kind in ("normal", "reduce"):
        for edge, line in enumerate(table[kind]):
            assert (line["node"], line["state"]) == (0, edge)
            assert sum(op["alive"] for op in line["operations"].values()) == 2
            for name, op in line["operations"].items():
                earned = [row["credit"] for row in rows if row[kind][edge] == name]
                assert op["draws"] == len(earned)
                assert op["mean"] == pytest.approx(np.mean(earned))


def test_the_finish_decides_among_the_survivors(whole):
    searcher, folder, result = whole
    survivors = searcher.table.alive.reshape(2, 2, -1)
    assert [kept.tolist() for kept in searcher.supernet.alive] == survivors.tolist()
    lines = read_lines(folder / "alphas.jsonl")
    assert [line["epoch"] for line in lines] == [2, 3], "the last two of four epochs"
    for line in lines:
        for kind, alive in zip(("normal", "reduce"), survivors, strict=True):
            assert (np.array(line[kind]) > -1).tolist() == alive.tolist()
    for cell, alive in zip(
        (result.genotype.normal, result.genotype.reduce), survivors, strict=True
    ):
        for edge in cell[0]:
            assert alive[edge.state, OPERATIONS.index(edge.op)]
    assert result.genotype.provenance["data"] == "made up"
    assert result.validation_accuracy == max(line["val_accuracy"] for line in lines)


def test_the_learning_rate_falls_over_draws_and_finish(whole):
    """The draws' steps and the finish's are those of all epochs, and the cosine ends with them."""

    def rate(step):
        return 0.001 + (0.025 - 0.001) * (1 + math.cos(math.pi * step / (EPOCHS * STEPS))) / 2

    searcher, folder, _ = whole
    assert int(searcher.supernet.optimizer.iterations) == EPOCHS * STEPS
    # Each line has the rate of the epoch's last step.
    rates = [line["lr"] for line in read_lines(folder / "metrics.jsonl")]
    assert rates == pytest.approx([rate(epoch * STEPS - 1) for epoch in (3, 4)])


def test_entropy_and_temperature_anneal_over_the_finish(whole):
    """λ·exp(−t/τ), t from 0 in its first epoch; nothing of them is spent on the draws."""
    weights = [line["diversity_weight"] for line in read_lines(whole[1] / "metrics.jsonl")]
    assert weights == pytest.approx([math.exp(-t / 7.7) for t in range(2)])
    finish = make(relaxation="concrete", temperature=(5.0, 0.1), alpha_start_epoch=3).finish
    temperature = finish.supernet.relaxation.temperature
    assert [float(temperature(t)) for t in range(2)] == pytest.approx([5.0, 0.1])
    # α rest for three of the four epochs, two of which are the draws'.
    finish.compile(STEPS)
    assert (finish.supernet.first_epoch, finish.supernet.alpha_start_epoch) == (2, 1)


# -- killed, resumed, repeated ---------------------------------------------------------------------


def weights(searcher):
    supernet = searcher.supernet
    slots = [*supernet.optimizer.variables, *supernet.alpha_optimizer.variables]
    return [variable.numpy().tobytes() for variable in [*supernet.weights, *slots]]


def records(folder):
    names = ("draws", "alphas", "metrics")
    lines = {name: read_lines(folder / f"{name}.jsonl") for name in names}
    timeless = {name: [{**row, "seconds": 0} for row in rows] for name, rows in lines.items()}
    return timeless, read_json(folder / "ucb.json")


def disturbed(searcher):
    """With other weights than the seed's."""
    for variable in searcher.supernet.weights:
        variable.assign_add(tf.ones_like(variable))
    return searcher


def assert_equal_searches(one, other):
    (searcher, folder, result), (again, folder_again, result_again) = one, other
    assert result_again.genotype.id == result.genotype.id
    assert result_again == result
    assert weights(again) == weights(searcher)
    assert records(folder_again) == records(folder)


def test_a_killed_and_resumed_search_ends_with_the_same_bits(whole, tmp_path):
    """Killed in the sixth draw, which is in the second round, and in the last epoch.

    The resumed ones begin with other weights, so that all must come from the checkpoint.
    """
    for killed_at, draws, epochs in ((7, 5, 0), (18, DRAWS, 3)):
        searcher = make() if draws == 5 else disturbed(make())
        with pytest.raises(tf.errors.OpError, match="Killed"):
            run(searcher, tmp_path, broken_at=killed_at)
        for folder, done in (("checkpoints/draws", draws), ("checkpoints", epochs)):
            saved = Checkpoints(tmp_path / folder).candidates()
            assert (saved[0][0] if saved else 0) == done
    again = disturbed(make())
    assert_equal_searches(whole, (again, tmp_path, run(again, tmp_path)))


def test_the_same_seed_twice_gives_the_same_search(whole, tmp_path):
    """Also without a checkpoint of each draw."""
    again = make(checkpoint_seconds=1e9)
    assert_equal_searches(whole, (again, tmp_path, run(again, tmp_path)))
    saved = Checkpoints(tmp_path / "checkpoints" / "draws").candidates()
    assert [number for number, _ in saved] == [DRAWS], "the last draw's, for the finish"


def test_another_seed_makes_other_draws(whole):
    assert make(seed=2).table.order().tolist() != make(seed=1).table.order().tolist()


# -- parts -----------------------------------------------------------------------------------------


def test_without_a_finish_the_best_mean_of_the_survivors_is_taken(tmp_path):
    """Here with PCNN's kernels, and with reduction cells in the supernet."""
    bandit = {"finish_epochs": 0, "credit_examples": None}
    searcher = make(cells=3, scheme="pcnn", epochs=2, bandit=bandit)
    result = run(searcher, tmp_path)
    means = np.where(searcher.table.alive, searcher.table.means(), 0.0)
    best = [OPERATIONS[column] for column in means.argmax(axis=1)]
    assert [edge.op for edge in result.genotype.normal[0]] == best[:2]
    assert [edge.op for edge in result.genotype.reduce[0]] == best[2:]
    assert (result.epoch, result.validation_accuracy) == (2, None)
    assert not (tmp_path / "alphas.jsonl").exists()
    # All 16 images of the other half gave credit.
    credits = [row["credit"] for row in read_lines(tmp_path / "draws.jsonl")]
    assert len(credits) == DRAWS and all((16 * credit) % 1 == 0 for credit in credits)
    projections = [w.numpy() for w in searcher.supernet.weights if "projection" in w.name]
    assert len(projections) == 2 * 3 and not any(np.all(w == 1) for w in projections)


@pytest.fixture
def single():
    """(supernet, training of its paths) without decay and momentum; the path is yet to choose."""
    searcher = make(weight_decay=0.0, momentum=0.0)
    searcher.finish.compile(STEPS)
    supernet = searcher.supernet
    supernet.relaxation = FixedPath()
    supernet.build_optimizers()
    path = SinglePath(supernet, search_data(), credit_examples=None)
    path.start(0)
    return supernet, path


def test_only_the_drawn_operations_learn(single):
    supernet, path = single
    kernels = [w for w in supernet.network_variables if "state" in w.name and "kernel" in w.name]
    assert len(kernels) == 2, "bin_conv_3x3 of the edges from both inputs"
    before = [kernel.numpy() for kernel in kernels]
    none, conv = OPERATIONS.index("none"), OPERATIONS.index("bin_conv_3x3")
    supernet.relaxation.assign([none, conv], [none, none])
    results = path.train(3)
    assert set(results) == {"loss", "accuracy"}
    # Constraints centre all kernels; the quantizer reads them centred in any case.
    centred = [value - value.mean(axis=2, keepdims=True) for value in before]
    moved = [
        float(np.abs(kernel.numpy() - value).max())
        for kernel, value in zip(kernels, centred, strict=True)
    ]
    assert moved[0] < 1e-6 < 1e-3 < moved[1]


def test_credit_moves_neither_weights_nor_moving_statistics(single):
    supernet, path = single
    before = [variable.numpy() for variable in supernet.weights]
    accuracies = []
    for name in ("none", "bin_conv_3x3", "none"):
        column = np.full(2, OPERATIONS.index(name))
        supernet.relaxation.assign(column, column)
        accuracies.append(path.accuracy())
    for variable, value in zip(supernet.weights, before, strict=True):
        assert variable.numpy().tobytes() == value.tobytes(), variable.name
    assert accuracies[0] == accuracies[2]


def test_cut_credit_has_no_small_last_batch(single):
    """251 images are 126 and 125; all of them are batches as they were made."""
    assert [equal_batch_size(count) for count in (1, 250, 251, 500, 501)] == [1, 250, 126, 250, 167]
    images = tf.data.Dataset.from_tensor_slices((np.zeros([300, 8, 8, 3]), np.zeros(300, int)))
    data = dataclasses.replace(search_data(), credit=images.batch(250))
    for examples, sizes in ((251, [126, 125]), (1000, [150, 150]), (None, [250, 50])):
        path = SinglePath(single[0], data, examples)
        assert [len(labels) for _, labels in path._credit] == sizes


def test_a_loss_that_is_not_finite_stops_and_keeps_the_draws_before(tmp_path):
    with pytest.raises(TrainingStopped, match=r"stay finite. Received: loss = nan in draw 3\. Low"):
        run(make(), tmp_path, nan_at=3)
    assert [row["draw"] for row in read_lines(tmp_path / "draws.jsonl")] == [0, 1]
    saved = Checkpoints(tmp_path / "checkpoints" / "draws").candidates()
    assert [number for number, _ in saved] == [2, 1]


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"bandit": {"rounds": 2}}, "14 draws .* 2 epochs of 5 steps.*Set search.epochs to 5 or m"),
        ({"epochs": 1}, "7 draws .* 0 epochs of 5 steps .* Set search.epochs to 4 or more"),
    ],
)
def test_too_few_steps_for_the_draws_are_refused(tmp_path, settings, received):
    message = f"at least one training step. Received: {received}"
    with pytest.raises(RecipeError, match=message):
        run(make(**settings), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_only_survivor_that_may_not_be_chosen_is_refused(monkeypatch):
    message = r"Received: search.bandit.floor 1 in space 'tiny' .* Set search.bandit.floor to 2 or"
    with pytest.raises(RecipeError, match=message):
        make(bandit={"floor": 1}, zeroise_competes=False)
    assert make(bandit={"floor": 1}).table.floor == 1
    made = SearchSpace("tiny", OPERATIONS[1:], OPERATIONS[1:], nodes=1)
    monkeypatch.setitem(SPACES, "tiny", lambda: made)
    assert make(bandit={"floor": 1}, zeroise_competes=False).table.floor == 1


def test_a_floor_above_the_candidates_is_refused():
    with pytest.raises(BnasLarqError, match="Received: floor 4 for 4 candidates"):
        make(bandit={"floor": 4})
