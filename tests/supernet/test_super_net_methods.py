"""What the ways to search ask of a supernet: late α, draws, weights of edges, costs, steps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.optimizers import CoupledSGD
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.alpha_gradients import FirstOrder, SecondOrder, SingleLevel
from bnas_larq.supernet.architecture import AnnealedEntropy
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.relaxations import (
    Concrete,
    GumbelHard,
    SampledPath,
    Softmax,
)
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=1)
WIDE = SearchSpace("wide", OPERATIONS, OPERATIONS, nodes=4)
SCHEDULE = TemperatureSchedule(5.0, 0.5, 3)


def supernet(space=SPACE, **settings) -> SuperNet:
    keras.utils.set_random_seed(3)
    settings = {"cells": 1, "channels": 2, **settings}
    return SuperNet(space, 3, input_shape=(8, 8, 3), **settings)


def batch(seed: int):
    images = tf.random.stateless_normal([4, 8, 8, 3], [seed, 0])
    return images, tf.random.stateless_uniform([4], [seed, 1], maxval=3, dtype=tf.int32)


def halves(steps: int = 1) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors((batch(1), batch(2))).repeat(steps)


def values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def assert_same(ones, others) -> None:
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


@register
class Zeroless:
    """A cost: the shares of Zeroise, and of edges' weights as far as it gets them."""

    def __call__(self, normal, reduce, edge_weights=None):
        factors = edge_weights or (tf.ones([2]), tf.ones([2]))
        return 3.0 * tf.reduce_sum(normal[:, 0] * factors[0] + reduce[:, 0] * factors[1])

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


# -- late α ----------------------------------------------------------------------------------------


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.alphas = []

    def on_epoch_end(self, epoch, logs=None):
        self.alphas.append(values(self.model.architecture_variables))


def test_alpha_rest_until_their_epoch_and_nothing_of_their_half_is_computed():
    net, alone, watch = supernet(edge_normalization=True), supernet(), Watch()
    alone.set_weights(values(w for w in net.weights if "betas" not in w.name))
    start = values(net.architecture_variables)
    net.compile(alpha_start_epoch=1)
    alone.compile(alpha_start_epoch=9)
    history = net.fit(halves(2), epochs=3, verbose=0, callbacks=[watch]).history
    # The same traced step before and after.
    assert net.train_function.experimental_get_tracing_count() == 1
    assert_same(watch.alphas[0], start)
    for before, after in zip(watch.alphas, watch.alphas[1:], strict=False):
        assert all(np.any(one != other) for one, other in zip(before[:2], after[:2], strict=True))
    assert int(net.alpha_optimizer.iterations) == 2 * 2
    # No number of a half that nobody has computed.
    assert [len(history[name]) for name in ("loss", "alpha_loss", "alpha_accuracy")] == [3, 2, 2]

    # The moving statistics would have seen a forward pass.
    alone.fit(halves(2), epochs=1, verbose=0)
    stepped = supernet()
    stepped.set_weights(values(alone.weights))
    before = values(alone.non_trainable_variables)
    alone.fit(halves(1), initial_epoch=1, epochs=2, verbose=0)
    stepped.compile(run_eagerly=True)
    stepped.build_optimizers()
    stepped.weight_step(*batch(1))
    for moved, by_one_pass, old in zip(
        alone.non_trainable_variables, stepped.non_trainable_variables, before, strict=True
    ):
        if "moving" in moved.name:
            np.testing.assert_allclose(moved, by_one_pass, atol=1e-5)
            assert np.any(moved.numpy() != old)


def test_epochs_count_from_the_first_of_the_search():
    """Of epochs 5 to 7, α rest in the first; t is 0, 1 and 2."""
    net, watch = supernet(), Watch()
    start = values(net.architecture_variables)
    net.compile(alpha_start_epoch=1, first_epoch=5)
    fit = {"epochs": 8, "verbose": 0, "callbacks": [watch]}
    history = net.fit(halves(1), initial_epoch=5, **fit).history
    assert history["diversity_weight"] == pytest.approx([np.exp(-t / 7.7) for t in range(3)])
    assert len(history["alpha_loss"]) == 2
    assert_same(watch.alphas[0], start)
    assert np.any(watch.alphas[1][0] != start[0])
    # Resumed in its last epoch.
    history = net.fit(halves(1), initial_epoch=7, **fit).history
    assert history["diversity_weight"] == pytest.approx([np.exp(-2 / 7.7)])


def test_a_negative_epoch_is_refused():
    with pytest.raises(BnasLarqError, match="α starts to move at epoch 0 or later. Received: -1"):
        supernet().compile(alpha_start_epoch=-1)
    with pytest.raises(BnasLarqError, match="numbered from 0 on. Received: first_epoch=-1"):
        supernet().compile(first_epoch=-1)


# -- single steps ----------------------------------------------------------------------------------


def test_a_train_step_is_an_alpha_step_and_a_weight_step():
    whole, parts = supernet(), supernet()
    parts.set_weights(whole.get_weights())
    for net in (whole, parts):
        net.compile(alpha_optimizer=CoupledSGD(1.0), run_eagerly=True)
        net.build_optimizers()
    whole.train_step((batch(1), batch(2)))
    parts.alpha_step(batch(1), batch(2))
    loss = parts.weight_step(*batch(1))
    for one, other in zip(whole.weights, parts.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=one.name)
    results = [{m.name: float(m.result()) for m in net.metrics} for net in (whole, parts)]
    for name in ("loss", "accuracy", "alpha_loss", "alpha_accuracy"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-5)
    assert float(loss) == pytest.approx(results[0]["loss"], rel=1e-5)


def test_a_single_level_step_moves_both_by_one_gradient_on_the_training_half():
    net = supernet()
    net.compile(
        optimizer=CoupledSGD(0.1),
        alpha_optimizer=CoupledSGD(2.0),
        diversity=AnnealedEntropy(0.3),
        alpha_gradient=SingleLevel(),
        run_eagerly=True,
    )
    net.build_optimizers()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = batch(1)
    variables = [net.classifier[-1].kernel, net.alphas_normal]
    before = values(variables)
    with tf.GradientTape() as tape:
        loss = cross_entropy(labels, net(images, training=True))
        objective = loss - 0.3 * net.entropy()
    gradients = tape.gradient(objective, variables)
    broken = tf.fill([4, 8, 8, 3], np.nan), labels  # the validation half is not looked at
    logs = net.train_step((batch(1), broken))
    for variable, old, gradient, rate in zip(variables, before, gradients, (0.1, 2.0), strict=True):
        np.testing.assert_allclose(variable, old - rate * gradient, rtol=1e-4, atol=1e-6)
    assert float(logs["alpha_loss"]) == pytest.approx(float(loss), rel=1e-5)


# -- draws -----------------------------------------------------------------------------------------


def drawn(net: SuperNet, forward_pass: str = "weights") -> list[list[int]]:
    return [path.chosen.numpy().tolist() for path in net.choices(True, forward_pass)]


def test_every_kind_pass_and_step_draws_on_its_own_and_again_the_same():
    net, again, other = (
        supernet(WIDE, relaxation=GumbelHard(SCHEDULE), seed=seed) for seed in (5, 5, 6)
    )
    for one in (net, again, other):
        one.compile()
    paths = [path for name in ("weights", "alpha", "virtual") for path in drawn(net, name)]
    net.optimizer.iterations.assign(1)
    paths += drawn(net) + drawn(other)
    # 3^14 paths: none comes twice.
    assert len({tuple(path) for path in paths}) == len(paths) == 3 * 2 + 2 + 2
    assert drawn(again) == paths[:2]
    again.optimizer.iterations.assign(1)
    assert drawn(again) == drawn(net)


@pytest.mark.parametrize(
    ("alpha_gradient", "passes"),
    [
        (FirstOrder(), ["alpha", "weights"]),
        (SecondOrder(0.1), ["virtual", "alpha", "virtual", "virtual", "weights"]),
        (SingleLevel(), ["weights"]),
    ],
    ids=["first order", "second order", "single level"],
)
def test_the_passes_of_a_step_say_whose_draws_they_use(alpha_gradient, passes, monkeypatch):
    net, seen = supernet(relaxation=GumbelHard(SCHEDULE)), []
    choices = net.choices

    def spied(training, forward_pass="weights"):
        seen.append((training, forward_pass))
        return choices(training, forward_pass)

    monkeypatch.setattr(net, "choices", spied)
    net.compile(alpha_gradient=alpha_gradient, run_eagerly=True)
    net.build_optimizers()
    net.train_step((batch(1), batch(2)))
    assert seen == [(True, forward_pass) for forward_pass in passes]
    net.test_step(batch(1))
    assert seen[-1] == (False, "weights")


def test_sampled_steps_train_the_path_and_move_alpha():
    net = supernet(relaxation=GumbelHard(SCHEDULE), seed=2, cells=3)
    net.compile(alpha_optimizer=CoupledSGD(1.0), diversity=AnnealedEntropy(0.0))
    start = values(net.alphas)
    logs = net.fit(halves(4), verbose=0).history
    assert np.isfinite(logs["loss"] + logs["alpha_loss"]).all()
    for alphas, old in zip(net.alphas, start, strict=True):
        moved = alphas.numpy() - old
        assert np.any(moved)
        # A softmax's gradient adds up to 0 over an edge's candidates.
        np.testing.assert_allclose(moved.sum(axis=1), 0.0, atol=1e-6)
    paths = net.choices(training=False)
    assert all(isinstance(path, SampledPath) and path.weights is None for path in paths)


def test_a_fixed_path_is_the_network_of_its_candidates():
    """Followed by a traced function after each change, and equal to α that leave no choice."""
    path = FixedPath()
    net, sure = supernet(relaxation=path), supernet()
    path.assign([0, 0], [0, 0])
    sure.set_weights(net.get_weights())
    run = tf.function(lambda: net(batch(1)[0], training=False))
    for columns in ([2, 0], [1, 2]):
        path.assign(columns, columns)
        sure.set_alphas(*[1e3 * np.eye(3)[columns]] * 2)
        expected = sure(batch(1)[0], training=False)
        np.testing.assert_allclose(run(), expected, rtol=1e-4, atol=1e-5)
    assert len(net.weights) == len(sure.weights)


def test_a_seed_is_not_negative():
    with pytest.raises(BnasLarqError, match="A seed is a whole number from 0 on. Received: -1"):
        supernet(seed=-1)


# -- weights of edges, costs -----------------------------------------------------------------------


def test_beta_are_architecture_variables_and_decide_the_strongest_edges():
    net = supernet(WIDE, edge_normalization=True)
    assert [tuple(beta.shape) for beta in net.betas] == [(14,), (14,)]
    assert [id(v) for v in net.architecture_variables] == [id(v) for v in net.alphas + net.betas]
    assert not {id(v) for v in net.architecture_variables} & {id(v) for v in net.network_variables}
    normal, reduce = (weights.numpy() for weights in net.edge_weights())
    assert normal[2:5].sum() == pytest.approx(1.0) and reduce[9:].sum() == pytest.approx(1.0)

    alphas = np.zeros((14, 3))
    alphas[:, 2] = 0.1
    alphas[5, 2] = 2.0  # the strongest of node 2, were it not for its β
    net.set_alphas(alphas, alphas)
    net.betas_normal.assign(np.eye(14)[5] * -5.0)
    genotype = net.genotype()
    assert [edge.state for edge in genotype.normal[2]] == [1, 2]
    assert [edge.state for edge in genotype.reduce[2]][0] == 0
    assert supernet(WIDE).betas == [] and supernet(WIDE).edge_weights() is None


def test_zeroise_can_be_kept_from_the_genotype():
    net = supernet()
    net.set_alphas(*[np.array([[3.0, 0.0, 1.0]] * 2)] * 2)
    assert {edge.op for edge in net.genotype().normal[0]} == {"none"}
    assert {edge.op for edge in net.genotype(zeroise_competes=False).normal[0]} == {"bin_conv_3x3"}


@pytest.mark.parametrize("edge_normalization", [False, True])
def test_a_cost_is_part_of_the_loss_of_alpha(edge_normalization):
    net = supernet(edge_normalization=edge_normalization)
    net.compile(cost=Zeroless(), diversity=AnnealedEntropy(0.0), run_eagerly=True)
    factor = 1 / 2 if edge_normalization else 1.0  # two edges enter the one node
    task, objective, _ = net.alpha_loss(*batch(1))
    expected = 3.0 * 4 * factor / 3  # four edges, a third of each
    assert float(objective - task) == pytest.approx(expected, rel=1e-2)
    logs = net.fit(halves(), verbose=0).history
    assert logs["cost"] == pytest.approx([expected], rel=1e-2)


# -- data without halves, saving -------------------------------------------------------------------


def generator():
    yield batch(1)


@pytest.mark.parametrize("data", [batch(1), (tf.zeros([4, 8, 8, 3]),), (generator(),)])
def test_data_without_halves_end_in_a_sentence(data):
    net = supernet()
    net.compile(run_eagerly=True)
    with pytest.raises(BnasLarqError, match="needs batches of both halves: .* Received: .*Zip two"):
        net.fit(*data)


@pytest.mark.parametrize("relaxation", [Softmax(), GumbelHard(SCHEDULE), Concrete(SCHEDULE)])
def test_everything_comes_back_from_the_config(relaxation):
    net = supernet(relaxation=relaxation, edge_normalization=True, seed=4)
    epochs = {"alpha_start_epoch": 3, "first_epoch": 2}
    net.compile(cost=Zeroless(), alpha_gradient=SecondOrder(0.1, 0.02), **epochs)
    again = SuperNet.from_config(json.loads(json.dumps(net.get_config())))
    again.set_weights(net.get_weights())
    again.compile_from_config(json.loads(json.dumps(net.get_compile_config())))
    assert again.get_config() == net.get_config() and again.seed == 4
    assert again.get_compile_config() == net.get_compile_config()
    assert isinstance(again.cost, Zeroless)
    assert (again.alpha_start_epoch, again.first_epoch) == (3, 2)
    assert again.alpha_gradient.get_config() == {"xi": 0.1, "epsilon": 0.02}
    assert again.relaxation.get_config() == relaxation.get_config()
    assert_same(again(batch(1)[0], training=True), net(batch(1)[0], training=True))
