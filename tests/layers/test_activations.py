"""The sign's gradients and the real functions in its place, against their formulas in NumPy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.activations import (
    AnnealedSign,
    AnnealingControl,
    BoundedApproxSign,
    RealActivation,
    SchemeOptions,
)
from bnas_larq.layers.convolutions import convolution, depthwise
from bnas_larq.layers.quantizers import get_scheme, scheme_names

X = np.array([-3.0, -2.0, -1.0, -0.25, 0.0, 0.5, 1.0, 1.5, 2.0, 4.0], np.float32)
SIGNS = [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1]
REAL = ("relu", "leaky-clip", "clip", "tanh")


def value_and_slope(function, x=X):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x).numpy()


# -- the sign --------------------------------------------------------------------------------------


def test_approximate_gradient_is_larqs_when_it_is_as_wide():
    ours, theirs = map(value_and_slope, (BoundedApproxSign(), lq.quantizers.ApproxSign()))
    np.testing.assert_array_equal(ours, theirs)


def test_approximate_gradient_twice_as_wide():
    values, slopes = value_and_slope(BoundedApproxSign(2.0))
    np.testing.assert_array_equal(values, SIGNS)
    np.testing.assert_allclose(
        slopes,
        [0, 0, 2 - 2 * 1 / 2, 2 - 2 * 0.25 / 2, 2, 2 - 2 * 0.5 / 2, 1, 2 - 2 * 1.5 / 2, 0, 0],
    )


@pytest.mark.parametrize("bound", [1.0, 2.0])
@pytest.mark.parametrize(("progress", "t"), [(0.0, 0.1), (0.25, 10**-0.5), (0.5, 1.0), (1.0, 10.0)])
def test_annealed_gradient_is_that_of_k_tanh_tx(progress, t, bound):
    """IR-Net: t from 0.1 to 10, k = max(1/t, 1)."""
    control = AnnealingControl()
    quantizer = AnnealedSign(bound, control)
    value_and_slope(quantizer)
    control.progress.assign(progress)
    values, slopes = value_and_slope(quantizer)
    np.testing.assert_array_equal(values, SIGNS)
    k = max(1 / t, 1.0)
    np.testing.assert_allclose(slopes, k * t / np.cosh(t * X / bound) ** 2, rtol=1e-4, atol=1e-6)


def test_signs_of_one_model_share_their_progress():
    options = SchemeOptions(activation_gradient="annealed", annealing=AnnealingControl())
    first, second = options.activation(), options.activation()
    assert first is not second and first.control is second.control
    assert not first.weights


# -- real functions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "slopes"),
    [
        ("relu", np.maximum(X, 0), X > 0),
        ("tanh", np.tanh(X), 1 / np.cosh(X) ** 2),
        ("clip", np.clip(X, -1.5, 1.5), np.abs(X) <= 1.5),
        (
            "leaky-clip",
            [-1.5 - 0.1 * 1.5, -1.5 - 0.1 * 0.5, *X[2:8], 1.5 + 0.1 * 0.5, 1.5 + 0.1 * 2.5],
            np.where(np.abs(X) <= 1.5, 1.0, 0.1),
        ),
    ],
)
def test_real_functions_with_bound_1_5(kind, values, slopes):
    own = value_and_slope(RealActivation(kind, 1.5))
    np.testing.assert_allclose(own[0], values, rtol=1e-6)
    np.testing.assert_allclose(own[1], slopes, rtol=1e-3)


@pytest.mark.parametrize(
    "made", [BoundedApproxSign(2.0), AnnealedSign(3.0), *(RealActivation(k, 0.5) for k in REAL)]
)
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()
    np.testing.assert_array_equal(again(X), made(X))


# -- options of schemes ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", scheme_names())
def test_default_options_leave_a_scheme_as_it_is(name):
    assert get_scheme(name, SchemeOptions()) is get_scheme(name)


@pytest.mark.parametrize("kernels", ["binary", "real"])
@pytest.mark.parametrize("activations", ["sign", *REAL])
@pytest.mark.parametrize("name", [name for name in scheme_names() if name != "full-precision"])
def test_weights_fit_whatever_the_options(name, activations, kernels):
    """Names and shapes, trainable or not, of an ordinary and a depthwise convolution."""

    def described(options: SchemeOptions):
        settings = {"name": "conv", "input_scheme": name, "kernel_scheme": name, "options": options}
        layers = convolution(4, 3, **settings), depthwise(5, 3, **settings)
        for layer in layers:
            layer.build((None, 8, 8, 5))
            weight = layer.weights[0]
            if getattr(weight, "quantizer", None) and not weight.quantizer.built:
                weight.quantizer.build(weight.shape)
        return layers, [[(w.name, w.shape) for w in layer.weights] for layer in layers]

    layers, weights = described(SchemeOptions(activations, kernels))
    assert weights == described(SchemeOptions())[1]
    for layer, part in zip(layers, ("kernel", "depthwise"), strict=True):
        is_sign = type(layer.input_quantizer) is type(get_scheme(name).input_quantizer())
        assert is_sign == (activations == "sign")
        kernel = layer.weights[0]
        with lq.context.quantized_scope(True):
            used = tf.convert_to_tensor(kernel).numpy()
        latent = layer.get_weights()[0]
        assert np.array_equal(used, latent) == (kernels == "real")
        if kernels == "real":
            assert getattr(layer, f"{part}_constraint") is None
            assert getattr(layer, f"{part}_regularizer") is None
            assert len(layer.trainable_weights) == 1


def test_the_stages_of_real_to_binary_train():
    """A real tanh network, binary activations, both binary: one weight fits all, and learns."""
    x = tf.random.stateless_normal([4, 6, 6, 3], [0, 1])
    weights = None
    for options in (SchemeOptions("tanh", "real"), SchemeOptions(kernels="real"), SchemeOptions()):
        layer = convolution(
            2, 3, name="c", input_scheme="pcnn", kernel_scheme="pcnn", options=options
        )
        layer(x)  # makes the projection
        if weights:
            layer.set_weights(weights)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        gradients = tape.gradient(loss, layer.trainable_weights)
        assert all(gradient.numpy().any() for gradient in gradients)
        weights = layer.get_weights()


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"activations": "thanh"}, "'thanh'; did you mean 'tanh'"),
        ({"kernels": "float"}, "'float'"),
        ({"activation_gradient": "anneal"}, "'anneal'; did you mean 'annealed'"),
        ({"activation_clip": 0.0}, "activation_clip=0.0"),
        ({"activation_clip": float("nan")}, "activation_clip=nan"),
        ({"activation_clip": float("inf")}, "activation_clip=inf"),
    ],
)
def test_unknown_options_are_refused(options, received):
    with pytest.raises(BnasLarqError, match=f"Received: {received}"):
        SchemeOptions(**options)


def test_a_scheme_that_binarises_nothing_has_no_options():
    with pytest.raises(BnasLarqError, match="binarises nothing.*Received: .*'tanh'"):
        get_scheme("full-precision", SchemeOptions(activations="tanh"))
