"""Small networks of published genotypes."""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network

SMALL = {"input_shape": (8, 8, 3), "num_classes": 4, "channels": 2, "cells": 3}
GENOTYPES = ["bnas_cifar", "bnas_imagenet"]


def small(genotype: str = "bnas_imagenet", **settings) -> keras.Model:
    return build_network(Genotype.load(genotype), **{**SMALL, **settings})


def images(count: int = 4) -> tf.Tensor:
    return tf.random.stateless_normal([count, 8, 8, 3], [1, 2])


def settled(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a random value (variances positive), so that nothing is at its default."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        values = draw.uniform(0.5, 1.5, weight.shape)
        weight.assign(values if "bn" in weight.name else draw.normal(0.0, 0.5, weight.shape))
    return model


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
