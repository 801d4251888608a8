"""BatchNorm without scale and offset: the numbers of Keras' own layer, in graphs and outside."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.layers.batch_norm import PlainBatchNormalization

SHAPE = (4, 5, 6, 3)


def outcome(kind, training, trainable=True, graph=False):
    """Output, the input's gradient, and the moving statistics afterwards."""
    layer = kind(scale=False, center=False, momentum=0.9, epsilon=1e-3)
    layer.build(SHAPE)
    layer.trainable = trainable
    layer.moving_mean.assign([0.5, -1.0, 2.0])
    layer.moving_variance.assign([2.0, 0.5, 1.0])
    inputs = tf.random.stateless_normal(SHAPE, [1, 2]) * 3.0 + 1.0
    slope = tf.random.stateless_normal(SHAPE, [3, 4])

    def call(x):
        return layer(x, training=training)

    call = tf.function(call) if graph else call
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = call(inputs)
        loss = tf.reduce_sum(outputs * slope)
    return outputs, tape.gradient(loss, inputs), layer.moving_mean, layer.moving_variance


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_keras_layer(training, trainable, graph):
    ours = outcome(PlainBatchNormalization, training, trainable, graph)
    theirs = outcome(keras.layers.BatchNormalization, training, trainable)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    moved = not np.array_equal(ours[2], np.float32([0.5, -1.0, 2.0]))
    assert moved == (training and trainable)
