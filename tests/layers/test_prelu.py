"""PReLU and RPReLU: Keras' function and gradients, in any type, in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.layers.prelu import PReLU2D, RPReLU

SHAPE = (2, 4, 6, 5)


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def built(kind: type) -> keras.layers.Layer:
    """A layer with other weights in each channel."""
    layer = kind()
    layer.build(SHAPE)
    layer.set_weights([normal(*w.shape, seed=seed) for seed, w in enumerate(layer.weights)])
    return layer


def plain(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """The formula in operations that TensorFlow differentiates."""
    before, behind = layer.shifts or (0.0, 0.0)
    x = inputs - before
    return tf.where(x > 0, x, layer.alpha * x) + behind


def results(function, layer: keras.layers.Layer, inputs: tf.Tensor) -> list[np.ndarray]:
    """Outputs, and gradients of inputs and weights."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * normal(*SHAPE, seed=9))
    of_inputs, *of_weights = tape.gradient(loss, [inputs, *layer.trainable_weights])
    return [tf.cast(x, tf.float32).numpy() for x in (outputs, of_inputs, *of_weights)]


@pytest.mark.parametrize("kind", [PReLU2D, RPReLU])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_computes_the_formula(kind, dtype):
    layer = built(kind)
    inputs = tf.cast(normal(*SHAPE, seed=8), dtype)
    exact = results(lambda x: plain(layer, x), layer, tf.cast(inputs, tf.float32))
    own = results(lambda x: layer(x, training=True), layer, inputs)
    assert layer(inputs, training=True).dtype == dtype
    tolerance = 1e-6 if dtype == "float32" else 2.0**-7
    for one, other in zip(own, exact, strict=True):
        atol = tolerance * np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=atol, rtol=tolerance)


@pytest.mark.parametrize("kind", [PReLU2D, RPReLU])
def test_inference_is_the_same_function(kind):
    layer, inputs = built(kind), tf.constant(normal(*SHAPE, seed=8))
    expected = plain(layer, inputs).numpy()
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer(inputs, training=False), expected, rtol=1e-6, atol=1e-6)


def test_its_gradient_at_zero_is_the_slopes():
    layer = built(PReLU2D)
    _, of_inputs, of_slopes = results(lambda x: layer(x, training=True), layer, tf.zeros(SHAPE))
    expected = normal(*SHAPE, seed=9) * layer.alpha.numpy()
    np.testing.assert_allclose(of_inputs, expected, rtol=1e-6)
    assert not of_slopes.any()


@pytest.mark.parametrize("kind", [PReLU2D, RPReLU])
def test_it_survives_saving(kind, tmp_path):
    model = keras.Sequential([keras.layers.InputLayer(SHAPE[1:]), kind(name="act")])
    model.set_weights([normal(*w.shape, seed=seed) for seed, w in enumerate(model.weights)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is kind
    inputs = normal(*SHAPE, seed=8)
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
