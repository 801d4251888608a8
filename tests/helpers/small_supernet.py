"""A supernet as small as a search can be, and its batches."""

from __future__ import annotations

from bnas_larq.backend import tf
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet

#: As small as a search can be: every kind of candidate and of cell, few operations in the graph.
OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=1)
ROWS = 2  # edges of a cell of one node
STEPS = 2


def supernet(**settings) -> SuperNet:
    values = {"cells": 3, "channels": 2, "input_shape": (8, 8, 3), **settings}
    return SuperNet(values.pop("space", SPACE), 3, **values)


def images(seed: int) -> tf.Tensor:
    return tf.random.stateless_normal([4, 8, 8, 3], [seed, 0])


def labels(seed: int) -> tf.Tensor:
    return tf.random.stateless_uniform([4], [seed, 1], maxval=3, dtype=tf.int32)


def halves(steps: int = STEPS) -> tf.data.Dataset:
    """Bilevel batches ((x_train, y_train), (x_val, y_val))."""
    batches = [((images(i), labels(i)), (images(i + 9), labels(i + 9))) for i in range(steps)]
    x_train, y_train, x_val, y_val = (
        tf.stack([batch[half][part] for batch in batches]) for half in (0, 1) for part in (0, 1)
    )
    return tf.data.Dataset.from_tensor_slices(((x_train, y_train), (x_val, y_val)))


def plain_batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((images(30), labels(30))).batch(2)
