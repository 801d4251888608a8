"""The training form of binary convolutions against larq's own layer, in both types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.activations import UNCHANGED, SchemeOptions
from bnas_larq.layers.binary_convolution import BinaryConv2D, binary_convolution
from bnas_larq.layers.convolutions import convolution

#: Kernel size, strides, dilation.
PLACES = [(1, 1, 1), (3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 2)]
#: Trains at stride 1; with real operands its last bits differ from those of strides.
POINTS = (1, 2, 1)


def pictures(*shape: int, seed: int = 0) -> tf.Tensor:
    """Normal numbers on both sides of ±1, with exact zeros and ones among them."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x.reshape(-1)[:4] = [0.0, 1.0, -1.0, np.nextafter(np.float32(1), np.float32(2))]
    return tf.constant(x)


def pair(
    kernel_size: int,
    strides: int,
    dilation: int,
    padding: str = "same",
    options=UNCHANGED,
    pad_values: float = 0.0,
):
    """Our layer and larq's with the same latent kernel, partly beyond ±1."""
    ours = convolution(
        7,
        kernel_size,
        name="conv",
        strides=strides,
        dilation=dilation,
        input_scheme="sign-scale",
        kernel_scheme="sign-scale",
        options=options,
    )
    config = {**ours.get_config(), "padding": padding, "pad_values": pad_values}
    ours, larqs = BinaryConv2D.from_config(config), lq.layers.QuantConv2D.from_config(config)
    latent = np.random.default_rng(1).normal(0.0, 0.6, (kernel_size, kernel_size, 5, 7))
    for layer in (ours, larqs):
        layer.build((None, None, None, 5))
        layer.set_weights([latent])
    return ours, larqs


def results(layer: keras.layers.Layer, x: tf.Tensor, **training: bool) -> list[np.ndarray]:
    """Output, gradient of the input and of the latent kernel, for a random upstream gradient."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **training)
    upstream = tf.cast(pictures(*y.shape, seed=2), y.dtype)
    gradients = tape.gradient(y, (x, layer.trainable_weights[0]), upstream)
    assert {gradient.dtype for gradient in gradients} == {tf.float32}
    return [tf.cast(tensor, tf.float32).numpy() for tensor in (y, *gradients)]


@pytest.mark.parametrize(("padding", "pad_values"), [("same", 0.0), ("same", 1.0), ("valid", 0.0)])
@pytest.mark.parametrize("place", [*PLACES, POINTS])
def test_outputs_and_gradients_are_those_of_larqs_layer(place, padding, pad_values):
    ours, larqs = pair(*place, padding, pad_values=pad_values)
    assert ours.is_plain
    x = pictures(2, 12, 11, 5)
    for own, expected in zip(results(ours, x, training=True), results(larqs, x), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("place", [(3, 1, 1), (3, 1, 2)])
@pytest.mark.parametrize("gradient", ["ste", "approx", "annealed"])
def test_every_gradient_of_the_sign_is_that_of_larqs_layer(gradient, place):
    options = SchemeOptions(activation_gradient=gradient, activation_clip=1.5)
    ours, larqs = pair(*place, options=options)
    assert ours.is_plain
    if gradient == "annealed":
        for layer in (ours, larqs):
            layer.input_quantizer.control.progress.assign(0.6)
    x = pictures(2, 12, 11, 5)
    for own, expected in zip(results(ours, x, training=True), results(larqs, x), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    exact = results(ours, x, training=True)
    ours.compute = "bfloat16"
    for own, expected in zip(results(ours, x, training=True), exact, strict=True):
        assert np.linalg.norm(own - expected) < 2.0**-7 * np.linalg.norm(expected)


@pytest.mark.parametrize("training", [False, None])
def test_outside_training_it_is_larqs_layer_bit_by_bit(training):
    ours, larqs = pair(3, 1, 2)
    ours.compute = "bfloat16"
    x = pictures(2, 8, 8, 5)
    for own, expected in zip(results(ours, x, training=training), results(larqs, x), strict=True):
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("place", [*PLACES, POINTS])
def test_bfloat16_differs_by_its_rounding_only(place):
    """Outputs are exact sums of ±1, times a scale that is rounded to 8 bits, and rounded once more:
    together at most 2⁻⁷ off."""
    ours, _ = pair(*place)
    x = tf.cast(tf.cast(pictures(2, 12, 12, 5), tf.bfloat16), tf.float32)
    exact = results(ours, x, training=True)
    ours.compute = "bfloat16"
    rounded = results(ours, x, training=True)
    np.testing.assert_allclose(rounded[0], exact[0], rtol=2.0**-7, atol=0)
    for own, expected in zip(rounded[1:], exact[1:], strict=True):
        error = np.linalg.norm(own - expected) / np.linalg.norm(expected)
        assert error < 2.0**-7


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("activations", "kernels"), [("sign", "real"), ("tanh", "real"), ("relu", "binary")]
)
def test_real_operands_in_bfloat16_are_close_to_float32(activations, kernels, place):
    """Both operands are rounded to 8 bits, so each product is off by at most 2⁻⁸; on average, by
    far less."""
    settings = {"input_scheme": "sign-scale", "kernel_scheme": "sign-scale"}
    size, strides, dilation = place
    layer = convolution(
        7,
        size,
        name="conv",
        strides=strides,
        dilation=dilation,
        options=SchemeOptions(activations, kernels),
        **settings,
    )
    layer.build((None, None, None, 5))
    larqs = lq.layers.QuantConv2D.from_config(layer.get_config())
    larqs.build((None, None, None, 5))
    larqs.set_weights(layer.get_weights())
    x = pictures(2, 12, 11, 5)
    exact = results(larqs, x)
    for own, expected in zip(results(layer, x, training=True), exact, strict=True):
        np.testing.assert_array_equal(own, expected)
    layer.compute = "bfloat16"
    for own, expected in zip(results(layer, x, training=False), exact, strict=True):
        np.testing.assert_array_equal(own, expected)
    low = results(layer, x, training=True)
    for own, expected in zip(low, exact, strict=True):
        assert np.linalg.norm(own - expected) < 2.0**-7 * np.linalg.norm(expected)
    if kernels == "real":  # signs and kernels of a power of two would be exact
        assert not np.array_equal(low[0], exact[0])


def test_a_sum_of_zero_is_zero_and_a_relu_passes_no_gradient_there():
    """Two inputs of +1 with a kernel of +a and −a, for a scale that is no round number."""
    x = tf.ones([1, 4, 4, 2])
    kernel = tf.constant([0.3, -0.3], tf.float32)[None, None, :, None] * tf.ones([3, 3, 1, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.relu(binary_convolution(x, kernel))
    assert not y.numpy().any()
    assert not tape.gradient(y, x).numpy().any()


def test_a_kernel_of_zeros_still_learns():
    x, kernel = pictures(1, 4, 4, 2), tf.zeros([3, 3, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = binary_convolution(x, kernel)
    assert not y.numpy().any()
    assert tape.gradient(y, kernel).numpy().any()


@pytest.mark.parametrize(
    "change",
    [
        {"use_bias": True},
        {"activation": "relu"},
        {"groups": 5, "filters": 10},
        {"pad_values": -1.0},
        {"input_quantizer": "approx_sign"},
        {"kernel_quantizer": "magnitude_aware_sign"},
    ],
)
def test_what_larqs_layer_can_do_besides_is_left_to_it(change):
    ours, _ = pair(3, 1, 1)
    config = {**ours.get_config(), **change}
    layers = BinaryConv2D.from_config(config), lq.layers.QuantConv2D.from_config(config)
    x = pictures(1, 6, 6, 5)
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    assert not layers[0].is_plain
    np.testing.assert_array_equal(layers[0](x, training=True), layers[1](x))


def test_configuration_and_weights_are_larqs():
    ours, larqs = pair(5, 1, 2)
    assert ours.get_config() == larqs.get_config()
    again = keras.layers.deserialize(keras.layers.serialize(ours))
    assert type(again) is BinaryConv2D and again.get_config() == ours.get_config()
    assert [w.name for w in ours.weights] == [w.name for w in larqs.weights]


def test_without_kernels_for_dilated_gradients_larqs_layer_trains():
    """TensorFlow without oneDNN has none on CPUs."""
    code = (
        "import bnas_larq.layers.binary_convolution as b, sys; sys.path.insert(0, 'tests/layers');"
        "import test_binary_convolution as t; "
        "ours, larqs = t.pair(3, 1, 2); x = t.pictures(1, 6, 6, 5);"
        "print(b.has_dilated_gradients(), ours.is_plain, t.pair(3, 1, 1)[0].is_plain, "
        "all((a == c).all() for a, c in "
        "zip(t.results(ours, x, training=True), t.results(larqs, x))))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["False", "False", "True", "True"], done.stderr
