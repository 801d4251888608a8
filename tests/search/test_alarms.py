"""Alarms of planted states of a supernet: what is measured, warned of, stopped at and resumed."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.errors import TrainingStopped
from bnas_larq.files import append_line, read_lines
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.search.alarms import Alarms
from bnas_larq.settings import AlarmSettings
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet

NAMES = ("none", "max_pool_3x3", "bin_conv_3x3", "identity")
SPACE = SearchSpace("small", NAMES, NAMES, nodes=2)
EDGES = len(SPACE.edges)
IMAGES = tf.random.stateless_normal((4, 8, 8, 3), seed=(0, 0))
#: The first edges of each node are kept when all are equally strong.
KEPT = (0, 1, 2, 3)


def logits(*names, strength=2.0):
    """α under which the kept edges of a cell carry these operations."""
    alpha = np.zeros((EDGES, len(NAMES)))
    alpha[KEPT, [NAMES.index(name) for name in names]] = strength
    return alpha


@pytest.fixture(scope="module")
def network():
    """One supernet for all tests: its step is traced once. α rest, only weights train."""
    keras.utils.set_random_seed(0)
    net = SuperNet(SPACE, 2, cells=1, channels=2, input_shape=(8, 8, 3))
    net.compile(alpha_start_epoch=1000)
    return net


@pytest.fixture
def net(network):
    """With undecided α and no step behind it."""
    zeros = np.zeros((EDGES, len(NAMES)))
    network.set_alphas(zeros, zeros)
    network.optimizer.build(network.network_variables)
    network.optimizer.iterations.assign(0)
    network.set_alphas(logits(*["bin_conv_3x3"] * 4), logits(*["bin_conv_3x3"] * 4))
    return network


def data(epoch=0):
    """Endless equal batches."""
    batch = IMAGES, tf.constant([0, 1, 0, 1])
    return tf.data.Dataset.from_tensors((batch, batch)).repeat()


def fit(net, alarms, epochs=1, **settings):
    net.fit(data(), steps_per_epoch=1, epochs=epochs, verbose=0, callbacks=[alarms], **settings)


# -- what is measured ------------------------------------------------------------------------------


def test_shares_of_the_kept_edges(net):
    net.set_alphas(
        logits("none", "none", "bin_conv_3x3", "none"),
        logits("max_pool_3x3", "identity", "bin_conv_3x3", "max_pool_3x3"),
    )
    alarms = Alarms(AlarmSettings(zeroise=0.3, pooling=0.4))
    fit(net, alarms)
    (row,) = alarms.rows
    assert (row["epoch"], row["zeroise"], row["pooling"]) == (0, 3 / 8, 3 / 8)
    assert list(alarms.raised()) == ["zeroise"]


def test_limits_are_the_largest_shares_allowed(net):
    """A published cell has Zeroise on three of four edges (BNAS-A), and is no alarm."""
    cell = logits("none", "none", "bin_conv_3x3", "none")
    net.set_alphas(cell, cell)
    alarms = Alarms()
    fit(net, alarms)
    assert alarms.rows[0]["zeroise"] == 0.75 == alarms.settings.zeroise
    assert not alarms.raised()


def test_the_genotype_is_the_one_that_would_be_derived(net):
    cell = logits(*["none"] * 4, strength=1.0)
    cell[:, 2] = 0.5
    net.set_alphas(cell, cell)
    alarms = Alarms(genotype=lambda: net.genotype(gamma=3.0))
    fit(net, alarms)
    assert alarms.rows[0]["zeroise"] == 0.0


def test_entropy_counts_what_is_alive_and_only_early(net):
    alarms = Alarms(AlarmSettings(entropy=0.5), epochs=range(10, 14))
    net.set_alphas(*[np.zeros((EDGES, len(NAMES)))] * 2)
    net.prune(*[np.array([[True, False, True, False]] * EDGES)] * 2)
    fit(net, alarms, epochs=11, initial_epoch=10)
    assert alarms.rows[-1]["entropy"] == pytest.approx(1.0)
    net.prune(*[np.ones((EDGES, len(NAMES)), bool)] * 2)
    # One candidate with 0.9: entropy −0.9·ln 0.9 − 0.1·ln(0.1/3) of at most ln 4.
    cell = np.log(np.tile([0.1 / 3, 0.1 / 3, 0.9, 0.1 / 3], (EDGES, 1)))
    net.set_alphas(cell, cell)
    found = []
    for epoch in range(10, 14):
        fit(net, alarms, epochs=epoch + 1, initial_epoch=epoch)
        found.append(list(alarms.raised()))
    share = (-0.9 * np.log(0.9) - 0.1 * np.log(0.1 / 3)) / np.log(4)
    assert alarms.rows[-1]["entropy"] == pytest.approx(share, rel=1e-5)
    assert share < 0.5 and found == [["entropy"], ["entropy"], [], []]


@pytest.mark.parametrize("as_dataset", [False, True])
def test_dead_signs_once_the_statistics_have_settled(net, as_dataset):
    probe = tf.data.Dataset.from_tensors((IMAGES, [0, 1, 0, 1])) if as_dataset else IMAGES.numpy()
    alarms = Alarms(probe=probe)
    fit(net, alarms)
    assert alarms.rows[0]["dead_signs"] is None
    net.optimizer.iterations.assign(44)
    for edges in net.cells[0].outgoing:
        norm = edges.candidates[1].chains[0][0]
        norm.moving_mean.assign(1e3 * np.ones(2))
    fit(net, alarms)
    assert alarms.rows[-1]["dead_signs"] == 1.0
    assert list(alarms.raised()) == ["dead_signs"]
    net.optimizer.iterations.assign(44)
    without = Alarms()
    fit(net, without)
    assert without.rows[-1]["dead_signs"] is None


# -- what is done about it -------------------------------------------------------------------------


@pytest.fixture
def zeroise(net):
    """The supernet with Zeroise on all kept edges."""
    net.set_alphas(*[logits(*["none"] * 4)] * 2)
    return net


def test_a_warning_is_given_once_while_it_lasts(zeroise, caplog):
    caplog.set_level("INFO")
    alarms = Alarms()
    fit(zeroise, alarms, epochs=3)
    (line,) = [line for line in caplog.messages if "alarm" in line]
    assert line.startswith("alarm in epoch 1: Zeroise on 100% of the kept edges (limit 75%). What")
    assert [row["zeroise"] for row in alarms.rows] == [1.0] * 3


def test_off_measures_nothing(zeroise, tmp_path, caplog):
    caplog.set_level("INFO")
    alarms = Alarms(AlarmSettings(action="off"), log=tmp_path / "alarms.jsonl")
    fit(zeroise, alarms)
    assert not alarms.rows and not list(tmp_path.iterdir()) and not caplog.messages


@pytest.mark.parametrize("epochs", [1, 5])
def test_stop_ends_the_search_with_the_reason(zeroise, epochs):
    alarms = Alarms(AlarmSettings(action="stop"))
    message = (
        "ends at an alarm. Received: Zeroise on 100% of the kept edges .limit 75%., in epoch 1. "
        "What may help: raise search.gamma.*checkpoint is kept: resume"
    )
    with pytest.raises(TrainingStopped, match=message):
        fit(zeroise, alarms, epochs)
    assert len(alarms.rows) == 1


def run(net, folder, epochs=3, **settings):
    """A resumable search with alarms."""
    return resumable_fit(
        net,
        data,
        steps_per_epoch=1,
        epochs=epochs,
        checkpoints=Checkpoints(folder / "checkpoints"),
        log=folder / "metrics.jsonl",
        optimizers={
            "optimizer": (net.optimizer, net.network_variables),
            "alpha_optimizer": (net.alpha_optimizer, net.architecture_variables),
        },
        callbacks=[Alarms(AlarmSettings(**settings), log=folder / "alarms.jsonl")],
    )


def test_a_stopped_search_keeps_its_epoch_and_goes_on_when_told_to(zeroise, tmp_path, caplog):
    caplog.set_level("INFO")
    for _ in range(2):  # the second one is stopped before it does anything
        with pytest.raises(TrainingStopped, match="in epoch 1"):
            run(zeroise, tmp_path, action="stop")
        assert [epoch for epoch, _ in Checkpoints(tmp_path / "checkpoints").candidates()] == [1]
        assert [row["epoch"] for row in read_lines(tmp_path / "metrics.jsonl")] == [0]
    # So does whoever has no epoch left to do.
    with pytest.raises(TrainingStopped, match="in epoch 1"):
        Alarms(AlarmSettings(action="stop"), log=tmp_path / "alarms.jsonl").check()
    caplog.clear()
    assert run(zeroise, tmp_path, action="warn") == 1
    rows = read_lines(tmp_path / "alarms.jsonl")
    assert [(row["epoch"], row["alarms"]) for row in rows] == [(e, ["zeroise"]) for e in range(3)]
    # It was said before the search was stopped.
    assert not [line for line in caplog.messages if "alarm" in line]


class Killed(Exception):
    """Stands for `kill -9`."""


class KillBeforeTheCheckpoint(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise Killed


def test_rows_of_epochs_that_are_done_again_are_dropped(zeroise, tmp_path):
    log = tmp_path / "alarms.jsonl"
    alarms, kill = Alarms(log=log), KillBeforeTheCheckpoint()
    with pytest.raises(Killed):
        zeroise.fit(data(), steps_per_epoch=1, epochs=3, verbose=0, callbacks=[alarms, kill])
    assert [row["epoch"] for row in read_lines(log)] == [0, 1]
    fit(zeroise, Alarms(log=log), epochs=3, initial_epoch=1)
    assert [row["epoch"] for row in read_lines(log)] == [0, 1, 2]
    fit(zeroise, Alarms(log=log))
    assert [row["epoch"] for row in read_lines(log)] == [0]


def test_a_stage_is_not_judged_by_the_one_before(tmp_path, zeroise, caplog):
    """Whose entropy was allowed to be low, since it was over; the other alarm is told anew."""
    caplog.set_level("INFO")
    log = tmp_path / "alarms.jsonl"
    for epoch in range(2):
        append_line(log, {"epoch": epoch, "zeroise": 1.0, "entropy": 0.01 if epoch else 1.0})
    stop, warn = AlarmSettings(action="stop", entropy=0.5), AlarmSettings()
    later = Alarms(stop, epochs=range(2, 4), log=log)
    later.check()
    later.on_epoch_begin(2)
    assert not later.rows and not later.raised()
    with pytest.raises(TrainingStopped, match="Zeroise on 100% of the kept edges .*in epoch 2"):
        Alarms(stop, epochs=range(2), log=log).check()
    fit(zeroise, Alarms(warn, epochs=range(2, 4), log=log), epochs=3, initial_epoch=2)
    assert [row["epoch"] for row in read_lines(log)] == [0, 1, 2]
    assert [line for line in caplog.messages if line.startswith("alarm in epoch 3: Zeroise")]
