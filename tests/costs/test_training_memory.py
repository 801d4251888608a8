"""Peak memory of traced steps: sums that can be counted by hand."""

import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.costs.training_memory import traced_peak


def traced(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return traced_peak(tf.function(function).get_concrete_function(*specs).graph)


def test_what_is_read_no_more_is_freed():
    """The input stays; of a chain two tensors are alive at a time."""

    def chain(x):
        for _ in range(5):
            x = tf.sin(x)
        return x

    assert traced(chain, [1000]) == 4 * 1000 * (1 + 2)


def test_reshaped_tensors_are_one_buffer():
    assert traced(lambda x: tf.reshape(tf.sin(x), [10, 100]), [1000]) == 4 * (2 * 1000 + 2)


def test_what_gradients_read_stays():
    """Three activations of a chain of sines, whose gradients are their cosines' products."""

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sin(tf.sin(tf.sin(x)))
        return tape.gradient(y, x)

    peak = traced(gradient, [1000])
    assert 4 * 1000 * 5 <= peak <= 4 * 1000 * 7


@pytest.mark.parametrize("batch", [1, 8])
def test_activations_grow_with_the_batch_and_weights_do_not(batch):
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.MeanSquaredError()

    def step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        return tape.gradient(value, model.trainable_variables)

    peak = traced(step, [batch, 64], [batch, 10])
    gradients = 4 * (64 * 256 + 256 + 256 * 10 + 10)
    # Input, hidden layer before and after its ReLU, and the gradients of these.
    assert gradients < peak < gradients + 4 * batch * (64 + 10 + 4 * 256 + 4 * 10) + 100
