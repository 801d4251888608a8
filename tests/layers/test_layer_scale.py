"""Kernels with one scale per layer: values and both gradients, against NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.layer_scale import LayerScaledSign, layer_scaled_sign

KERNEL = np.random.default_rng(0).normal(0.0, 0.8, (3, 3, 2, 4)).astype(np.float32)
UPSTREAM = np.random.default_rng(1).normal(size=KERNEL.shape).astype(np.float32)


def received(gradient):
    """(±a, what W receives when ±a receives `UPSTREAM`)."""
    kernel = tf.constant(KERNEL)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        binary = layer_scaled_sign(kernel, gradient)
    return binary.numpy(), tape.gradient(binary, kernel, UPSTREAM).numpy()


def test_approximate_gradient_goes_through_sign_and_scale():
    assert np.abs(KERNEL).max() > 1.0
    binary, gradient = received("approx")
    scale, sign = np.abs(KERNEL).mean(), np.sign(KERNEL)
    np.testing.assert_allclose(binary, scale * sign, rtol=1e-6)
    slope = np.maximum(2 - 2 * np.abs(KERNEL), 0)
    through_scale = sign * (UPSTREAM * sign).sum() / KERNEL.size
    np.testing.assert_allclose(
        gradient, scale * UPSTREAM * slope + through_scale, rtol=1e-5, atol=1e-6
    )


def test_identity_gradient():
    binary, gradient = received("identity")
    np.testing.assert_array_equal(binary, received("approx")[0])
    np.testing.assert_array_equal(gradient, UPSTREAM)


def test_zero_is_positive():
    np.testing.assert_array_equal(layer_scaled_sign(tf.constant([0.0, -1.0])), [0.5, -0.5])


def test_config_round_trip():
    made = LayerScaledSign("identity")
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is LayerScaledSign and again.get_config() == made.get_config()
    assert config["registered_name"] == "bnas_larq>LayerScaledSign"
    assert made.scales(KERNEL.shape) == 1


def test_an_unknown_gradient_is_refused():
    with pytest.raises(BnasLarqError, match="'approx' or 'identity'. Received: 'aprox'; did you"):
        LayerScaledSign("aprox")
