"""DARTS' separable convolutions, binary: what their layers compute, and which schemes kill them."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.layers.constraints import CenterClip
from bnas_larq.layers.operations import Context, build_operation, chain
from bnas_larq.layers.quantizers import DepthwiseQuantizer, SignScale, get_scheme
from bnas_larq.networks.network import build_network

#: Operation → kernel size, dilation, number of depthwise and pointwise pairs.
SEPARABLE = {
    "bin_sep_conv_3x3": (3, 1, 2),
    "bin_sep_conv_5x5": (5, 1, 2),
    "bin_dil_sep_conv_3x3": (3, 2, 1),
    "bin_dil_sep_conv_5x5": (5, 2, 1),
}


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sign(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1.0, -1.0)


def depthwise_by_hand(x, kernel, strides, dilation):
    """Every channel with its own [h, w] of the kernel; zeros on both sides, as PyTorch pads."""
    size = kernel.shape[0]
    margin = dilation * (size - 1) // 2
    padded = np.pad(x.astype(np.float64), [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    rows, columns = (-(-side // strides) for side in x.shape[1:3])
    result = np.zeros((len(x), rows, columns, x.shape[-1]))
    for i, j, k, m in np.ndindex(rows, columns, size, size):
        pixel = padded[:, i * strides + k * dilation, j * strides + m * dilation]
        result[:, i, j] += pixel * kernel[k, m, :, 0]
    return result


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("supernet", [True, False], ids=["supernet", "final"])
def test_each_convolution_has_batch_norm_and_sign_in_front_and_relu_behind_each_pair(
    name, supernet
):
    kernel_size, dilation, pairs = SEPARABLE[name]
    place = Context("place", 3, supernet=supernet, shared={} if supernet else None)
    inputs = keras.Input((7, 7, 3))
    model = keras.Model(inputs, chain(build_operation(name, place), inputs))
    x = image(2, 7, 7, 3)
    kernels = [tuple(weight.shape) for weight in model.weights if "kernel" in weight.name]
    assert kernels == [(kernel_size, kernel_size, 3, 1), (1, 1, 3, 3)] * pairs
    # No sum of ±a equals these means, so that no sign depends on rounding.
    means = {w.name: image(3, seed=n) for n, w in enumerate(model.weights) if "mean" in w.name}
    for weight in model.weights:
        if weight.name in means:
            weight.assign(means[weight.name])
    means, by_hand = iter(means.values()), x
    values = [w.numpy() for w in model.weights if "kernel" in w.name]
    for depthwise, pointwise in zip(values[::2], values[1::2], strict=True):
        scale = np.abs(depthwise).mean((0, 1))[..., 0]  # one for each channel
        binary = sign(depthwise) * scale[:, None]
        by_hand = depthwise_by_hand(sign(by_hand - next(means)), binary, 1, dilation)
        centred = pointwise - pointwise.mean(2, keepdims=True)
        binary = (sign(centred) * np.abs(centred).mean((0, 1, 2)))[0, 0]
        by_hand = np.maximum(sign(by_hand - next(means)) @ binary, 0.0)
    np.testing.assert_allclose(model(x), by_hand, atol=1e-5)
    assert next(means, None) is None


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("side", [8, 7])
def test_strided_depthwise_convolution_equals_brute_force(padding, kernel_size, dilation, side):
    place = Context("place", 3, 2, padding, full_precision=("*",))
    inputs = keras.Input((side, side, 3))
    model = keras.Model(inputs, chain(place.binary_depthwise(kernel_size, dilation), inputs))
    x = image(2, side, side, 3)
    outputs, kernel = model(x), model.get_weights()[0]
    assert outputs.shape == (2, -(-side // 2), -(-side // 2), 3)
    if padding == "same" and dilation == 1 and side % 2 == 0:
        # SAME pads an even size at the end: the same windows, one pixel later.
        kernel_reach = kernel_size // 2
        by_hand = depthwise_by_hand(sign(x)[:, 1:, 1:], kernel, 2, 1)
        inside = slice(kernel_reach, -kernel_reach)
        outputs, by_hand = outputs[:, inside, inside], by_hand[:, inside, inside]
    else:
        by_hand = depthwise_by_hand(sign(x), kernel, 2, dilation)
    np.testing.assert_allclose(outputs, by_hand, atol=1e-5)


def quantised(quantizer: DepthwiseQuantizer, kernel: np.ndarray, upstream: np.ndarray):
    latent = tf.constant(kernel)
    with tf.GradientTape() as tape:
        tape.watch(latent)
        outputs = quantizer(latent)
    return outputs.numpy(), tape.gradient(outputs, latent, tf.constant(upstream)).numpy()


@pytest.mark.parametrize("gradient", ["xnor", "plain"])
def test_a_depthwise_kernel_is_quantised_filter_by_filter(gradient):
    """As [3, 3, 1, 8] of an ordinary convolution, whose filters read one channel each."""
    kernel, upstream = image(3, 3, 4, 2), image(3, 3, 4, 2, seed=1)
    ours = quantised(DepthwiseQuantizer(SignScale(gradient, centre=False)), kernel, upstream)
    alone = quantised(
        SignScale(gradient, centre=False),
        kernel.reshape(3, 3, 1, 8),
        upstream.reshape(3, 3, 1, 8),
    )
    for one, other in zip(ours, alone, strict=True):
        np.testing.assert_allclose(one, other.reshape(3, 3, 4, 2), rtol=1e-6)
    np.testing.assert_allclose(ours[0], sign(kernel) * np.abs(kernel).mean((0, 1)), rtol=1e-6)
    assert DepthwiseQuantizer(SignScale()).scales(kernel.shape) == 4 * 2


def test_gradient_of_one_filter_in_plain_numbers():
    # W = (3/4, −1/4): a = 1/2, n = 2, no centring: factor n = 2; g = (1, 2):
    # Σ(g·sign W)/n = (1 − 2)/2 = −1/2.
    kernel = np.array([0.75, -0.25], np.float32).reshape(2, 1, 1, 1)
    upstream = np.array([1.0, 2.0], np.float32).reshape(2, 1, 1, 1)
    quantizer = DepthwiseQuantizer(SignScale(centre=False))
    outputs, received = quantised(quantizer, kernel, upstream)
    np.testing.assert_array_equal(outputs.ravel(), [0.5, -0.5])
    np.testing.assert_array_equal(received.ravel(), [2 * (0.5 * 1 - 0.5), 2 * (0.5 * 2 + 0.5)])


def test_a_centred_depthwise_kernel_is_exactly_zero_and_stays_so():
    """A number minus its own mean: why the published binarisation fails on separable layers."""
    kernel, upstream = image(3, 3, 4, 1), image(3, 3, 4, 1, seed=1)
    outputs, received = quantised(DepthwiseQuantizer(SignScale()), kernel, upstream)
    assert not outputs.any() and not received.any()
    assert not CenterClip(depthwise=True)(tf.constant(kernel)).numpy().any()


def separable_network(scheme: str, **settings) -> keras.Model:
    cell = [[Edge("bin_sep_conv_3x3", 0), Edge("bin_dil_sep_conv_3x3", 1)]]
    settings = {"input_shape": (8, 8, 3), "num_classes": 3, "channels": 4, "cells": 1, **settings}
    return build_network(Genotype(cell, cell), scheme=scheme, shortcut=False, **settings)


@pytest.mark.parametrize("scheme", ["sign-scale", "sign-scale-centred", "xnor", "full-precision"])
def test_only_the_published_scheme_makes_a_network_blind(scheme):
    """Exactly zeros behind each depthwise convolution, and the same logits for all images."""
    model = separable_network(scheme)
    x = image(4, 8, 8, 3)
    depthwise = [
        layer for layer in model.layers if "depthwise" in layer.name + type(layer).__name__
    ]
    sums = [layer for layer in depthwise if isinstance(layer, lq.layers.QuantDepthwiseConv2D)]
    assert len(sums) == 3
    inside = keras.Model(model.input, [layer.output for layer in sums])
    blind = scheme == "sign-scale-centred"
    for outputs in inside(x, training=True):
        assert np.any(outputs) != blind
    logits = model(x, training=True).numpy()
    assert np.all(logits == logits[0]) == blind
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x, training=True) * image(4, 3, seed=1))
    kernels = [layer.depthwise_kernel for layer in sums]
    for gradient in tape.gradient(loss, kernels):
        assert np.any(gradient) != blind


def test_the_full_precision_twin_has_the_same_layers_without_quantizers():
    binary, full = separable_network("sign-scale"), separable_network("full-precision")
    assert [layer.name for layer in binary.layers] == [layer.name for layer in full.layers]
    shapes = [[tuple(w.shape) for w in model.weights] for model in (binary, full)]
    assert shapes[0] == shapes[1]
    for layer in full.layers:
        assert getattr(layer, "input_quantizer", None) is None
        assert getattr(layer, "kernel_quantizer", None) is None
        assert getattr(layer, "depthwise_quantizer", None) is None
        assert getattr(layer, "depthwise_constraint", None) is None
    x = image(2, 8, 8, 3)
    again = keras.Model.from_config(full.get_config())
    again.set_weights(full.get_weights())
    np.testing.assert_array_equal(again(x), full(x))


def test_full_precision_in_the_supernet_has_no_sign():
    place = Context("place", 4, supernet=True, scheme="full-precision", shared={})
    for name in ("bin_conv_3x3", "bin_dil_conv_5x5_linear", *SEPARABLE):
        layers = build_operation(name, place)
        assert not any(isinstance(layer, keras.layers.Activation) for layer in layers)
        quantisers = [getattr(layer, "kernel_quantizer", None) for layer in layers]
        assert quantisers == [None] * len(layers)


def test_depthwise_kernels_begin_as_large_as_their_fan_in_says():
    (layer,) = Context("place", 32).binary_depthwise(3)
    layer.build((None, 8, 8, 32))
    bound = 1 / np.sqrt(3 * 3)
    kernel = layer.get_weights()[0]
    assert 0.9 * bound < np.abs(kernel).max() <= bound


def test_a_scheme_may_say_nothing_of_depthwise_kernels(monkeypatch):
    from bnas_larq.layers import quantizers

    monkeypatch.setattr(quantizers, "_SCHEMES", dict(quantizers._SCHEMES))
    sign_only = quantizers.Scheme(
        lq.quantizers.SteSign, lq.quantizers.SteSign, lq.constraints.WeightClip
    )
    quantizers.register_scheme("test-sign", sign_only)
    settings = get_scheme("test-sign").depthwise_settings()
    quantizer = settings["depthwise_quantizer"]
    assert isinstance(quantizer.quantizer, lq.quantizers.SteSign) and quantizer.precision == 1
    assert quantizer.scales((3, 3, 4, 1)) == 0
    assert isinstance(settings["depthwise_constraint"], lq.constraints.WeightClip)
