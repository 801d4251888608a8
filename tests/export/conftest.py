"""A small binary network with every kind of convolution that exported networks have."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq

pytest.importorskip("larq_compute_engine", reason="larq-compute-engine has no wheel here")


def binary(x, name, kernel_size, filters=12, **options):
    """BatchNorm, sign, binary convolution, ReLU."""
    options = {
        "padding": "same",
        "use_bias": False,
        "input_quantizer": "ste_sign",
        "kernel_quantizer": "magnitude_aware_sign",
        **options,
    }
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    x = lq.layers.QuantConv2D(filters, kernel_size, name=name, **options)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def randomise(model, seed=3):
    """Weights far from their first values: no BatchNorm is the identity, no two kernels alike."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if any(part in weight.name for part in ("gamma", "variance")):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(generator.normal(0, 0.3, weight.shape))
    return model


@pytest.fixture(scope="session")
def small_network():
    """8×8 images, channels that are no multiples of 32, every kernel, a strided stage of 4×4."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(33, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    first = layers.Add(name="node0")([binary(x, "conv3", 3), binary(x, "conv5", 5)])
    second = layers.Add(name="node1")(
        [binary(x, "dil3", 3, dilation_rate=2), binary(x, "dil5", 5, dilation_rate=2)]
    )
    cell = layers.Concatenate(name="cell")([first, second, binary(x, "conv1", 1)])
    pooled = layers.AveragePooling2D(3, 2, padding="same", name="pool")(cell)
    reduced = [
        binary(cell, "strided", 3, strides=2),
        binary(pooled, "small5", 5),
        binary(pooled, "small_dil5", 5),
    ]
    reduced = layers.Concatenate(name="cell_reduce")(reduced)
    shortcut = layers.Conv2D(36, 2, strides=2, padding="same", name="shortcut")(cell)
    x = layers.Add(name="output")([reduced, shortcut])
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return randomise(keras.Model(image, layers.Dense(10, name="classifier")(x), name="small"))


@pytest.fixture(scope="session")
def pictures():
    """Sixty images [60, 8, 8, 3]."""
    return np.random.default_rng(5).normal(size=(60, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def exported(small_network):
    """The small network's file."""
    from bnas_larq.export.converter import convert

    return convert(small_network)
