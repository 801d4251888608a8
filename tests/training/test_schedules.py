"""Schedules: the knots that FACTS §1 states, and the same values from the recipe's settings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.schedules import OneCycle, OneCycleMomentum, WarmUp, learning_rate

LR = 0.05
STEPS = 1000


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (0, 0.05 * LR),
        (225, (0.05 + 1) / 2 * LR),
        (450, LR),
        (675, (1 + 0.05) / 2 * LR),
        (900, 0.05 * LR),
        (950, (0.05 + 0.0005) / 2 * LR),
        (1000, 0.0005 * LR),
        (1200, 0.0005 * LR),
    ],
)
def test_one_cycle_learning_rate(step, value):
    """0.05·lr → lr → 0.05·lr over 90 % of the steps, then down to 0.0005·lr."""
    assert float(OneCycle(LR, STEPS)(step)) == pytest.approx(value, rel=1e-5)
    assert float(OneCycle(LR, STEPS)(tf.constant(step, tf.int64))) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 0.95), (225, 0.90), (450, 0.85), (675, 0.90), (900, 0.95), (950, 0.95), (1000, 0.95)],
)
def test_one_cycle_momentum(step, value):
    """0.95 → 0.85 → 0.95 over 90 % of the steps."""
    assert float(OneCycleMomentum(STEPS)(step)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 117_600])
def test_one_cycle_rises_once_and_falls_within_its_range(steps):
    rates = np.array([float(OneCycle(LR, steps)(t)) for t in np.linspace(0, steps, 101)])
    top = rates.argmax()
    assert np.all(np.diff(rates[: top + 1]) >= 0) and np.all(np.diff(rates[top:]) <= 0)
    assert rates.min() >= 0.0005 * LR * (1 - 1e-5) and rates.max() <= LR * (1 + 1e-6)


def test_long_trainings_keep_the_knots():
    """600 epochs of 45,000 images in batches of 256: 105,600 steps."""
    steps = 600 * math.ceil(45_000 / 256)
    schedule = OneCycle(LR, steps)
    assert float(schedule(round(0.45 * steps))) == pytest.approx(LR, rel=1e-4)
    assert float(schedule(round(0.9 * steps))) == pytest.approx(0.05 * LR, rel=1e-3)


def test_schedules_work_inside_a_graph():
    traced = tf.function(lambda step: (OneCycle(LR, STEPS)(step), OneCycleMomentum(STEPS)(step)))
    rate, momentum = traced(tf.constant(450, tf.int64))
    assert (float(rate), float(momentum)) == (pytest.approx(LR), pytest.approx(0.85))


@pytest.mark.parametrize(
    "schedule",
    [
        OneCycle(LR, 40),
        OneCycleMomentum(40, 0.9, 0.8),
        WarmUp(None, LR, 4),
        WarmUp(keras.optimizers.schedules.CosineDecay(LR, 36), LR, 4),
    ],
)
def test_config_round_trip(schedule):
    module = keras.optimizers.schedules
    again = module.deserialize(module.serialize(schedule))
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [float(again(t)) for t in range(40)] == [float(schedule(t)) for t in range(40)]


# -- from the recipe: 10 epochs of 20 steps --------------------------------------------------------


def rates(*steps, **settings):
    rate = learning_rate(TrainSettings(epochs=10, learning_rate=LR, **settings), 20)
    return [float(rate(step)) if callable(rate) else rate for step in steps]


def test_the_recipes_one_cycle_spans_all_steps():
    assert rates(0, 90, 180, 200) == pytest.approx(
        [0.05 * LR, LR, 0.05 * LR, 0.0005 * LR], rel=1e-4
    )


def test_cosine_falls_to_nothing():
    quarter = LR * (1 + math.cos(math.pi / 4)) / 2
    expected = [LR, quarter, LR / 2, 0.0]
    assert rates(0, 50, 100, 200, schedule="cosine") == pytest.approx(expected, abs=1e-8)


def test_cosine_restarts_at_the_full_rate():
    """Every 5 epochs of 20 steps, each time from lr, as on ImageNet."""
    steps = (0, 50, 99, 100, 150)
    last = LR * (1 + math.cos(math.pi * 99 / 100)) / 2
    expected = [LR, LR / 2, last, LR, LR / 2]
    assert rates(*steps, schedule="cosine", restart_epochs=5) == pytest.approx(expected, abs=1e-7)


def test_constant():
    assert rates(0, 100, 200, schedule="constant") == [LR, LR, LR]


def test_linear_falls_to_nothing():
    assert rates(0, 50, 100, 200, schedule="linear") == pytest.approx([LR, 0.75 * LR, 0.5 * LR, 0])


def test_warm_up_goes_before_the_schedule():
    """A tenth of 200 steps up to lr, then a cosine over the other 180."""
    expected = [LR / 20, LR / 2, LR, LR, LR / 2, 0.0]
    found = rates(0, 9, 19, 20, 110, 200, schedule="cosine", warmup=0.1)
    assert found == pytest.approx(expected, abs=1e-8)
    assert rates(0, 19, 150, schedule="constant", warmup=0.1) == pytest.approx([LR / 20, LR, LR])
