"""SuperNet: the bilevel step by hand, and everything that any Keras model can do."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError, WeightsError
from bnas_larq.layers.constraints import centre_and_clip
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.architecture import AnnealedEntropy
from bnas_larq.supernet.search_cell import PartialChannels
from bnas_larq.supernet.super_net import SuperNet

#: As small as a search can be: every kind of candidate and of cell, few operations in the graph.
OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=1)
ROWS = 2  # edges of a cell of one node
STEPS = 2


def supernet(**settings) -> SuperNet:
    values = {"cells": 3, "channels": 2, "input_shape": (8, 8, 3), **settings}
    return SuperNet(values.pop("space", SPACE), 3, **values)


def images(seed: int) -> tf.Tensor:
    return tf.random.stateless_normal([4, 8, 8, 3], [seed, 0])


def labels(seed: int) -> tf.Tensor:
    return tf.random.stateless_uniform([4], [seed, 1], maxval=3, dtype=tf.int32)


def halves(steps: int = STEPS) -> tf.data.Dataset:
    """Bilevel batches ((x_train, y_train), (x_val, y_val))."""
    batches = [((images(i), labels(i)), (images(i + 9), labels(i + 9))) for i in range(steps)]
    x_train, y_train, x_val, y_val = (
        tf.stack([batch[half][part] for batch in batches]) for half in (0, 1) for part in (0, 1)
    )
    return tf.data.Dataset.from_tensor_slices(((x_train, y_train), (x_val, y_val)))


def plain_batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((images(30), labels(30))).batch(2)


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


# -- the bilevel step ------------------------------------------------------------------------------


def one_step(net: SuperNet) -> None:
    """One step of `fit`, with the same kernels as an eager calculation by hand."""
    net.fit(halves(1), verbose=0)


def copy_of(net: SuperNet) -> SuperNet:
    other = SuperNet.from_config(net.get_config())
    other.set_weights(net.get_weights())
    return other


def test_first_order_update_by_hand():
    """α descend L_val − λ·H at the present weights, then the weights L_train at the new α."""
    net = supernet()
    net.compile(
        optimizer=CoupledSGD(0.1, momentum=0.9, l2=3e-4, clip_norm=0.5),
        alpha_optimizer=CoupledSGD(2.0, l2=1e-3),
        diversity=AnnealedEntropy(0.7, 7.7),
        run_eagerly=True,
    )
    other = copy_of(net)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    (x_train, y_train), (x_val, y_val) = next(iter(halves(1)))

    with tf.GradientTape() as tape:
        entropies = []
        for alpha in other.alphas:
            shares = tf.nn.softmax(alpha)
            entropies.append(-tf.reduce_sum(shares * tf.math.log(shares), -1))
        entropy = tf.reduce_mean(tf.concat(entropies, 0))
        objective = cross_entropy(y_val, other(x_val, training=True)) - 0.7 * entropy
    for alpha, gradient in zip(other.alphas, tape.gradient(objective, other.alphas), strict=True):
        assert np.any(gradient)
        alpha.assign(alpha - 2.0 * (gradient + 1e-3 * alpha))

    with tf.GradientTape() as tape:
        loss = cross_entropy(y_train, other(x_train, training=True))
    gradients = tape.gradient(loss, other.network_variables)
    assert not any(gradient is None for gradient in gradients)
    norm = math.sqrt(sum(float(tf.reduce_sum(gradient**2)) for gradient in gradients))
    for variable, gradient in zip(other.network_variables, gradients, strict=True):
        clipped = gradient * min(1.0, 0.5 / norm)
        moved = variable - 0.1 * (clipped + 3e-4 * variable)
        variable.assign(centre_and_clip(moved) if is_binary(variable) else moved)

    one_step(net)
    for one, copy in zip(net.trainable_weights, other.trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), copy.numpy(), atol=2e-6, err_msg=one.name)
    # The moving statistics have seen both halves, the validation half first.
    for one, copy in zip(net.non_trainable_weights, other.non_trainable_weights, strict=True):
        if "moving" in one.name:
            np.testing.assert_allclose(one.numpy(), copy.numpy(), atol=1e-5, err_msg=one.name)


def is_binary(variable: tf.Variable) -> bool:
    return "bin_conv" in variable.name


def test_the_alpha_step_leaves_the_weights_and_the_weight_step_leaves_alpha():
    still = CoupledSGD(0.0)
    for moving in ("alpha", "weights"):
        net = supernet(cells=1)
        for variable in net.network_variables:
            if is_binary(variable):  # as the constraint leaves them
                variable.assign(centre_and_clip(variable))
        rates = {"optimizer": still, "alpha_optimizer": CoupledSGD(1.0)}
        if moving == "weights":
            rates = {"optimizer": CoupledSGD(0.1), "alpha_optimizer": CoupledSGD(0.0)}
        net.compile(**rates, run_eagerly=True)
        groups = {"alpha": net.alphas, "weights": net.network_variables}
        before = {key: [v.numpy() for v in group] for key, group in groups.items()}
        one_step(net)
        for key, group in groups.items():
            for variable, value in zip(group, before[key], strict=True):
                if key == moving:
                    assert np.any(variable.numpy() != value), variable.name
                else:
                    np.testing.assert_allclose(variable.numpy(), value, atol=1e-7)


def test_default_optimizers_are_the_papers():
    net = supernet(cells=1)
    net.compile()
    assert isinstance(net.optimizer, CoupledSGD) and isinstance(net.alpha_optimizer, CoupledAdam)
    first, second = net.optimizer.get_config(), net.alpha_optimizer.get_config()
    assert (first["learning_rate"], first["momentum"], first["l2"]) == pytest.approx(
        (0.025, 0.9, 3e-4)
    )
    assert (second["learning_rate"], second["beta_1"], second["beta_2"], second["l2"]) == (
        pytest.approx((3e-4, 0.5, 0.999, 1e-3))
    )
    assert net.diversity.get_config() == {"weight": 1.0, "tau": 7.7}


def test_weight_0_switches_the_entropy_off():
    net = supernet(cells=1)
    net.compile(diversity=AnnealedEntropy(weight=0))
    task, objective, _ = net.alpha_loss(images(0), labels(0))
    assert float(task) == float(objective)
    net.compile(diversity=AnnealedEntropy(weight=0.5))
    net.epoch.assign(3.0)
    task, objective, _ = net.alpha_loss(images(0), labels(0))
    expected = 0.5 * math.exp(-3 / 7.7) * math.log(len(OPERATIONS))
    assert float(task - objective) == pytest.approx(expected, rel=1e-3)


def test_a_loss_function_counts_as_its_mean_over_the_batch():
    """A function gives one loss for each example; its gradient must not grow with the batch."""
    net, losses = supernet(cells=1), keras.losses
    net.compile(loss=lambda y, z: losses.sparse_categorical_crossentropy(y, z, from_logits=True))
    by_function, *_ = net.alpha_loss(images(0), labels(0))
    net.compile(loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    by_object, *_ = net.alpha_loss(images(0), labels(0))
    assert by_function.shape == () and float(by_function) == pytest.approx(float(by_object))


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


def kept_only(*operations: str) -> np.ndarray:
    """Booleans [edges, operations] that keep these on every edge."""
    space = SearchSpace.bnas()
    return np.tile([name in operations for name in space.normal], (len(space.edges), 1))


def test_pruned_candidates_do_not_compete_and_come_back_from_the_config():
    alive = kept_only("bin_conv_3x3", "max_pool_3x3"), kept_only("none", "avg_pool_3x3")
    net = SuperNet(SearchSpace.bnas(), 3, cells=3, channels=2, input_shape=(8, 8, 3))
    net.set_alphas(np.tile(np.arange(7.0), (14, 1)), np.tile(np.arange(7.0), (14, 1)))
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
    net = SuperNet(SearchSpace.bnas(), 3, cells=1, channels=2, input_shape=(8, 8, 3))
    with pytest.raises(BnasLarqError, match="keeps at least one"):
        net.prune(kept_only("none"), kept_only())
    assert all(kept.all() for kept in net.alive)


def test_partial_channels_come_back_from_the_config():
    net = SuperNet(
        SearchSpace.bnas(),
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
        SuperNet(SearchSpace.bnas(), 3, cells=1, channels=2, mixed_precision="auto")


def test_batches_without_halves_are_refused():
    net = SuperNet(SearchSpace.bnas(), 3, cells=1, channels=2, input_shape=(8, 8, 3))
    net.compile()
    plain = tf.data.Dataset.from_tensors((tf.zeros([2, 8, 8, 3]), tf.zeros([2], tf.int32)))
    with pytest.raises(BnasLarqError, match="batches of both halves"):
        net.fit(plain)
