"""BatchNorm's statistics, estimated again with the final weights of a training.

The moving averages lag behind the weights, and in a binary network a small shift of a mean flips
signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.layers.cells import DropPath


def reestimate(model: keras.Model, dataset: tf.data.Dataset) -> None:
    """Set moving means and variances of all BatchNorm layers that train to the average over the
    batches of `dataset`, (images, …), without drop-path."""
    for layer in model.submodules:
        if isinstance(layer, DropPath):
            layer.control.rate.assign(0.0)
    norms = [
        layer
        for layer in model.submodules
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    forward = tf.function(lambda images: model(images, training=True), autograph=False)
    set_to_averages(norms, forward, dataset)


def set_to_averages(
    norms: Sequence[keras.layers.BatchNormalization],
    forward: Callable[[tf.Tensor], Any],
    dataset: tf.data.Dataset,
) -> None:
    """Set moving means and variances to their averages over the batches of `dataset`.

    Args:
        norms: the layers.
        forward: calls their model on a batch's images in training. Its graph must be traced here:
            it has the momentum 0, with which moving statistics become the batch's own.
        dataset: batches (images, …).
    """
    statistics = [weight for norm in norms for weight in (norm.moving_mean, norm.moving_variance)]
    sums, count = [np.zeros(weight.shape) for weight in statistics], 0
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        for images, *_ in dataset:
            forward(images)
            count += 1
            for total, weight in zip(sums, statistics, strict=True):
                total += weight.numpy()
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for total, weight in zip(sums, statistics, strict=True):
        weight.assign((total / count).astype(np.float32))
