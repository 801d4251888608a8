"""Scales and thresholds around binary convolutions, against sums written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.scaling import ChannelShift, InputScale, LearnedScale, gate


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "shapes"),
    [
        (1, {"scale": (5,)}),
        (2, {"scale_hwc": (2, 3, 5)}),
        (3, {"scale_c": (5,), "scale_hw": (2, 3, 1)}),
        (4, {"scale_c": (5,), "scale_h": (2, 1, 1), "scale_w": (1, 3, 1)}),
    ],
)
def test_learned_scales_are_products(case, shapes):
    layer, images = LearnedScale(case), numbers(4, 2, 3, 5)
    np.testing.assert_array_equal(layer(images), images)
    names = [w.name.rpartition("/")[2].partition(":")[0] for w in layer.weights]
    assert dict(zip(names, (tuple(w.shape) for w in layer.weights), strict=True)) == shapes
    weights = [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes.values())]
    layer.set_weights(weights)
    expected = images.copy()
    for weight in weights:
        expected = expected * weight
    np.testing.assert_allclose(layer(images), expected, rtol=1e-6)


def test_scales_of_pixels_need_a_size():
    with pytest.raises(BnasLarqError, match=r"known size. Received: \(None, None, 3, 5\)"):
        LearnedScale(3)(keras.Input((None, 3, 5)))
    with pytest.raises(BnasLarqError, match="Received: case=5"):
        LearnedScale(5)


@pytest.mark.parametrize(
    ("size", "strides", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (3, 1, 2), (1, 2, 1)]
)
def test_input_scale_is_the_mean_magnitude_of_each_window(size, strides, dilation):
    images = numbers(2, 6, 6, 4)
    scale = InputScale(size, strides, dilation)(images).numpy()
    reach = dilation * (size - 1)
    # SAME pads the end first.
    total = max((-(-6 // strides) - 1) * strides + reach + 1 - 6, 0)
    before = total // 2
    padded = np.pad(np.abs(images).mean(-1), [(0, 0), (before, reach), (before, reach)])
    rows = range(0, 6, strides)
    expected = [
        [
            padded[:, row : row + reach + 1 : dilation, column : column + reach + 1 : dilation].sum(
                (1, 2)
            )
            / size**2
            for column in rows
        ]
        for row in rows
    ]
    np.testing.assert_allclose(scale[..., 0], np.transpose(expected, (2, 0, 1)), rtol=1e-5)


def test_a_threshold_moves_against_the_gradient_of_its_input():
    layer, images = ChannelShift(), tf.constant(numbers(2, 3, 3, 4))
    upstream = numbers(2, 3, 3, 4, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(layer(images) * upstream)
    of_images, of_threshold = tape.gradient(loss, [images, layer.threshold])
    np.testing.assert_array_equal(of_images, upstream)
    np.testing.assert_allclose(of_threshold, -upstream.sum((0, 1, 2)), rtol=1e-5)
    layer.threshold.assign([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(layer(images), images - [1.0, 2.0, 3.0, 4.0], rtol=1e-6)


def test_a_gate_reads_means():
    pool, squeeze, excite = gate("gate", 16)
    images = numbers(2, 3, 3, 8)
    outputs = excite(squeeze(pool(images))).numpy()
    hidden = np.maximum(images.mean((1, 2)) @ squeeze.kernel.numpy()[0, 0], 0.0)
    logits = hidden @ excite.kernel.numpy()[0, 0]
    assert hidden.shape == (2, 16 // 8)
    np.testing.assert_allclose(outputs[:, 0, 0], 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize(
    "layer", [LearnedScale(4), InputScale(3, 2), ChannelShift()], ids=lambda layer: layer.name
)
def test_bfloat16_keeps_its_type(layer):
    images = tf.cast(numbers(1, 4, 4, 3), tf.bfloat16)
    assert layer(images).dtype == tf.bfloat16
