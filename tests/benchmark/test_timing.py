"""The timed loop trains the model as `fit` does. No test here is about how long it takes."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.benchmark.steps import Feed
from bnas_larq.benchmark.timing import StepLoop, Timing, machine, matmul_rates, peak_memory


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
    made = keras.Sequential([keras.Input((4, 4, 3)), *layers])
    made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return made


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_the_loop_leaves_the_weights_that_fit_leaves(name):
    batches = Feed.open(name, None, (4, 4)).batches(8)
    fitted, looped, calls = model(), model(), []
    fitted.fit(batches, steps_per_epoch=4, verbose=0)
    timing = StepLoop(looped, batches, lambda: calls.append(1)).run(3)
    assert (len(timing.steps), len(timing.waits), len(calls)) == (3, 3, 4)
    for expected, weight in zip(fitted.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_shares_and_medians():
    timing = Timing(9.0, 9.0, 9.0, steps=(3.0, 1.0, 2.0), waits=(1.0, 0.0, 1.0))
    assert (timing.median, timing.best, timing.waiting) == (2.0, 1.0, 2 / 8)


def test_the_machine():
    description = machine()
    assert description["cpu"] and description["cores"] >= 1 and description["devices"]
    assert matmul_rates("float32")["float32"] > 0
    assert peak_memory() > 1e8  # TensorFlow alone takes more
