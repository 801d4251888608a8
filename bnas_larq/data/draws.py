"""Random numbers of an example, whatever its batch: a hash of (seed, epoch, index). TensorFlow's
stateless generators draw per tensor, so that an image's numbers would depend on its batch.
"""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import tf

GOLDEN = 0x9E3779B97F4A7C15


def mix(values: tf.Tensor) -> tf.Tensor:
    """SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014) on each uint64 element."""
    xor, shift = tf.bitwise.bitwise_xor, tf.bitwise.right_shift

    def const(value: int) -> tf.Tensor:
        return tf.constant(value, tf.uint64)

    values = values + const(GOLDEN)
    values = xor(values, shift(values, const(30))) * const(0xBF58476D1CE4E5B9)
    values = xor(values, shift(values, const(27))) * const(0x94D049BB133111EB)
    return xor(values, shift(values, const(31)))


def uniforms(seed: int, epoch: int | tf.Tensor, indices: tf.Tensor, count: int) -> tf.Tensor:
    """`count` uniform numbers in [0, 1) for each example: float32 [batch, count].

    Args:
        seed: any integer.
        epoch: integer or scalar integer tensor, from 0.
        indices: int64 [batch], the stable indices of the examples.
        count: numbers per example.
    """
    xor = tf.bitwise.bitwise_xor
    key = xor(mix(tf.constant(seed % 2**64, tf.uint64)), tf.cast(epoch, tf.uint64))
    key = mix(xor(mix(key), tf.cast(indices, tf.uint64)))
    # As an array: inside graphs TensorFlow would read a list by way of float64, and lose bits.
    steps = tf.constant(np.array([(step * GOLDEN) % 2**64 for step in range(count)], np.uint64))
    bits = mix(key[:, None] + steps[None, :])
    # float32 holds 24 bits exactly, so that 1.0 is never reached.
    bits = tf.bitwise.right_shift(bits, tf.constant(40, tf.uint64))
    return tf.cast(tf.cast(bits, tf.int32), tf.float32) * (1.0 / 2**24)
