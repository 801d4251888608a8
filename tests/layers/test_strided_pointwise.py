"""Strided 1×1 convolutions train without oneDNN's gradient for them, which damages memory."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.layers.abc_convolution import INITIAL_SHIFTS, ABCConv2D
from bnas_larq.layers.binary_convolution import BinaryConv2D, MixedPrecisionConv2D
from bnas_larq.layers.convolutions import convolution
from bnas_larq.layers.operations import FactorizedReduction
from bnas_larq.layers.quantizers import SignScale

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": SignScale(), "use_bias": False}
SCHEME = {"input_scheme": None, "kernel_scheme": None}
LAYERS = {
    "real": lambda: MixedPrecisionConv2D(6, 1, strides=2),
    "binary": lambda: BinaryConv2D(6, 1, strides=2, **BINARY),
    "larq's form": lambda: BinaryConv2D(
        6, 1, strides=2, input_quantizer="ste_sign", kernel_quantizer="ste_sign"
    ),
    "grouped": lambda: MixedPrecisionConv2D(6, 1, strides=2, groups=2),
    "symmetric": lambda: convolution(6, 1, name="c", strides=2, padding="symmetric", **SCHEME),
    "factorised": lambda: FactorizedReduction(6, **BINARY),
    "ABC-Net": lambda: ABCConv2D(6, 1, *INITIAL_SHIFTS[3, 3], strides=2),
}


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_of_pixels_at_stride_one(kind, size, compute):
    layer = LAYERS[kind]()
    if isinstance(layer, MixedPrecisionConv2D):
        layer.compute = compute
    images = tf.constant(np.random.default_rng(0).normal(size=(2, size, size, 4)), tf.float32)

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            outputs = layer(images, training=True)
        return outputs, tape.gradient(outputs, layer.trainable_weights)

    outputs, gradients = step(images)
    assert all(gradient is not None for gradient in gradients)
    definition = step.get_concrete_function(images).graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    strides = [
        tuple(node.attr["strides"].list.i) for node in nodes if node.op == "Conv2DBackpropFilter"
    ]
    assert set(strides) == {(1, 1, 1, 1)}
    tolerance = {"atol": 0.05, "rtol": 0.02} if compute == "bfloat16" else {"atol": 1e-5}
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), layer(images), **tolerance)
