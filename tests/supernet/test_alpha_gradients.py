"""Gradients of the architecture variables: against finite differences of the bilevel objective on a
small smooth problem, and inside a binary supernet."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD, next_learning_rate
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.alpha_gradients import FirstOrder, Losses, SecondOrder, SingleLevel
from bnas_larq.supernet.architecture import AnnealedEntropy
from bnas_larq.supernet.super_net import SuperNet

# -- a smooth problem ------------------------------------------------------------------------------

GENERATOR = np.random.default_rng(2)
INPUTS, LABELS = GENERATOR.normal(size=(2, 12, 3)), GENERATOR.normal(size=(2, 12))
WEIGHTS = [GENERATOR.normal(size=(3, 2)), GENERATOR.normal(size=2)]
ALPHA = GENERATOR.normal(size=2)
TRAIN, VALIDATION = ((INPUTS[half], LABELS[half]) for half in (0, 1))


def loss_of(alpha, weights, x, y, library):
    """Mean square error of a layer whose units are mixed from tanh and sin; no term is linear."""
    e = library.exp(alpha)
    p = e / (e[0] + e[1])
    units = library.einsum("ni,ij->nj", x, weights[0])
    mixed = p[0] * library.tanh(units) + p[1] * library.sin(units)
    return ((library.einsum("nj,j->n", mixed, weights[1]) - y) ** 2).mean()


class _Library:
    """The functions of `loss_of` in TensorFlow."""

    exp, tanh, sin, einsum = tf.exp, tf.tanh, tf.sin, tf.einsum


class Smooth:
    """A problem that is no supernet and has what `BilevelProblem` names."""

    def __init__(self, optimizer) -> None:
        self.network_variables = [tf.Variable(w, dtype=tf.float32) for w in WEIGHTS]
        self.alpha = tf.Variable(ALPHA, dtype=tf.float32)
        self.architecture_variables = [self.alpha]
        self.optimizer = optimizer
        optimizer.build(self.network_variables)

    def loss(self, x, y, forward_pass="weights") -> Losses:
        e = tf.exp(self.alpha)
        p = e / tf.reduce_sum(e)
        units = tf.matmul(tf.cast(x, tf.float32), self.network_variables[0])
        mixed = p[0] * tf.tanh(units) + p[1] * tf.sin(units)
        outputs = tf.linalg.matvec(mixed, self.network_variables[1])
        task = tf.reduce_mean((outputs - tf.cast(y, tf.float32)) ** 2)
        return Losses(task, task, outputs)

    training_loss = alpha_loss = loss

    def helper_passes(self):
        return contextlib.nullcontext()


class Interrupted(Smooth):
    """Fails in the second of its passes on the training half, when w has moved."""

    passes = 0

    def training_loss(self, x, y, forward_pass):
        self.passes += 1
        if self.passes == 2:
            raise KeyboardInterrupt
        return self.loss(x, y)


def test_a_second_order_gradient_that_is_interrupted_leaves_the_weights():
    problem = Interrupted(CoupledSGD(0.1))
    before = [weight.numpy() for weight in problem.network_variables]
    with pytest.raises(KeyboardInterrupt):
        SecondOrder()(problem, TRAIN, VALIDATION)
    for weight, value in zip(problem.network_variables, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def weight_gradients(alpha, weights) -> list[np.ndarray]:
    """∇_w L_train by hand in float64."""
    (x, y), (first, second) = TRAIN, weights
    p = np.exp(alpha) / np.exp(alpha).sum()
    units = x @ first
    mixed = p[0] * np.tanh(units) + p[1] * np.sin(units)
    error = 2 * (mixed @ second - y) / len(y)
    slope = p[0] / np.cosh(units) ** 2 + p[1] * np.cos(units)
    return [x.T @ (error[:, None] * second * slope), mixed.T @ error]


def bilevel_objective(alpha, xi, velocities=(0.0, 0.0), l2=0.0, clip_norm=None) -> float:
    """L_val(w'(α), α) with w' = w − ξ·(velocity + clipped ∇_w L_train + l2·w), in float64."""
    gradients = weight_gradients(alpha, WEIGHTS)
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    factor = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
    moved = [
        w - xi * (v + factor * g + l2 * w)
        for w, v, g in zip(WEIGHTS, velocities, gradients, strict=True)
    ]
    return loss_of(alpha, moved, *VALIDATION, np)


def finite_differences(function) -> np.ndarray:
    steps = 1e-5 * np.eye(len(ALPHA))
    return np.array([function(ALPHA + s) - function(ALPHA - s) for s in steps]) / 2e-5


def test_the_problem_is_the_same_in_both_libraries():
    """And the gradient by hand is the objective's."""
    problem = Smooth(CoupledSGD(0.1))
    with tf.GradientTape() as tape:
        loss = problem.loss(*TRAIN).task
    assert float(loss) == pytest.approx(loss_of(ALPHA, WEIGHTS, *TRAIN, np), rel=1e-5)
    found = tape.gradient(loss, problem.network_variables)
    for one, other in zip(found, weight_gradients(ALPHA, WEIGHTS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"l2": 0.3},
        {"clip_norm": 100.0},  # not reached
        {"clip_norm": 0.5},
        {"momentum": 0.9, "l2": 0.1, "clip_norm": 0.7},
    ],
)
def test_second_order_is_the_gradient_of_the_bilevel_objective(settings):
    """With all that the optimizer does to the virtual step. ξ is its learning rate."""
    rate, settings = 0.4, dict(settings)
    problem = Smooth(CoupledSGD(rate, **settings))
    velocities = (0.0, 0.0)
    momentum = settings.pop("momentum", 0.0)
    if momentum:
        # Keras keeps v = −lr·Σ μ^k·g; PyTorch's buffer, which DARTS' program reads, is −v/lr.
        velocities = [GENERATOR.normal(size=w.shape) for w in WEIGHTS]
        for variable, value in zip(problem.optimizer.momentums, velocities, strict=True):
            variable.assign(-rate * value)
        velocities = [momentum * value for value in velocities]
    expected = finite_differences(
        lambda alpha: bilevel_objective(alpha, rate, velocities, **settings)
    )
    found = SecondOrder()(problem, TRAIN, VALIDATION)
    # Second derivatives of steps of length 0.01, in float32.
    np.testing.assert_allclose(found.values[0], expected, rtol=2e-3, atol=2e-4)

    first = FirstOrder()(problem, TRAIN, VALIDATION).values[0]
    assert np.abs(first - expected).max() > 0.1 * np.abs(expected).max()
    for variable, value in zip(problem.network_variables, WEIGHTS, strict=True):
        np.testing.assert_array_equal(variable, value.astype(np.float32))


def test_other_gradients_and_limits():
    problem = Smooth(CoupledSGD(0.4))
    plain = finite_differences(lambda alpha: loss_of(alpha, WEIGHTS, *VALIDATION, np))
    on_train = finite_differences(lambda alpha: loss_of(alpha, WEIGHTS, *TRAIN, np))
    for gradient, expected in (
        (FirstOrder(), plain),
        (SecondOrder(xi=0.0), plain),
        (SingleLevel(), on_train),
        (SecondOrder(xi=0.2), finite_differences(lambda a: bilevel_objective(a, 0.2))),
    ):
        found = gradient(problem, TRAIN, VALIDATION)
        np.testing.assert_allclose(found.values[0], expected, rtol=2e-3, atol=2e-4)


def test_other_optimizers_count_as_plain_descent():
    problem = Smooth(CoupledAdam(0.4))
    expected = finite_differences(lambda alpha: bilevel_objective(alpha, 0.4))
    found = SecondOrder()(problem, TRAIN, VALIDATION).values[0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


def test_the_rate_is_that_of_the_next_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    optimizer = CoupledSGD(schedule)
    optimizer.iterations.assign(2)
    assert float(next_learning_rate(optimizer)) == 0.25


@pytest.mark.parametrize("arguments", [{"xi": -1.0}, {"epsilon": 0.0}])
def test_impossible_steps_are_refused(arguments):
    with pytest.raises(BnasLarqError, match="needs ξ >= 0 and a positive ε. Received: xi="):
        SecondOrder(**arguments)


@pytest.mark.parametrize("gradient", [FirstOrder(), SingleLevel(), SecondOrder(0.1, 0.02)])
def test_config_round_trip(gradient):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(gradient)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(gradient) and again.get_config() == gradient.get_config()


# -- in supernets ----------------------------------------------------------------------------------

OPERATIONS = ("none", "avg_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=1)


def batch(seed: int):
    images = tf.random.stateless_normal([8, 8, 8, 3], [seed, 0])
    return images, tf.random.stateless_uniform([8], [seed, 1], maxval=3, dtype=tf.int32)


def supernet(**settings) -> SuperNet:
    keras.utils.set_random_seed(3)
    net = SuperNet(SPACE, 3, cells=1, channels=2, input_shape=(8, 8, 3), **settings)
    net.set_alphas(*np.random.default_rng(1).normal(size=(2, 2, 3)))
    net.compile(
        optimizer=CoupledSGD(0.3, momentum=0.9, l2=1e-3, clip_norm=0.2),
        alpha_optimizer=CoupledSGD(1.0),
        diversity=AnnealedEntropy(0.2),
        alpha_gradient=SecondOrder(),
        run_eagerly=True,
    )
    net.build_optimizers()
    return net


def test_a_supernet_of_full_precision_has_the_gradient_of_its_bilevel_objective():
    """The same object, on a network: w' is what a step of the weights' optimizer reaches."""
    net = supernet(full_precision=("*",))
    train, validation = batch(0), batch(1)
    found = SecondOrder(epsilon=1e-3)(net, train, validation).values[0].numpy()
    start = [weight.numpy() for weight in net.network_variables]
    alphas = net.alphas_normal.numpy()

    def objective(values: np.ndarray) -> float:
        net.alphas_normal.assign(values)
        net.weight_step(*train)
        value = float(net.alpha_loss(*validation).objective)
        for variable in net.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        for weight, before in zip(net.network_variables, start, strict=True):
            weight.assign(before)
        net.optimizer.learning_rate = 0.3
        return value

    step = 0.02  # smaller ones drown in float32
    for place in ((0, 1), (0, 2), (1, 2)):
        shift = np.zeros_like(alphas)
        shift[place] = step
        difference = objective(alphas + shift) - objective(alphas - shift)
        expected = difference / (2 * step)
        assert found[place] == pytest.approx(expected, rel=0.05, abs=2e-3), place


def test_a_binary_supernet_is_as_before_and_its_gradient_is_that_of_the_steps_by_hand():
    net, train, validation = supernet(), batch(0), batch(1)
    before = [weight.numpy() for weight in net.weights]
    found = SecondOrder()(net, train, validation)
    for weight, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value, err_msg=weight.name)

    weights, alphas = net.network_variables, net.architecture_variables
    start = [tf.convert_to_tensor(weight) for weight in weights]

    def at(values, loss, batch, variables):
        for weight, value in zip(weights, values, strict=True):
            weight.assign(value)
        with tf.GradientTape() as tape:
            objective = loss(*batch).objective
        return tape.gradient(objective, variables, unconnected_gradients="zero")

    gradients = at(start, net.training_loss, train, weights)
    norm = tf.linalg.global_norm(gradients)
    assert norm > 0.2  # clipping is active
    units = [g / norm for g in gradients]
    virtual = [w - 0.3 * (0.2 * u + 1e-3 * w) for w, u in zip(start, units, strict=True)]
    direct = at(virtual, net.alpha_loss, validation, alphas)
    vector = at(virtual, net.alpha_loss, validation, weights)
    along = sum(tf.reduce_sum(v * u) for v, u in zip(vector, units, strict=True))
    vector = [0.2 * (v - along * u) / norm for v, u in zip(vector, units, strict=True)]
    epsilon = 0.01 / tf.linalg.global_norm(vector)
    sides = [
        at(
            [w + e * v for w, v in zip(start, vector, strict=True)],
            net.training_loss,
            train,
            alphas,
        )
        for e in (epsilon, -epsilon)
    ]
    for value, one, plus, minus in zip(found.values, direct, *sides, strict=True):
        expected = one - 0.3 * (plus - minus) / (2 * epsilon)
        # The small difference of two gradients, divided by a small number.
        np.testing.assert_allclose(value, expected, rtol=1e-2, atol=1e-4)


def test_it_runs_traced_and_moves_both_groups():
    net = supernet()
    net.compile(alpha_gradient=SecondOrder())
    halves = tf.data.Dataset.from_tensors((batch(0), batch(1))).repeat(2)
    before = [variable.numpy() for variable in net.trainable_variables]
    history = net.fit(halves, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["alpha_loss"]).all()
    moved = [
        np.any(variable.numpy() != value)
        for variable, value in zip(net.trainable_variables, before, strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize(
    "option",
    [{"nesterov": True}, {"momentum_schedule": lambda step: 0.5}, {"rate_multipliers": {"a": 0.5}}],
)
def test_steps_that_are_not_followed_are_refused(option):
    problem = Smooth(CoupledSGD(0.4, momentum=0.9, **option))
    with pytest.raises(BnasLarqError, match=f"an optimizer with {next(iter(option))}. Omit it"):
        SecondOrder()(problem, TRAIN, VALIDATION)
