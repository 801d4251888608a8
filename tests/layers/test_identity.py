"""The skip connection: nothing at stride 1, a binary factorised reduction with strides."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq
from bnas_larq.layers.operations import (
    Context,
    FactorizedReduction,
    build_operation,
    chain,
    sharing_of,
)

SIZES = [(8, 8), (7, 7), (8, 5), (1, 2)]


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reduced_by_hand(x: np.ndarray, kernel: np.ndarray, first: int) -> np.ndarray:
    """Pixel by pixel; the last row and column of an odd size stand for the missing ones."""
    rows, columns = x.shape[1:3]
    result = np.zeros((len(x), -(-rows // 2), -(-columns // 2), kernel.shape[-1]))
    for i, j in np.ndindex(*result.shape[1:3]):
        even = x[:, 2 * i, 2 * j]
        odd = x[:, min(2 * i + 1, rows - 1), min(2 * j + 1, columns - 1)]
        result[:, i, j, :first] = even @ kernel[..., :first]
        result[:, i, j, first:] = odd @ kernel[..., first:]
    return result


@pytest.mark.parametrize("supernet", [True, False])
def test_without_strides_it_is_its_input(supernet):
    (layer,) = build_operation("identity", Context("place", 4, supernet=supernet))
    x = image(2, 5, 5, 4)
    np.testing.assert_array_equal(layer(x), x)
    assert not layer.weights


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filters", [4, 3])
def test_the_reduction_equals_brute_force(size, filters):
    layer = FactorizedReduction(filters, use_bias=False)
    x = image(2, *size, 3)
    outputs = layer(x)
    by_hand = reduced_by_hand(x, layer.get_weights()[0][0, 0], -(-filters // 2))
    np.testing.assert_allclose(outputs, by_hand, atol=1e-5)
    assert layer.compute_output_shape(x.shape).as_list() == outputs.shape.as_list()


@pytest.mark.parametrize("size", SIZES)
def test_the_reduction_of_sizes_that_are_not_yet_known(size):
    inputs = keras.Input((None, None, 3))
    layer = FactorizedReduction(4)
    model = keras.Model(inputs, layer(inputs))
    x = image(2, *size, 3)
    by_hand = reduced_by_hand(x, layer.get_weights()[0][0, 0], 2)
    np.testing.assert_allclose(model(x), by_hand, atol=1e-5)


@pytest.mark.parametrize("supernet", [True, False], ids=["supernet", "final"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_with_strides_it_is_batch_norm_sign_reduction(supernet, padding):
    shared = {} if supernet else None
    place = Context("place", 4, 2, padding, supernet=supernet, shared=shared)
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, chain(build_operation("identity", place), inputs))
    (layer,) = (layer for layer in model.layers if isinstance(layer, FactorizedReduction))
    (mean,) = (weight for weight in model.weights if "moving_mean" in weight.name)
    mean.assign(image(4, seed=1))
    x = image(2, 6, 6, 4)
    signs = np.where(x >= mean.numpy(), 1.0, -1.0)
    with lq.context.quantized_scope(True):
        kernel = keras.backend.get_value(layer.kernel)[0, 0]
    assert all(len(np.unique(np.abs(column))) == 1 for column in kernel.T)
    np.testing.assert_allclose(model(x), reduced_by_hand(signs, kernel, 2), atol=1e-5)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x), model(x))


def test_one_output_serves_all_edges_where_it_has_no_weights():
    assert [sharing_of("identity", strides) for strides in (1, 2)] == ["state", "edge"]
