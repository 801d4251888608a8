"""Relaxations: hard draws with soft gradients, concrete draws, temperatures, fixed paths."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.relaxations import (
    Concrete,
    Draw,
    GumbelHard,
    Mixture,
    SampledPath,
    Softmax,
    gumbel,
)
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule

SHAPE = (3, 4)
#: Temperature 2 in epoch 4 of 0 … 8.
SCHEDULE = TemperatureSchedule(3.0, 1.0, 9)
ALPHAS = np.random.default_rng(3).normal(size=SHAPE)


def draw(seed: int = 1, training: bool = True, kind: str = "normal", epoch: float = 4.0) -> Draw:
    return Draw(kind, tf.constant(epoch), tf.constant([seed, 7]), training)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def relaxed(alphas: np.ndarray, seed: int, temperature: float = 2.0) -> np.ndarray:
    """softmax((log softmax(α) + g) / τ) in float64."""
    noise = gumbel(tf.TensorShape(alphas.shape), tf.constant([seed, 7])).numpy()
    return softmax((np.log(softmax(alphas)) + noise) / temperature)


# -- temperature -----------------------------------------------------------------------------------


def test_temperatures_by_epoch():
    linear = TemperatureSchedule(10.0, 0.1, 3)
    assert [float(linear(t)) for t in range(3)] == pytest.approx([10.0, 5.05, 0.1], rel=1e-5)
    exponential = TemperatureSchedule(4.0, 0.25, 5, "exponential")
    assert [float(exponential(t)) for t in range(5)] == pytest.approx([4.0, 2.0, 1.0, 0.5, 0.25])
    # Behind the end it stays, and a single epoch has the first one.
    assert float(linear(7)) == pytest.approx(0.1, rel=1e-5)
    assert float(TemperatureSchedule(10.0, 0.1, 1)(0)) == 10.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 3), "must be positive, over at least one epoch. Received: first=0.0"),
        ((1.0, -0.1, 3), "Received: first=1.0, last=-0.1"),
        ((1.0, 0.1, 0), "epochs=0. GDAS goes from 10 to 0.1"),
        ((1.0, 0.1, 3, "linera"), "Received: 'linera'; did you mean 'linear'"),
    ],
)
def test_impossible_temperatures_are_refused(arguments, message):
    with pytest.raises(BnasLarqError, match=message):
        TemperatureSchedule(*arguments)


# -- draws -----------------------------------------------------------------------------------------


def test_gumbel_noise_is_a_function_of_the_seed():
    one, again, other = (gumbel(tf.TensorShape(SHAPE), [5, step]).numpy() for step in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.all(one != other)


def test_candidates_are_drawn_with_their_probability():
    """The Gumbel-max trick, whatever the temperature: P(k) = softmax(α)_k."""
    count = 20000
    alphas = np.array([0.3, -1.0, 1.2])
    path = GumbelHard(SCHEDULE).choose(tf.constant([alphas] * count, tf.float32), draw())
    shares = np.bincount(path.chosen, minlength=3) / count
    # Three standard deviations of a share near 1/2.
    assert np.abs(shares - softmax(alphas)).max() < 3 * 0.5 / np.sqrt(count)


def test_gumbel_hard_is_one_hot_forward_and_soft_backward():
    """With p̃ the relaxed weights and u the gradient of the drawn candidate c of an edge:
    ∂L/∂α_j = u·p̃_c·(δ_cj − p̃_j)/τ."""
    alphas, upstream = tf.constant(ALPHAS, tf.float32), np.array([1.0, -2.0, 0.5])
    with tf.GradientTape() as tape:
        tape.watch(alphas)
        path = GumbelHard(SCHEDULE).choose(alphas, draw())
        used = tf.gather(path.weights, path.chosen, batch_dims=1)
        loss = tf.reduce_sum(used * upstream.astype(np.float32))
    soft = relaxed(ALPHAS, seed=1)
    chosen = soft.argmax(axis=1)
    assert isinstance(path, SampledPath)
    np.testing.assert_array_equal(path.chosen, chosen)
    np.testing.assert_array_equal(path.weights, np.eye(SHAPE[1])[chosen])  # exactly

    of_chosen = soft[np.arange(3), chosen]
    expected = (upstream * of_chosen)[:, None] * (np.eye(SHAPE[1])[chosen] - soft) / 2.0
    gradient = tape.gradient(loss, alphas)
    # float32 against float64.
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_gumbel_hard_takes_the_best_candidates_in_evaluation():
    path = GumbelHard(SCHEDULE).choose(tf.constant(ALPHAS, tf.float32), draw(training=False))
    np.testing.assert_array_equal(path.chosen, ALPHAS.argmax(axis=1))
    assert path.weights is None


def test_the_concrete_gradient_is_that_of_the_fixed_draw():
    """Against central differences in float64 with the same noise."""
    alphas = tf.constant(ALPHAS, tf.float32)
    factors = np.random.default_rng(4).normal(size=SHAPE)
    with tf.GradientTape() as tape:
        tape.watch(alphas)
        mixture = Concrete(SCHEDULE).choose(alphas, draw(seed=2))
        loss = tf.reduce_sum(mixture.weights * factors.astype(np.float32))
    assert isinstance(mixture, Mixture) and mixture.positive
    np.testing.assert_allclose(mixture.weights, relaxed(ALPHAS, seed=2), rtol=1e-5)

    def objective(values: np.ndarray) -> float:
        return float(np.sum(relaxed(values, seed=2) * factors))

    differences, step = np.zeros(SHAPE), 1e-5
    for place in np.ndindex(SHAPE):
        shift = np.zeros(SHAPE)
        shift[place] = step
        differences[place] = objective(ALPHAS + shift) - objective(ALPHAS - shift)
    np.testing.assert_allclose(
        tape.gradient(loss, alphas), differences / (2 * step), rtol=1e-4, atol=1e-6
    )


def test_concrete_evaluates_the_softmax_and_hardens_as_it_cools():
    alphas = tf.constant(ALPHAS, tf.float32)
    mixture = Concrete(SCHEDULE).choose(alphas, draw(training=False))
    np.testing.assert_allclose(mixture.weights, softmax(ALPHAS), rtol=1e-5)
    cooling = Concrete(TemperatureSchedule(5.0, 0.01, 2))
    warm, cold = (cooling.choose(alphas, draw(epoch=t)).weights.numpy() for t in (0.0, 1.0))
    assert warm.max(axis=1).max() < 0.9 and cold.max(axis=1).min() > 0.99
    assert np.array_equal(warm.argmax(axis=1), cold.argmax(axis=1))


def test_pruned_candidates_are_never_drawn():
    alphas = tf.constant([[1e-3, -1e9, 0.0, -1e9]] * 500)
    path = GumbelHard(SCHEDULE).choose(alphas, draw())
    assert set(path.chosen.numpy().tolist()) == {0, 2}
    weights = Concrete(SCHEDULE).choose(alphas, draw()).weights.numpy()
    assert not weights[:, [1, 3]].any() and np.all(np.isfinite(weights))


def test_a_temperature_for_each_kind_of_cell():
    """BATS' softmax(α/T), which the genotype's logits have too."""
    relaxation = Softmax(normal=0.2, reduce=0.15)
    alphas = np.array(ALPHAS, np.float32)
    for kind, temperature in (("normal", 0.2), ("reduce", 0.15)):
        expected = softmax(alphas / temperature)
        np.testing.assert_allclose(relaxation(tf.constant(alphas), kind), expected, rtol=1e-4)
        np.testing.assert_allclose(relaxation.logits(alphas, kind), alphas / temperature, rtol=1e-6)
    with pytest.raises(BnasLarqError, match="positive. Received: normal=0.2, reduce=0"):
        Softmax(0.2, 0)


@pytest.mark.parametrize(
    "relaxation",
    [Softmax(), Softmax(0.2), GumbelHard(SCHEDULE), Concrete(SCHEDULE), FixedPath()],
)
def test_distributions_and_configs(relaxation):
    alphas = tf.constant(ALPHAS, tf.float32)
    logits = relaxation.logits(np.array(ALPHAS), "normal")
    np.testing.assert_allclose(relaxation(alphas, "normal"), softmax(logits), rtol=1e-5)
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(relaxation)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(relaxation) and again.get_config() == relaxation.get_config()


# -- fixed paths -----------------------------------------------------------------------------------


def test_a_traced_function_follows_the_assigned_path():
    relaxation, alphas = FixedPath(), tf.constant(ALPHAS, tf.float32)
    relaxation.assign([0, 1, 2], [3, 3, 3])
    traces = []

    @tf.function
    def columns(kind):
        traces.append(kind)
        return relaxation.choose(alphas, draw(kind=kind)).chosen

    assert columns("normal").numpy().tolist() == [0, 1, 2]
    relaxation.assign([3, 2, 1], [0, 0, 1])
    assert columns("normal").numpy().tolist() == [3, 2, 1]
    assert columns("reduce").numpy().tolist() == [0, 0, 1]
    assert traces == ["normal", "reduce"]


@pytest.mark.parametrize("path", [None, [0, 1], [0, 1, 4], [0, -2, 2], [[0, 1, 2]]])
def test_paths_that_do_not_fit_are_refused(path):
    relaxation, alphas = FixedPath(), tf.constant(ALPHAS, tf.float32)
    message = "names a column of α for each edge .* Received: .* for normal cells"
    with pytest.raises(BnasLarqError, match=message):
        if path is not None:
            relaxation.assign(path, [0, 0, 0])
        relaxation.choose(alphas, draw())
    # Once the network is known, `assign` itself refuses, and keeps the path that was there.
    known = FixedPath()
    known.assign([0, 1, 2], [0, 1, 2])
    assert known.choose(alphas, draw()).weights is None
    if path is not None:
        with pytest.raises(BnasLarqError, match=message):
            known.assign(path, [0, 0, 0])
        assert known.choose(alphas, draw(kind="normal")).chosen.numpy().tolist() == [0, 1, 2]
