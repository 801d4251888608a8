"""BinaryDuo's activations: thresholds, ties, gradients, and the identity behind decoupling."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.coupled_activation import (
    ClippedRound,
    MeanOfCopies,
    PadChannels,
    clipped_round,
)

#: Multiples of 1/64 from −2 to 2, all thresholds among them; float32 holds x ± ¼ exactly.
GRID = np.arange(-128, 129, dtype=np.float32) / 64


def test_values_of_the_ternary_activation_and_its_ties():
    x = np.array([-1.0, 0.0, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0, 3.0], np.float32)
    expected = [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]
    np.testing.assert_array_equal(clipped_round(tf.constant(x), 2), expected)


def test_values_of_the_binary_activation_and_its_tie():
    x = np.array([-1.0, 0.0, 0.25, 0.5, 0.51, 1.0, 3.0], np.float32)
    np.testing.assert_array_equal(clipped_round(tf.constant(x), 1), [0, 0, 0, 0, 1, 1, 1])
    heaviside = lq.quantizers.ste_heaviside(tf.constant(GRID - 0.5))
    np.testing.assert_array_equal(clipped_round(tf.constant(GRID), 1), heaviside)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_it_is_the_rounded_clip_but_for_ties(levels):
    scaled = levels * np.clip(GRID, 0, 1)
    ties = np.isclose(scaled % 1, 0.5)
    rounded = np.where(ties, np.floor(scaled), np.round(scaled)) / levels
    np.testing.assert_allclose(clipped_round(tf.constant(GRID), levels), rounded, rtol=1e-6)


def test_two_shifted_binary_activations_are_the_ternary_one():
    x = tf.constant(GRID)
    halves = [clipped_round(x + shift, 1) for shift in (-0.25, 0.25)]
    np.testing.assert_array_equal(0.5 * (halves[0] + halves[1]), clipped_round(x, 2))


@pytest.mark.parametrize("levels", [1, 2])
def test_the_gradient_passes_inside_the_unit_interval(levels):
    x = tf.constant(GRID)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ClippedRound(levels)(x)
    gradient = tape.gradient(y, x, 3.0 * tf.ones_like(y))
    np.testing.assert_array_equal(gradient, np.where((GRID > 0) & (GRID < 1), 3.0, 0.0))


def test_precision_is_the_bits_of_its_values():
    assert [ClippedRound(levels).precision for levels in (1, 2, 3)] == [1, 2, 2]


def test_the_mean_of_copies_and_padded_channels():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(MeanOfCopies(1)(x), x)
    expected = (x[..., :2] + x[..., 2:]) / 2
    np.testing.assert_allclose(MeanOfCopies(2)(x), expected, rtol=1e-6)
    padded = PadChannels(6)(x).numpy()
    np.testing.assert_array_equal(padded[..., :4], x)
    assert padded.shape == (2, 3, 3, 6) and not padded[..., 4:].any()


@pytest.mark.parametrize("made", [ClippedRound(2), MeanOfCopies(2), PadChannels(6)])
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(again(x), made(x))
