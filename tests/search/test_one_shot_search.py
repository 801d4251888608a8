"""One-shot search on tiny images: what its paths train, what is measured, kill and resume."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.data import EpochPipeline
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import BnasLarqError, TrainingStopped
from bnas_larq.files import append_line, read_json, read_lines
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.search import path_evolution
from bnas_larq.search.calibrated_path import BATCHES, CalibratedAccuracy
from bnas_larq.search.one_shot_search import OneShotSearch
from bnas_larq.search.searcher import SearchData
from bnas_larq.search.single_path import PathAccuracy
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import SPACES, SearchSpace
from bnas_larq.supernet.path_training import DrawPaths, PathTraining

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
STEPS, BATCH, EPOCHS = 3, 4, 2
POPULATION, GENERATIONS = 4, 2
CONFIG = NetworkConfig((8, 8, 3), num_classes=2, cells=1, channels=4)


@pytest.fixture(scope="module", autouse=True)
def two_nodes():
    """A space whose second node keeps two of three edges, known to recipes as `two`."""
    make_deterministic(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "two", lambda: SearchSpace("two", OPERATIONS, OPERATIONS, nodes=2))
        yield


def make(seed=1, one_shot=(), **settings):
    """A search in a supernet of one cell; its weights and its draws follow the seed."""
    keras.utils.set_random_seed(seed)
    values = {"space": "two", "cells": 1, "channels": 4, "epochs": EPOCHS, **settings}
    values["one_shot"] = {
        **{"population": POPULATION, "generations": GENERATIONS, "parents": 2},
        **dict(one_shot),
    }
    chosen = SearchSettings(searcher="one-shot", **values)
    return OneShotSearch(chosen, 2, (8, 8, 3), seed, network=CONFIG)


def batch(seed, size=BATCH):
    """Images of two classes, of which one is brighter."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=size)
    noise = generator.normal(size=(size, 8, 8, 3))
    return (noise + labels[:, None, None, None]).astype(np.float32), labels


def search_data(broken_at=10**9):
    """Batches that are a function of the step's number; from one of them on, reading fails."""

    def read(step):
        if step >= broken_at:
            raise RuntimeError("Killed")
        return batch([step, 0])

    def load(step):
        images, labels = tf.numpy_function(read, [step], (tf.float32, tf.int64))
        return tf.ensure_shape(images, (BATCH, 8, 8, 3)), tf.ensure_shape(labels, (BATCH,))

    weights = EpochPipeline(
        lambda epoch, first: tf.data.Dataset.range(first, STEPS).map(
            lambda n: load(epoch * STEPS + n)
        ),
        STEPS,
    )
    held_out = tf.data.Dataset.from_tensor_slices(batch(9, size=32)).batch(16)
    return SearchData(weights, None, held_out, None)


def run(searcher, folder, **broken):
    return searcher.run(search_data(**broken), folder=folder, provenance={"data": "made up"})


@pytest.fixture(scope="module")
def most(two_nodes):
    """Operations that half of the random cells have at most."""
    drawn = [Genotype.random(SearchSpace.named("two"), seed) for seed in range(41)]
    return sorted(planned_costs(genotype, CONFIG).ops_honest for genotype in drawn)[20]


@pytest.fixture(scope="module")
def whole(most, tmp_path_factory):
    """(searcher, its folder, what it found) of an uninterrupted search."""
    searcher, folder = make(one_shot={"maximum_ops": most}), tmp_path_factory.mktemp("whole")
    return searcher, folder, run(searcher, folder)


# -- draws -----------------------------------------------------------------------------------------


def test_paths_are_uniform_draws_of_the_space(whole):
    searcher, count = whole[0], 3000
    drawn = [searcher.draw(step) for step in range(count)]
    operations = Counter(edge.op for g in drawn for cell in g.cells for n in cell for edge in n)
    assert [operations[name] / (8 * count) for name in OPERATIONS] == pytest.approx(
        [1 / 3] * 3, abs=0.015
    )
    pairs = Counter(tuple(edge.state for edge in g.normal[1]) for g in drawn)
    assert pairs.keys() == {(0, 1), (0, 2), (1, 2)}
    assert [number / count for number in pairs.values()] == pytest.approx([1 / 3] * 3, abs=0.03)
    # Of two edges, each operation with each other one.
    nodes = Counter(tuple(edge.op for edge in g.reduce[0]) for g in drawn)
    assert len(nodes) == 9
    assert [number / count for number in nodes.values()] == pytest.approx([1 / 9] * 9, abs=0.02)


def test_where_zeroise_may_not_be_chosen_it_is_not_drawn():
    searcher = make(zeroise_competes=False)
    drawn = {searcher.draw(step).count("none") for step in range(20)}
    assert drawn == {0} and searcher.evolution.space.name == "two-none"


# -- training --------------------------------------------------------------------------------------


def test_a_step_trains_what_the_path_computes_and_is_traced_once():
    """node 0 = conv(state 0) + max(state 1), node 1 = max(state 0) + conv(state 2)."""
    searcher = make(weight_decay=0.0, momentum=0.0)
    supernet, data = searcher.supernet, search_data()
    supernet.compile(optimizer=keras.optimizers.SGD(0.1))
    supernet.optimizer.build(supernet.network_variables)
    conv, pool = "bin_conv_3x3", "max_pool_3x3"
    cell = ((Edge(conv, 0), Edge(pool, 1)), (Edge(pool, 0), Edge(conv, 2)))
    kernels = [w for w in supernet.network_variables if "state" in w.name and "kernel" in w.name]
    # 4 output channels for each of the edges from a state: to both nodes, and from node 0 to 1.
    assert [kernel.shape[-1] for kernel in kernels] == [2 * 4, 2 * 4, 4]
    before = [kernel.numpy() for kernel in kernels]
    paths = PathTraining(supernet)

    def fit(draw):
        return paths.fit(
            data.weights.dataset(0),
            steps_per_epoch=STEPS,
            callbacks=[DrawPaths(searcher.path, draw, STEPS)],
            verbose=0,
        )

    history = fit(lambda step: Genotype(cell, cell)).history
    assert set(history) == {"loss", "accuracy"}
    # Constraints centre all kernels; the quantizer reads them centred in any case.
    moved = [
        np.abs(kernel.numpy() - (value - value.mean(axis=2, keepdims=True))).max(axis=(0, 1, 2))
        for kernel, value in zip(kernels, before, strict=True)
    ]
    assert [(part > 1e-4).tolist() for part in moved] == [
        [True] * 4 + [False] * 4,
        [False] * 8,
        [True] * 4,
    ]
    trained = paths.train_function
    steps = []
    fit(lambda step: steps.append(step) or searcher.draw(step))
    assert steps == list(range(STEPS))
    assert paths.train_function is trained
    assert trained.experimental_get_tracing_count() == 1


def test_epochs_go_on_with_the_next_draws(whole):
    """Each row of metrics.jsonl is an epoch; the learning rate falls over all of them."""
    searcher, folder, _ = whole
    rows = read_lines(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1]
    assert {"loss", "accuracy", "lr", "seconds"} <= set(rows[0])
    assert int(searcher.supernet.optimizer.iterations) == EPOCHS * STEPS
    assert not (folder / "alphas.jsonl").exists()


# -- measuring -------------------------------------------------------------------------------------


def test_what_is_measured_is_recorded_and_within_the_bound(whole, most):
    searcher, folder, result = whole
    rows = read_lines(folder / "trials.jsonl")
    assert [row["trial"] for row in rows] == list(range(POPULATION * GENERATIONS))
    assert [row["generation"] for row in rows] == [0] * 4 + [1] * 4
    genotypes = [Genotype(row["normal"], row["reduce"]) for row in rows]
    assert [genotype.id for genotype in genotypes] == [row["genotype"] for row in rows]
    assert len({genotype.id for genotype in genotypes}) == len(rows)
    for row, genotype in zip(rows, genotypes, strict=True):
        assert row["cost"] == planned_costs(genotype, CONFIG).ops_honest <= most
    # The bound excludes some cells.
    assert any(searcher.evolution.ops(searcher.draw(step)) > most for step in range(20))
    best = max(rows, key=lambda row: (row["accuracy"], -row["cost"], -row["trial"]))
    assert (result.genotype.id, result.validation_accuracy) == (best["genotype"], best["accuracy"])
    assert result.epoch == EPOCHS
    facts = {"data": "made up", "space": "two", "measured": 8, "ops_honest": best["cost"]}
    assert result.genotype.provenance == {**facts, "trial": best["trial"]}
    front = read_json(folder / "pareto.json")
    assert front["cost"] == "ops_honest"
    assert best["genotype"] in {member["genotype"] for member in front["front"]}


@pytest.fixture
def last_path(whole):
    """(supernet set to the last path, its row), whose moving averages are far off for a while."""
    searcher, folder, _ = whole
    row = read_lines(folder / "trials.jsonl")[-1]
    supernet = searcher.supernet
    searcher.path.assign_genotype(Genotype(row["normal"], row["reduce"]), supernet.space)
    moving = [weight for weight in supernet.weights if "moving" in weight.name]
    before = [weight.numpy() for weight in moving]
    for weight in moving:
        weight.assign(weight + 3.0)
    yield supernet, row
    for weight, value in zip(moving, before, strict=True):
        weight.assign(value)


def test_accuracies_are_those_of_the_path_with_statistics_of_its_own(last_path):
    """Whatever the moving averages are: they are not read, and not changed; nor does a prediction
    depend on the other images of its batch."""
    supernet, row = last_path
    before = [weight.numpy() for weight in supernet.weights]
    data = search_data()
    for credit in (data.credit, data.credit.unbatch().batch(1)):
        measure = CalibratedAccuracy(supernet, dataclasses.replace(data, credit=credit))
        for _ in range(2):
            assert measure.accuracy() == row["accuracy"]
    for weight, value in zip(supernet.weights, before, strict=True):
        assert weight.numpy().tobytes() == value.tobytes(), weight.name


def test_statistics_are_means_over_training_batches(last_path, monkeypatch):
    """Of the stem, which reads the images, twice in a row."""
    supernet, _ = last_path
    data = search_data()
    batches = [images.numpy() for images, _ in data.weights.dataset(0).take(BATCHES)]
    means = [images.mean(axis=(0, 1, 2)) for images in batches]
    variances = [images.var(axis=(0, 1, 2), ddof=1) for images in batches]
    norm, seen = supernet.stem[0], []
    before = norm.moving_mean.numpy()

    def accuracy(_) -> float:
        seen.append((norm.moving_mean.numpy(), norm.moving_variance.numpy()))
        return 0.5

    monkeypatch.setattr(PathAccuracy, "_measured", accuracy)
    measure = CalibratedAccuracy(supernet, data)
    assert [measure.accuracy() for _ in range(2)] == [0.5, 0.5]
    for mean, variance in seen:
        np.testing.assert_allclose(mean, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, np.mean(variances, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(norm.moving_mean, before)


# -- killed, resumed -------------------------------------------------------------------------------


def state(searcher, folder):
    weights = [*searcher.supernet.weights, *searcher.supernet.optimizer.variables]
    rows = [read_lines(folder / f"{name}.jsonl") for name in ("metrics", "trials")]
    timeless = [[{**row, "seconds": 0} for row in part] for part in rows]
    return [weight.numpy().tobytes() for weight in weights], timeless


def test_a_killed_and_resumed_search_ends_with_the_same_bits(whole, most, tmp_path):
    """Killed in the second epoch, and while the sixth genotype's line was written."""
    bounds = {"maximum_ops": most}
    with pytest.raises(tf.errors.OpError, match="Killed"):
        run(make(one_shot=bounds), tmp_path, broken_at=STEPS + 1)
    again = make(one_shot=bounds)
    for variable in again.supernet.weights:
        variable.assign_add(tf.ones_like(variable))
    result = run(again, tmp_path)
    assert result == whole[2]
    assert state(again, tmp_path) == state(*whole[:2])
    log = tmp_path / "trials.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:5]) + lines[5][:20])
    (tmp_path / "pareto.json").unlink()
    for variable in again.supernet.weights:
        variable.assign_add(tf.ones_like(variable))
    assert run(again, tmp_path) == whole[2]
    assert state(again, tmp_path) == state(*whole[:2])
    assert (tmp_path / "pareto.json").exists()
    # Killed behind the last epoch: no path has been set in this process.
    log.unlink()
    assert run(make(one_shot=bounds), tmp_path) == whole[2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"trial": 0, "accuracy": 0.5}, "a cell's edges, accuracy and cost .*Received: nothing"),
        ({"normal": [[["identity", 0], ["identity", 1]]]}, "genotype of the supernet's space"),
        ({"normal": [["identity", 0]]}, "a cell's edges, accuracy and cost"),
        ({"accuracy": None, "failed": "memory"}, "a cell's edges, accuracy and cost"),
    ],
)
def test_a_damaged_record_of_paths_is_refused(whole, tmp_path, row, message):
    searcher, folder, _ = whole
    first = read_lines(folder / "trials.jsonl")[0]
    append_line(tmp_path / "trials.jsonl", row if "trial" in row else {**first, **row})
    with pytest.raises(BnasLarqError, match=message):
        searcher._evolve(search_data(), tmp_path)


def test_without_cells_within_the_bounds_it_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(path_evolution, "DRAWS", 100)
    searcher = make(one_shot={"maximum_ops": 1.0}, epochs=1)
    with pytest.raises(TrainingStopped, match="needs cells within its bounds. Received: none in"):
        run(searcher, tmp_path)


@pytest.mark.parametrize("name", ["bnas", "bnas-ucb", "bnas-residual"])
def test_in_the_published_spaces(name, monkeypatch, tmp_path):
    """With fewer nodes, whose graphs are built quickly."""
    space = dataclasses.replace(SearchSpace.named(name), nodes=2)
    monkeypatch.setitem(SPACES, name, lambda: space)
    searcher = make(space=name, epochs=1, one_shot={"population": 2, "generations": 1})
    result = run(searcher, tmp_path)
    assert result.genotype.operations <= set(space.normal)
    assert np.isfinite(read_lines(tmp_path / "metrics.jsonl")[0]["loss"])
