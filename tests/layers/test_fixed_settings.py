"""Arguments of layers work, or are refused: none is silently replaced by another value."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.activations import RealActivation
from bnas_larq.layers.batch_norm import BatchNorm2D, PlainBatchNormalization
from bnas_larq.layers.convolutions import SymmetricPooling2D, SymmetricQuantConv2D
from bnas_larq.layers.operations import FactorizedReduction
from bnas_larq.layers.prelu import PReLU2D, RPReLU
from bnas_larq.layers.residual_blocks import BlurPool2D

SHAPE = (2, 6, 6, 4)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def symmetric(**settings) -> keras.layers.Layer:
    return SymmetricQuantConv2D(4, 3, **settings)


def reduction(**settings) -> keras.layers.Layer:
    return FactorizedReduction(4, **settings)


@pytest.mark.parametrize(
    ("make", "settings", "received"),
    [
        (symmetric, {"padding": "same"}, "padding='same'"),
        (symmetric, {"padding": "valid"}, "padding='valid'"),
        (symmetric, {"pad_values": 1.0}, "pad_values=1.0"),
        (symmetric, {"data_format": "channels_first"}, "data_format='channels_first'"),
        (BlurPool2D, {"kernel_size": 5}, "kernel_size=5"),
        (BlurPool2D, {"strides": (1, 1)}, r"strides=\(1, 1\)"),
        (BlurPool2D, {"padding": "valid"}, "padding='valid'"),
        (BlurPool2D, {"use_bias": True}, "use_bias=True"),
        (BlurPool2D, {"depth_multiplier": 2}, "depth_multiplier=2"),
        (BlurPool2D, {"depthwise_initializer": "zeros"}, "depthwise_initializer='zeros'"),
        (reduction, {"strides": 1}, "strides=1"),
        (reduction, {"kernel_size": [3, 3]}, r"kernel_size=\[3, 3\]"),
        (reduction, {"dilation_rate": 2}, "dilation_rate=2"),
        (reduction, {"groups": 2}, "groups=2"),
        (PlainBatchNormalization, {"scale": True}, "scale=True"),
        (PlainBatchNormalization, {"axis": 1}, "axis=1"),
        (PlainBatchNormalization, {"synchronized": True}, "synchronized=True"),
    ],
)
def test_a_layer_refuses_what_it_determines_itself(make, settings, received):
    with pytest.raises(BnasLarqError, match=f"determines .*itself. Received: {received}. Omit it"):
        make(**settings)


def test_what_it_does_anyway_may_be_said():
    assert symmetric(padding="symmetric").compute_output_shape(SHAPE) == SHAPE
    assert BlurPool2D(kernel_size=(3, 3), strides=2, padding="same").strides == (2, 2)
    assert reduction(kernel_size=1, strides=[2, 2], groups=1).kernel_size == (1, 1)
    assert PlainBatchNormalization(scale=False, center=False, axis=-1).weights == []


@pytest.mark.parametrize(
    ("layer", "parent"),
    [
        (symmetric(strides=2, input_quantizer="ste_sign"), lq.layers.QuantConv2D),
        (BlurPool2D(activation="relu"), keras.layers.DepthwiseConv2D),
        (reduction(activation="relu"), lq.layers.QuantConv2D),
        (PlainBatchNormalization(epsilon=0.5), BatchNorm2D),
    ],
)
def test_layers_of_earlier_releases_load(layer, parent):
    """Their files hold the fixed settings, too."""
    images = tf.constant(numbers(*SHAPE))
    outputs = layer(images)
    earlier = parent.get_config(layer)
    assert set(layer.fixed) - {"synchronized"} <= set(earlier)
    for config in (earlier, layer.get_config()):
        again = type(layer).from_config(config)
        again.build(SHAPE)
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(again(images), outputs)
        assert again.get_config() == layer.get_config()


def test_a_blur_pool_applies_its_activation():
    images = tf.constant(numbers(*SHAPE))
    np.testing.assert_array_equal(
        BlurPool2D(activation="relu")(images), tf.nn.relu(BlurPool2D()(images))
    )


def test_a_factorised_reduction_applies_its_bias_and_activation():
    layer, images = reduction(activation="relu"), tf.constant(numbers(*SHAPE))
    plain = reduction(use_bias=False)
    plain.build(SHAPE), layer.build(SHAPE)
    kernel, bias = layer.get_weights()[0], numbers(4, seed=1)
    plain.set_weights([kernel]), layer.set_weights([kernel, bias])
    np.testing.assert_array_equal(layer(images), tf.nn.relu(plain(images) + bias))


@pytest.mark.parametrize("settings", [{"axis": 1}, {"synchronized": True}, {"fused": False}])
def test_batch_norm_along_another_axis_is_keras_layer(settings):
    images = tf.constant(numbers(*SHAPE))
    ours, theirs = BatchNorm2D(**settings), keras.layers.BatchNormalization(**settings)
    for training in (True, False):
        np.testing.assert_allclose(
            ours(images, training=training), theirs(images, training=training), rtol=1e-6
        )
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("kind", [PReLU2D, RPReLU])
@pytest.mark.parametrize("shared_axes", [None, [1, 2, 3]])
def test_slopes_may_be_shared_along_other_axes(kind, shared_axes):
    layer = kind(shared_axes=shared_axes, alpha_initializer="random_uniform")
    images = tf.constant(numbers(*SHAPE))
    with tf.GradientTape() as tape:
        outputs = layer(images, training=True)
    expected = tf.where(images > 0, images, layer.alpha * images)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    negative = images.numpy() * (images.numpy() <= 0)
    of_slopes = negative.sum(0) if shared_axes is None else negative.sum().reshape(1, 1, 1)
    gradient = tape.gradient(outputs, layer.alpha)
    np.testing.assert_allclose(gradient, of_slopes, rtol=1e-4, atol=1e-5)


def test_unknown_kinds_are_refused():
    with pytest.raises(BnasLarqError, match="'max' or 'avg'. Received: 'mean'"):
        SymmetricPooling2D("mean")
    with pytest.raises(BnasLarqError, match="'leaky_clip'; did you mean 'leaky-clip'"):
        RealActivation("leaky_clip")
