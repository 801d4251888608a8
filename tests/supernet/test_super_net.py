"""SuperNet: everything that any Keras model can do, its structure, and what is pruned."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from small_supernet import (
    OPERATIONS,
    ROWS,
    SPACE,
    STEPS,
    halves,
    images,
    labels,
    plain_batches,
    supernet,
)

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, WeightsError
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.search_cell import PartialChannels
from bnas_larq.supernet.super_net import SuperNet


class Recorder(keras.callbacks.Callback):
    """A user's callback, which sees the model and its logs."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.batches = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.alphas.append(self.model.alphas_normal.numpy())


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A supernet after two epochs of a plain `fit` with a Keras user's usual callbacks."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("searched")
    net, recorder = supernet(), Recorder()
    net.compile()
    start = {weight.name: weight.numpy() for weight in net.trainable_weights}
    history = net.fit(
        halves(),
        epochs=2,
        verbose=0,
        validation_data=plain_batches(),
        callbacks=[
            recorder,
            keras.callbacks.TensorBoard(folder / "logs", profile_batch=0),
            keras.callbacks.ModelCheckpoint(
                folder / "best.weights.h5", monitor="val_accuracy", save_weights_only=True
            ),
            keras.callbacks.CSVLogger(folder / "log.csv"),
        ],
    )
    return net, recorder, history.history, folder, start


# -- logs ------------------------------------------------------------------------------------------


def test_fit_logs_both_halves_entropy_weight_and_shares(searched):
    _, recorder, history, _, _ = searched
    shares = {f"share_{op}" for op in OPERATIONS}
    expected = {"loss", "accuracy", "alpha_loss", "alpha_accuracy", "entropy", "diversity_weight"}
    assert set(history) == expected | shares | {"val_loss", "val_accuracy"}
    for epoch in range(2):
        assert sum(history[name][epoch] for name in shares) == pytest.approx(1.0, abs=1e-6)
        assert 0.0 <= history["accuracy"][epoch] <= 1.0
        assert 0.0 <= history["alpha_accuracy"][epoch] <= 1.0
        # α start near 0, where all candidates are equally likely.
        assert history["entropy"][epoch] == pytest.approx(math.log(len(OPERATIONS)), abs=1e-4)
    assert len(recorder.batches) == 2 * STEPS and set(recorder.batches[0]) == expected | shares


def test_diversity_weight_follows_the_epochs(searched):
    """λ·exp(−t/τ) with λ = 1, τ = 7.7."""
    net, _, history, _, _ = searched
    assert history["diversity_weight"] == pytest.approx([math.exp(-t / 7.7) for t in (0, 1)])
    resumed = net.fit(halves(1), initial_epoch=5, epochs=7, verbose=0).history
    assert resumed["diversity_weight"] == pytest.approx([math.exp(-t / 7.7) for t in (5, 6)])


def test_callbacks_work_as_in_any_keras_model(searched):
    net, recorder, history, folder, start = searched
    assert len(recorder.alphas) == 2 and np.any(recorder.alphas[0] != recorder.alphas[1])
    assert list((folder / "logs").rglob("*tfevents*"))
    header, *rows = (folder / "log.csv").read_text().splitlines()
    assert len(rows) == 2 and {"alpha_loss", "share_none"} <= set(header.split(","))
    net.load_weights(folder / "best.weights.h5")
    for weight in net.trainable_weights:
        assert np.any(weight.numpy() != start[weight.name]), weight.name


def test_evaluate_and_predict_take_plain_batches(searched):
    net = searched[0]
    result = net.evaluate(plain_batches(), verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy"}
    logits = net(images(30), training=False).numpy()
    np.testing.assert_allclose(net.predict(images(30), verbose=0), logits, atol=1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels(30), logits)
    assert result["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert result["accuracy"] == np.mean(logits.argmax(-1) == labels(30).numpy())


# -- weights ---------------------------------------------------------------------------------------


def test_alphas_are_weights_of_the_supernet(searched):
    net = searched[0]
    assert [alpha.shape for alpha in net.alphas] == [(ROWS, 3), (ROWS, 3)]
    names = [weight.name.split(":")[0].split("/")[-1] for weight in net.trainable_weights]
    assert names.count("alphas_normal") == names.count("alphas_reduce") == 1
    assert len(net.network_variables) == len(net.trainable_weights) - 2
    assert not {id(alpha) for alpha in net.alphas} & {id(w) for w in net.network_variables}
    # Besides, the moving statistics and the epoch; no variables of metrics.
    rest = {weight.name.split(":")[0].split("/")[-1] for weight in net.non_trainable_weights}
    assert rest == {"moving_mean", "moving_variance", "epoch"}


def test_callbacks_in_every_form_that_keras_takes():
    net = supernet(cells=1)
    net.compile(run_eagerly=True, metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, "top2")])
    history = keras.callbacks.History()
    together = keras.callbacks.CallbackList([history], model=net, epochs=4, steps=1, verbose=0)
    for epoch, callbacks in enumerate((None, history, [history], together)):
        logs = net.fit(
            halves(1), initial_epoch=epoch, epochs=epoch + 1, verbose=0, callbacks=callbacks
        ).history
        assert logs["diversity_weight"][-1] == pytest.approx(math.exp(-epoch / 7.7))
        assert 0.0 <= logs["top2"][-1] <= 1.0  # a user's metric, on the training half


@pytest.mark.parametrize("name", ["all.weights.h5", "all.h5", "checkpoint"])
def test_saved_weights_restore_alphas_too(searched, name, tmp_path):
    net, other = searched[0], supernet()
    other.compile()
    assert np.any(other.alphas_normal.numpy() != net.alphas_normal.numpy())
    net.save_weights(tmp_path / name)
    other.load_weights(tmp_path / name)
    for one, copy in zip(net.alphas, other.alphas, strict=True):
        np.testing.assert_array_equal(copy.numpy(), one.numpy())
    np.testing.assert_array_equal(other(images(1)), net(images(1)))


def test_config_round_trip(searched):
    net = searched[0]
    config = json.loads(json.dumps(net.get_config()))
    again = SuperNet.from_config(config)
    assert again.get_config() == net.get_config() and again.space == SPACE
    again.set_weights(net.get_weights())
    np.testing.assert_array_equal(again(images(1)), net(images(1)))


def test_saved_whole_model(searched, tmp_path):
    net = searched[0]
    net.save(tmp_path / "supernet.keras")
    loaded = keras.models.load_model(tmp_path / "supernet.keras")
    assert isinstance(loaded, SuperNet) and loaded.get_config() == net.get_config()
    np.testing.assert_allclose(loaded(images(1)), net(images(1)), atol=1e-6)
    # It can go on where it stopped: both optimizers with their state, and the entropy term.
    assert loaded.diversity.get_config() == net.diversity.get_config()
    for name in ("optimizer", "alpha_optimizer"):
        one, copy = getattr(net, name), getattr(loaded, name)
        assert copy.get_config() == one.get_config()
        for variable, value in zip(copy.variables, one.variables, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value.numpy())


def test_set_alphas_and_genotype():
    net = supernet(cells=1)
    normal, reduce = np.zeros((2, 2, 3), np.float32)
    normal[0, 1] = normal[1, 2] = reduce[:, 0] = 1.0
    net.set_alphas(normal, reduce)
    genotype = net.genotype(name="found", provenance={"seed": 3})
    assert [tuple(edge) for edge in genotype.normal[0]] == [
        ("max_pool_3x3", 0),
        ("bin_conv_3x3", 1),
    ]
    assert {edge.op for edge in genotype.reduce[0]} == {"none"}
    assert genotype.name == "found" and genotype.provenance["seed"] == 3
    # e^1/γ < e^0 for γ = 3: Zeroise gives way.
    assert "none" not in {edge.op for edge in net.genotype(gamma=3.0).reduce[0]}
    np.testing.assert_array_equal(net.shares()["none"].numpy().round(4), net_share(normal, reduce))


def net_share(normal: np.ndarray, reduce: np.ndarray) -> float:
    both = np.concatenate([normal, reduce])
    return np.mean(np.exp(both[:, 0]) / np.exp(both).sum(1)).round(4)


def test_alphas_of_another_shape_are_refused_and_nothing_is_assigned():
    net = supernet(cells=1)
    before = [alpha.numpy() for alpha in net.alphas]
    for normal, reduce in (((14, 7), (ROWS, 3)), ((ROWS, 3), (ROWS, 4))):
        with pytest.raises(WeightsError, match=r"shape \(2, 3\) .* Received: "):
            net.set_alphas(np.ones(normal), np.ones(reduce))
    for alpha, value in zip(net.alphas, before, strict=True):
        np.testing.assert_array_equal(alpha.numpy(), value)


# -- structure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stem", "size", "side"), [("cifar", 8, 2), ("imagenet", 32, 1)])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_stems_and_paddings(stem, size, side, padding):
    net = supernet(stem=stem, padding=padding, input_shape=(size, size, 3))
    assert net(images_of(size), training=True).shape == (2, 3)
    assert [cell.plan.reduction for cell in net.cells] == [False, True, True]
    states = net.cells[-1].preprocess[1][-1](tf.zeros([2, side, side, 8]))
    assert states.shape[1:3] == (side, side)


def images_of(size: int) -> tf.Tensor:
    return tf.random.stateless_normal([2, size, size, 3], [5, 5])


def test_different_candidates_in_normal_and_reduction_cells():
    space = SearchSpace("two", ("none", "bin_conv_3x3"), OPERATIONS, nodes=1)
    net = supernet(space=space)
    assert [alpha.shape[1] for alpha in net.alphas] == [2, 3]
    assert net.operations == ("none", "bin_conv_3x3", "max_pool_3x3")
    shares = {op: float(share) for op, share in net.shares().items()}
    # The mean over the edges that offer an operation.
    assert shares["max_pool_3x3"] == pytest.approx(1 / 3, abs=1e-3)
    assert shares["none"] == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": 0}, "at least one cell .* Received: cells=0"),
        ({"channels": 1}, "two channels .* Received: cells=3, channels=1"),
        ({"stem": "cifra"}, "Received: 'cifra'; did you mean 'cifar'"),
        (
            {"stem": "auto", "input_shape": (None, None, 3)},
            r"Received: input_shape=\(None, None, 3\). Give both, or the stem 'cifar'",
        ),
        ({"input_shape": (8, 8)}, r"\(height, width, channels\). Received: \(8, 8\)"),
        ({"padding": "symetric"}, "Received: 'symetric'; did you mean 'symmetric'"),
        ({"scheme": "sign-scal"}, "Received: 'sign-scal'; did you mean 'sign-scale'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        supernet(**settings)
    with pytest.raises(BnasLarqError, match="at least two classes. Received: num_classes=1"):
        SuperNet(SPACE, 1)


# -- pruning, channels, precision ------------------------------------------------------------------


#: Node 1 also reads node 0.
TWO_NODES = dataclasses.replace(SearchSpace.bnas(), nodes=2)


def kept_only(*operations: str) -> np.ndarray:
    """Booleans [edges, operations] that keep these on every edge."""
    kept = [name in operations for name in TWO_NODES.normal]
    return np.tile(kept, (len(TWO_NODES.edges), 1))


def test_pruned_candidates_do_not_compete_and_come_back_from_the_config():
    alive = kept_only("bin_conv_3x3", "max_pool_3x3"), kept_only("none", "avg_pool_3x3")
    net = SuperNet(TWO_NODES, 3, cells=3, channels=2, input_shape=(8, 8, 3))
    net.set_alphas(*2 * [np.tile(np.arange(7.0), (len(TWO_NODES.edges), 1))])
    net.prune(*alive)
    shares = {name: float(share) for name, share in net.shares().items()}
    assert shares["bin_dil_conv_5x5"] == 0.0 and shares["bin_conv_3x3"] > 0.0
    assert float(net.entropy()) < np.log(2)
    genotype = net.genotype()
    assert {edge.op for node in genotype.normal for edge in node} == {"bin_conv_3x3"}
    assert {edge.op for node in genotype.reduce for edge in node} == {"avg_pool_3x3"}
    again = SuperNet.from_config(net.get_config())
    for one, other in zip(again.alive, alive, strict=True):
        np.testing.assert_array_equal(one, other)
    again.set_weights(net.get_weights())
    images = tf.random.stateless_normal([2, 8, 8, 3], [0, 0])
    np.testing.assert_array_equal(again(images, training=False), net(images, training=False))


def test_a_refused_pruning_changes_nothing():
    net = SuperNet(TWO_NODES, 3, cells=1, channels=2, input_shape=(8, 8, 3))
    with pytest.raises(BnasLarqError, match="keeps at least one"):
        net.prune(kept_only("none"), kept_only())
    assert all(kept.all() for kept in net.alive)


def test_partial_channels_come_back_from_the_config():
    net = SuperNet(
        TWO_NODES,
        3,
        cells=1,
        channels=8,
        channel_sampling=PartialChannels(4),
        input_shape=(8, 8, 3),
    )
    again = SuperNet.from_config(net.get_config())
    assert [w.shape for w in again.weights] == [w.shape for w in net.weights]
    assert again.cells[0].selected_filters == 2


def test_the_precision_is_a_known_one():
    with pytest.raises(BnasLarqError, match="'float32' or 'bfloat16'"):
        SuperNet(TWO_NODES, 3, cells=1, channels=2, mixed_precision="auto")
