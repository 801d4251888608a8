"""Binarisation: values and gradients against NumPy loops that follow the papers line by line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.constraints import CenterClip, centre_and_clip
from bnas_larq.layers.quantizers import (
    DepthwiseQuantizer,
    Scheme,
    SignScale,
    get_scheme,
    register_scheme,
    scheme_names,
    sign_scale,
)

SHAPES = [(3, 3, 4, 5), (5, 5, 2, 3), (1, 1, 6, 2), (7, 4)]


def latent_kernel(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A kernel with entries on both sides of ±1, and one exact zero."""
    kernel = np.random.default_rng(seed).normal(0.0, 0.8, shape).astype(np.float32)
    kernel.reshape(-1)[0] = 0.0
    assert np.abs(kernel).max() > 1.0 > np.abs(kernel).min()
    return kernel


def sign(x: np.ndarray) -> np.ndarray:
    """sign with sign(0) = +1, as in larq."""
    return np.where(x >= 0, 1.0, -1.0)


def sign_scale_by_hand(kernel: np.ndarray) -> np.ndarray:
    result = np.empty_like(kernel, np.float64)
    for channel in range(kernel.shape[-1]):
        latent = kernel[..., channel].astype(np.float64)
        result[..., channel] = sign(latent) * np.sum(np.abs(latent)) / latent.size
    return result


def gradient_by_hand(kernel: np.ndarray, upstream: np.ndarray, gradient: str) -> np.ndarray:
    """What a latent kernel receives, entry by entry (`updateBinaryGradWeight` of XNOR-Net)."""
    result = np.empty_like(kernel, np.float64)
    inputs = kernel.shape[-2]
    for channel in range(kernel.shape[-1]):
        latent = kernel[..., channel].astype(np.float64).ravel()
        received = upstream[..., channel].astype(np.float64).ravel()
        fan_in = latent.size
        scale = np.abs(latent).mean()
        through_scale = sum(g * s for g, s in zip(received, sign(latent), strict=True)) / fan_in
        column = np.empty(fan_in)
        for place in range(fan_in):
            value = scale * received[place] if abs(latent[place]) <= 1.0 else 0.0
            if gradient == "xnor":
                value += through_scale * sign(latent[place])
                value *= fan_in * (1.0 - 1.0 / inputs)
            column[place] = value
        result[..., channel] = column.reshape(kernel.shape[:-1])
    return result


def value_and_gradient(function, kernel: np.ndarray, upstream: np.ndarray):
    with tf.GradientTape() as tape:
        latent = tf.constant(kernel)
        tape.watch(latent)
        outputs = function(latent)
    return outputs.numpy(), tape.gradient(outputs, latent, tf.constant(upstream)).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", ["xnor", "plain"])
def test_sign_scale_equals_the_formula(shape, gradient):
    kernel = latent_kernel(shape)
    upstream = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    outputs, received = value_and_gradient(lambda k: sign_scale(k, gradient), kernel, upstream)
    np.testing.assert_allclose(outputs, sign_scale_by_hand(kernel), rtol=1e-5)
    by_hand = gradient_by_hand(kernel, upstream, gradient)
    np.testing.assert_allclose(received, by_hand, rtol=1e-4, atol=1e-5 * np.abs(by_hand).max())


def test_xnor_gradient_of_one_channel_in_plain_numbers():
    # W = (3/4, −1/4): a = 1/2, n = 2, C_in = 2, factor n·(1 − 1/C_in) = 1; g = (1, 2):
    # Σ(g·sign W)/n = (1 − 2)/2 = −1/2.
    kernel = np.array([[0.75], [-0.25]], np.float32)
    upstream = np.array([[1.0], [2.0]], np.float32)
    outputs, received = value_and_gradient(sign_scale, kernel, upstream)
    np.testing.assert_array_equal(outputs, [[0.5], [-0.5]])
    np.testing.assert_array_equal(received, [[0.5 * 1 - 0.5], [0.5 * 2 + 0.5]])


def test_plain_gradient_is_larqs_magnitude_aware_sign():
    kernel, upstream = latent_kernel((3, 3, 4, 5)), latent_kernel((3, 3, 4, 5), seed=2)
    ours = value_and_gradient(lambda k: sign_scale(k, "plain"), kernel, upstream)
    theirs = value_and_gradient(lq.quantizers.MagnitudeAwareSign(), kernel, upstream)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_xnor_gradient_is_the_derivative_of_its_own_formula():
    """Without the straight-through part and the factor, what remains is the derivative of the
    scale: a numerical difference of Σ upstream·sign(W)·mean|W| at fixed signs."""
    kernel = np.random.default_rng(3).uniform(0.1, 0.9, (3, 3, 2, 2)).astype(np.float32)
    kernel *= sign(np.random.default_rng(4).normal(size=kernel.shape)).astype(np.float32)
    upstream = np.random.default_rng(5).normal(size=kernel.shape).astype(np.float32)
    _, received = value_and_gradient(sign_scale, kernel, upstream)
    scale = np.abs(kernel).mean((0, 1, 2))
    factor = 3 * 3 * 2 * (1 - 1 / 2)
    rest = received / factor - scale * upstream
    step, where = 1e-3, (1, 2, 0, 1)
    moved = kernel.astype(np.float64)
    moved[where] += step
    difference = np.sum(upstream * (sign_scale_by_hand(moved) - sign_scale_by_hand(kernel))) / step
    assert rest[where] == pytest.approx(difference, rel=1e-3)


def test_centring_and_clamping():
    kernel = latent_kernel((3, 3, 4, 2)) * 2
    result = centre_and_clip(tf.constant(kernel)).numpy()
    for row, column, channel in np.ndindex(3, 3, 2):
        values = kernel[row, column, :, channel]
        expected = np.clip(values - values.mean(), -1.0, 1.0)
        np.testing.assert_allclose(result[row, column, :, channel], expected, atol=1e-6)
    assert np.abs(result).max() == 1.0
    np.testing.assert_array_equal(CenterClip()(tf.constant(kernel)).numpy(), result)
    assert np.abs(CenterClip(0.5)(tf.constant(kernel)).numpy()).max() == 0.5


@pytest.mark.parametrize("gradient", ["xnor", "plain"])
def test_quantizer_binarises_the_centred_kernel_and_passes_the_gradient_to_the_latent_one(gradient):
    kernel = latent_kernel((3, 3, 4, 5)) + 0.3
    upstream = np.random.default_rng(6).normal(size=kernel.shape).astype(np.float32)
    centred = centre_and_clip(tf.constant(kernel)).numpy()
    outputs, received = value_and_gradient(SignScale(gradient), kernel, upstream)
    np.testing.assert_allclose(outputs, sign_scale_by_hand(centred), rtol=1e-5)
    # The latent weight is changed in place by the papers' programs: no derivative of the centring.
    by_hand = gradient_by_hand(centred, upstream, gradient)
    np.testing.assert_allclose(received, by_hand, rtol=1e-4, atol=1e-5 * np.abs(by_hand).max())


def test_the_gradient_of_clamped_weights_passes_whatever_they_were():
    """Centred −1.4 and −5 are 1.8 and −1.8, clamped to exactly ±1."""
    kernel, upstream = (np.array(values, np.float32) for values in ([[-1.4], [-5]], [[2], [3]]))
    outputs, received = value_and_gradient(SignScale("plain"), kernel, upstream)
    assert outputs.tolist() == [[1], [-1]]
    assert received.tolist() == [[2], [3]]


def test_quantizer_without_centring():
    """XNOR-Net's kernel. The factor 1 − 1/in is the derivative of the centring, so it goes too."""
    kernel = latent_kernel((3, 3, 4, 5)) + 0.3
    upstream = np.random.default_rng(6).normal(size=kernel.shape).astype(np.float32)
    quantizer = get_scheme("xnor").kernel_quantizer()
    outputs, received = value_and_gradient(quantizer, kernel, upstream)
    np.testing.assert_allclose(outputs, sign_scale_by_hand(kernel), rtol=1e-5)
    by_hand = gradient_by_hand(kernel, upstream, "xnor") / (1 - 1 / 4)
    np.testing.assert_allclose(received, by_hand, rtol=1e-4, atol=1e-5 * np.abs(by_hand).max())


@pytest.mark.parametrize("gradient", ["xnor", "plain"])
def test_edges_of_one_fused_convolution_do_not_mix(gradient):
    """Scale, centring and gradient belong to one output channel, so kernels side by side are
    quantised as if each were alone: what lets the supernet fuse its edges."""
    kernels = [latent_kernel((3, 3, 4, 2), seed) for seed in (7, 8, 9)]
    upstream = [latent_kernel((3, 3, 4, 2), seed) for seed in (10, 11, 12)]
    quantizer = SignScale(gradient)
    alone = [value_and_gradient(quantizer, k, u) for k, u in zip(kernels, upstream, strict=True)]
    together = value_and_gradient(
        quantizer, np.concatenate(kernels, -1), np.concatenate(upstream, -1)
    )
    for which in (0, 1):
        joined = np.concatenate([pair[which] for pair in alone], -1)
        np.testing.assert_allclose(together[which], joined, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", scheme_names())
def test_every_scheme_trains_and_survives_its_config(name):
    scheme = get_scheme(name)

    def convolution() -> keras.layers.Layer:
        return lq.layers.QuantConv2D(
            3,
            3,
            input_quantizer=scheme.input_quantizer(),
            use_bias=False,
            **scheme.kernel_settings(),
        )

    inputs = tf.random.stateless_normal([2, 6, 6, 4], [0, 1])
    model = keras.Sequential([keras.Input((6, 6, 4)), convolution()])
    first = model(inputs).numpy()
    config = json.loads(json.dumps(model.get_config()))
    clone = keras.Sequential.from_config(config)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(inputs).numpy(), first)

    layer = model.layers[0]
    if name == "full-precision":
        assert layer.input_quantizer is layer.kernel_quantizer is layer.kernel_constraint is None
        return
    assert layer.input_quantizer.precision == layer.kernel_quantizer.precision == 1
    # Layers own their quantizers: a shared one would be tracked by both.
    assert scheme.kernel_quantizer() is not scheme.kernel_quantizer()
    with lq.context.quantized_scope(True):
        binary = tf.convert_to_tensor(layer.kernel).numpy()
    for channel in range(3):
        assert len(np.unique(np.abs(binary[..., channel]))) == 1

    before = layer.get_weights()[0]
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.train_on_batch(inputs, first + 1.0)
    after = layer.get_weights()[0]
    assert not np.array_equal(before, after)
    # The constraint has acted.
    if name.startswith("sign-scale"):
        np.testing.assert_allclose(after.mean(axis=2), 0.0, atol=1e-6)
    assert np.abs(after).max() <= 1.0


@pytest.mark.parametrize(
    "made",
    [
        SignScale("plain", centre=False),
        SignScale(),
        DepthwiseQuantizer(SignScale("plain")),
        DepthwiseQuantizer(lq.quantizers.SteSign()),
        CenterClip(0.7),
        CenterClip(depthwise=True),
    ],
)
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()
    assert config["registered_name"].startswith("bnas_larq>")


def test_a_users_scheme_joins_by_name():
    scheme = Scheme(
        input_quantizer=lq.quantizers.ApproxSign,
        kernel_quantizer=lq.quantizers.SteSign,
        kernel_constraint=lq.constraints.WeightClip,
    )
    register_scheme("test-approx", scheme)
    assert get_scheme("test-approx") is scheme and "test-approx" in scheme_names()


def test_unknown_names_are_refused_with_the_nearest_known_one():
    with pytest.raises(BnasLarqError, match=r"Received: 'sign-scal'; did you mean 'sign-scale'"):
        get_scheme("sign-scal")
    with pytest.raises(BnasLarqError, match=r"Received: 'xnr'; did you mean 'xnor'"):
        SignScale("xnr")
