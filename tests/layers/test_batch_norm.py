"""BatchNorm over images: the numbers of Keras' own layer, in graphs and outside."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.layers.batch_norm import BatchNorm2D, PlainBatchNormalization
from bnas_larq.layers.normalisation import phases


def outcome(kind, training, trainable=True, graph=False, shape=(4, 5, 6, 3), affine=False):
    """Output, the gradients of input and weights, and the moving statistics afterwards."""
    layer = kind(scale=affine, center=affine, momentum=0.9, epsilon=1e-3)
    layer.build(shape)
    layer.trainable = trainable
    generator = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(generator.uniform(0.5, 2.0, shape[-1]))
    inputs = tf.random.stateless_normal(shape, [1, 2]) * 3.0 + 1.0
    slope = tf.random.stateless_normal(shape, [3, 4])

    def call(x):
        return layer(x, training=training)

    call = tf.function(call) if graph else call
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = call(inputs)
        loss = tf.reduce_sum(outputs * slope)
    gradients = tape.gradient(loss, [inputs, *layer.trainable_weights])
    moved = layer.moving_mean, layer.moving_variance
    return [np.array(value) for value in (outputs, *gradients, *moved)]


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        largest = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_keras_layer(training, trainable, graph):
    ours = outcome(PlainBatchNormalization, training, trainable, graph)
    theirs = outcome(keras.layers.BatchNormalization, training, trainable)
    assert_close(ours, theirs)
    still = outcome(keras.layers.BatchNormalization, False)
    assert np.array_equal(ours[-2], still[-2]) != (training and trainable)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((4, 8, 8, 16), 1),
        ((4, 8, 8, 36), 4),
        ((4, 8, 8, 3), 16),
        ((4, 6, 6, 24), 2),
        ((4, 5, 5, 3), 1),  # 25 pixels are no multiple of 16
        ((1, 4, 4, 1), 16),  # each phase is a single value, without a variance
    ],
)
def test_any_number_of_channels_is_normalised_alike(shape, pixels, training, graph):
    assert phases(tf.TensorShape(shape)) == pixels
    ours = outcome(BatchNorm2D, training, True, graph, shape, affine=True)
    assert_close(ours, outcome(keras.layers.BatchNormalization, training, shape=shape, affine=True))


def test_images_far_from_zero_keep_their_variance():
    """The mean of a square minus the square of a mean would lose it."""
    layer = BatchNorm2D(epsilon=0.0, momentum=0.0)
    inputs = tf.random.stateless_normal([8, 8, 8, 3], [1, 2]) + 1000.0
    outputs = layer(inputs, training=True)
    np.testing.assert_allclose(np.std(outputs, (0, 1, 2)), 1.0, rtol=1e-3)
    expected = np.var(inputs.numpy().astype(np.float64), (0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-3)


@pytest.mark.parametrize("channels", [16, 36])
def test_in_bfloat16_only_images_are_rounded(channels):
    shape = (4, 8, 8, channels)
    layer = BatchNorm2D()
    inputs = tf.cast(tf.random.stateless_normal(shape, [1, 2]) * 3.0 + 1.0, tf.bfloat16)
    outputs = layer(inputs, training=True)
    assert outputs.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} == {tf.float32}
    exact = BatchNorm2D()
    expected = exact(tf.cast(inputs, tf.float32), training=True)
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), expected, rtol=2.0**-7, atol=2.0**-7)
    np.testing.assert_allclose(layer.moving_variance, exact.moving_variance, rtol=1e-5)


def test_a_mean_of_a_graph_is_not_used_in_another():
    """A tensor of an outer graph, first read in a branch."""
    layer = BatchNorm2D()
    layer.build((2, 4, 4, 3))
    inputs = tf.random.stateless_normal([2, 4, 4, 3], [1, 2])

    @tf.function
    def both(x, flag):
        first = tf.cond(flag, lambda: layer(x, training=True), lambda: x)
        return first, layer(x, training=True)

    for one in both(inputs, tf.constant(True)):
        np.testing.assert_allclose(np.mean(one), 0.0, atol=1e-5)


def test_it_survives_saving():
    layer = BatchNorm2D(scale=False, name="norm")
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is BatchNorm2D and again.get_config() == layer.get_config()
