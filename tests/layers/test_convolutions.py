"""Convolutions and pools in both paddings against NumPy loops."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.batch_norm import batch_norm
from bnas_larq.layers.convolutions import (
    SymmetricPooling2D,
    SymmetricQuantConv2D,
    Zeroise,
    convolution,
    initializer,
    pooling,
)

SIZES = [(8, 8), (7, 7), (8, 5), (1, 2)]


def image(size: tuple[int, int], channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, *size, channels)).astype(np.float32)


def padded(x: np.ndarray, margin: int, value: float = 0.0) -> np.ndarray:
    edges = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    return np.pad(x.astype(np.float64), edges, constant_values=value)


def windows(x: np.ndarray, kernel: int, strides: int, dilation: int):
    """(row, column, window) at every place of PyTorch's output, ⌊(size − reach)/strides⌋ + 1."""
    reach = dilation * (kernel - 1) + 1
    for row in range((x.shape[1] - reach) // strides + 1):
        for column in range((x.shape[2] - reach) // strides + 1):
            top, left = row * strides, column * strides
            yield row, column, x[:, top : top + reach : dilation, left : left + reach : dilation]


def convolve_by_hand(x, kernel, strides, dilation, margin):
    size, results = kernel.shape[0], {}
    for row, column, window in windows(padded(x, margin), size, strides, dilation):
        results[row, column] = np.einsum("nhwi,hwio->no", window, kernel.astype(np.float64))
    rows, columns = (1 + max(place[axis] for place in results) for axis in (0, 1))
    grid = [[results[row, column] for column in range(columns)] for row in range(rows)]
    return np.array(grid).transpose(2, 0, 1, 3)


def pool_by_hand(x, kind, strides):
    outside = -np.inf if kind == "max" else np.nan
    reduce = np.max if kind == "max" else np.nanmean  # the average leaves the padding out
    results = {
        (row, column): reduce(window, axis=(1, 2))
        for row, column, window in windows(padded(x, 1, outside), 3, strides, 1)
    }
    rows, columns = (1 + max(place[axis] for place in results) for axis in (0, 1))
    grid = [[results[row, column] for column in range(columns)] for row in range(rows)]
    return np.array(grid).transpose(2, 0, 1, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kernel_size", "strides", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (5, 1, 2), (1, 2, 1)]
)
def test_symmetric_convolution_equals_pytorchs(size, kernel_size, strides, dilation):
    layer = SymmetricQuantConv2D(
        4, kernel_size, strides=strides, dilation_rate=dilation, use_bias=False
    )
    x = image(size)
    outputs = layer(x)
    margin = dilation * (kernel_size - 1) // 2
    by_hand = convolve_by_hand(x, layer.get_weights()[0], strides, dilation, margin)
    np.testing.assert_allclose(outputs, by_hand, atol=1e-5)
    assert outputs.shape[1:3] == tuple(-(-side // strides) for side in size)
    assert layer.compute_output_shape(x.shape).as_list() == outputs.shape.as_list()


@pytest.mark.parametrize("size", SIZES)
def test_padding_stands_behind_the_sign(size):
    """Padded pixels count as 0, not as sign(0) = +1."""
    layer = SymmetricQuantConv2D(4, 3, strides=2, input_quantizer="ste_sign", use_bias=False)
    x = image(size)
    outputs = layer(x)
    signs = np.where(x >= 0, 1.0, -1.0)
    by_hand = convolve_by_hand(signs, layer.get_weights()[0], 2, 1, 1)
    np.testing.assert_allclose(outputs, by_hand, atol=1e-5)


def test_symmetric_differs_from_same_where_the_size_is_even():
    same = lq.layers.QuantConv2D(4, 3, strides=2, padding="same", use_bias=False)
    ours = SymmetricQuantConv2D(4, 3, strides=2, use_bias=False)
    for size, equal in (((8, 8), False), ((7, 7), True)):
        x = image(size)
        same(x), ours(x)
        ours.set_weights(same.get_weights())
        assert np.allclose(same(x), ours(x), atol=1e-6) == equal


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("strides", [1, 2])
def test_symmetric_pools_equal_pytorchs(size, kind, strides):
    x = image(size) - 3.0  # below zero: a padded zero would win the maximum
    outputs = SymmetricPooling2D(kind, 3, strides)(x)
    np.testing.assert_allclose(outputs, pool_by_hand(x, kind, strides), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_unstrided_pools_are_the_same_in_both_paddings(size, kind, padding):
    x = image(size) - 3.0
    layer = pooling(kind, 1, padding, "pool")
    assert not isinstance(layer, SymmetricPooling2D)  # Keras' own layer: it converts everywhere
    np.testing.assert_allclose(layer(x), pool_by_hand(x, kind, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_strided_pools_follow_the_padding(kind):
    x = image((8, 8))
    symmetric = pooling(kind, 2, "symmetric", "pool")(x)
    np.testing.assert_allclose(symmetric, pool_by_hand(x, kind, 2), atol=1e-5)
    # SAME pads one row and column at the end only: the same windows, one pixel later.
    by_hand = pool_by_hand(np.roll(x, -1, (1, 2)), kind, 2)[:, 1:-1, 1:-1]
    same = pooling(kind, 2, "same", "pool")(x)
    np.testing.assert_allclose(same[:, 1:-1, 1:-1], by_hand, atol=1e-5)


@pytest.mark.parametrize(("strides", "size"), [(1, 7), (2, 7), (2, 8)])
def test_zeroise_outputs_zeros_of_the_strided_shape(strides, size):
    outputs = Zeroise(strides)(image((size, size)))
    assert outputs.shape == (2, -(-size // strides), -(-size // strides), 3)
    assert not np.any(outputs)
    assert Zeroise(strides, filters=5)(image((size, size))).shape == (*outputs.shape[:3], 5)


@pytest.mark.parametrize(
    "layer",
    [
        SymmetricQuantConv2D(4, 3, strides=2, input_quantizer="ste_sign"),
        SymmetricQuantConv2D(4, 5, dilation_rate=2, kernel_quantizer="magnitude_aware_sign"),
        SymmetricPooling2D("max", 3, 2),
        SymmetricPooling2D("avg", 5, 1),
        Zeroise(2),
        Zeroise(2, filters=5),
    ],
)
def test_layers_survive_their_config_inside_a_model(layer):
    x = image((8, 8))
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    again = keras.Sequential.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x), model(x))
    assert model.output_shape[1:] == tuple(model(x).shape[1:])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_convolution_knows_sizes_that_are_not_yet_known(padding):
    inputs = keras.Input((None, None, 3))
    layer = convolution(
        4, 3, name="conv", strides=2, padding=padding, input_scheme="sign-scale", kernel_scheme=None
    )
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 4)
    assert model(image((7, 8))).shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("padding", "strides", "kernel_size", "symmetric"),
    [
        ("same", 2, 3, False),
        ("symmetric", 2, 3, True),
        ("symmetric", 1, 3, False),  # both paddings are one there
        ("symmetric", 2, 2, False),  # an even kernel has no middle
    ],
)
def test_the_symmetric_layer_stands_only_where_it_matters(padding, strides, kernel_size, symmetric):
    layer = convolution(
        4,
        kernel_size,
        name="conv",
        strides=strides,
        padding=padding,
        input_scheme=None,
        kernel_scheme="sign-scale",
    )
    assert isinstance(layer, SymmetricQuantConv2D) == symmetric
    assert layer.kernel_quantizer is not None and layer.kernel_constraint is not None
    assert layer.input_quantizer is None


def test_settings_of_the_papers():
    norm = batch_norm("bn", affine=False)
    norm.build((None, 4, 4, 3))
    # PyTorch's momentum 0.1 is the share of the new value, Keras' 0.9 that of the old one.
    assert (norm.momentum, norm.epsilon, len(norm.trainable_weights)) == (0.9, 1e-5, 0)
    kernel = initializer()((5, 5, 16, 64)).numpy()
    bound = 1 / np.sqrt(5 * 5 * 16)
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)


def test_unknown_padding():
    with pytest.raises(BnasLarqError, match=r"Received: 'symetric'; did you mean 'symmetric'"):
        convolution(4, 3, name="c", padding="symetric", input_scheme=None, kernel_scheme=None)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_gradient_through_a_symmetric_pool(kind):
    """Each output sends its gradient to the pixels inside the image only."""
    x = tf.constant(image((4, 4), channels=1))
    layer = SymmetricPooling2D(kind, 3, 2)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    gradient = tape.gradient(outputs, x)
    # 2×2 outputs, each of weight 1 in total.
    np.testing.assert_allclose(tf.reduce_sum(gradient, [1, 2, 3]), [4.0, 4.0], rtol=1e-5)
