"""The annealed entropy term: values by hand, and its pull on α."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.supernet.architecture import AnnealedEntropy, edge_entropy


def test_entropy_of_each_edge():
    probabilities = tf.constant([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    entropy = edge_entropy(probabilities)
    assert entropy.shape == (3,)
    np.testing.assert_allclose(entropy, [math.log(4), math.log(2), 0.0], atol=1e-7)


def test_the_entropy_of_certainty_has_a_finite_gradient():
    """A softmax that has underflowed to 0: 0·log 0 must not make α NaN."""
    alphas = tf.Variable([[0.0, 200.0, -200.0]])
    with tf.GradientTape() as tape:
        entropy = edge_entropy(tf.nn.softmax(alphas))
    assert float(entropy[0]) == 0.0
    assert np.all(np.isfinite(tape.gradient(entropy, alphas).numpy()))


def test_the_term_pulls_towards_equal_shares():
    """Descending −H moves the largest α down and the smallest up."""
    alphas = tf.Variable([[1.0, 0.0, -1.0]])
    with tf.GradientTape() as tape:
        loss = -edge_entropy(tf.nn.softmax(alphas))
    first, _, last = tape.gradient(loss, alphas).numpy()[0]
    assert first > 0 > last


@pytest.mark.parametrize("epoch", [0, 1, 7.7, 50])
def test_the_weight_decays_by_e_in_tau_epochs(epoch):
    """Equation 3 of arXiv 2002.06963 with its λ = 1.0 and τ = 7.7."""
    assert float(AnnealedEntropy().coefficient(epoch)) == pytest.approx(math.exp(-epoch / 7.7))
    assert float(AnnealedEntropy(0.5, 2.0).coefficient(tf.constant(epoch, tf.float32))) == (
        pytest.approx(0.5 * math.exp(-epoch / 2.0))
    )


def test_an_integer_epoch_will_do():
    assert float(AnnealedEntropy().coefficient(tf.constant(3, tf.int64))) == (
        pytest.approx(math.exp(-3 / 7.7))
    )


def test_weight_0_switches_it_off():
    assert float(AnnealedEntropy(weight=0).coefficient(0)) == 0.0


@pytest.mark.parametrize("settings", [{"weight": -0.1}, {"tau": 0.0}, {"tau": -1.0}])
def test_impossible_settings_are_refused(settings):
    message = "needs λ >= 0 and τ > 0. Received: weight=.*, tau=.*. Use weight=0 to switch it off"
    with pytest.raises(BnasLarqError, match=message):
        AnnealedEntropy(**settings)


def test_config_round_trip():
    term = AnnealedEntropy(0.5, 3.0)
    again = keras.utils.deserialize_keras_object(keras.utils.serialize_keras_object(term))
    assert isinstance(again, AnnealedEntropy)
    assert again.get_config() == term.get_config() == {"weight": 0.5, "tau": 3.0}
