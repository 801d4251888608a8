"""Residual candidates in the fast way of the mixed cell: their statistics, slopes and precision.

Their outputs and gradients are compared edge by edge in `test_search_cell.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.layers.operations import Context, chain
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.compute_cache import ComputeCache
from bnas_larq.supernet.outgoing_edges import OutgoingEdges
from bnas_larq.supernet.relaxations import Mixture, SampledPath

FILTERS, EDGES = 2, 3
RESIDUAL = [name for name in SearchSpace.bnas_residual().normal if "conv" in name]


def numbers(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_normal(shape, [seed, 1])


def state_of(*operations: str, number: int = 2, dtype: str = "float32", **settings):
    """Three edges that leave a state, number 0 in a reduction cell with strides."""
    context = Context("", FILTERS, supernet=True, **settings)
    plan = CellPlan(1, FILTERS, number < 2, False)
    rows = list(range(EDGES))
    state = OutgoingEdges(operations, rows, plan, number, context, ComputeCache(dtype))
    state.build((None, 6, 6, FILTERS))
    for index, weight in enumerate(state.trainable_weights):
        if "alpha" in weight.name:
            weight.assign(0.3 * numbers(*weight.shape, seed=index))
    return state


def evaluate(state, inputs, weights, training=True):
    """Outputs, and gradients of the input, the mixture and all trainable weights."""
    with tf.GradientTape() as tape:
        tape.watch((inputs, weights))
        outputs = tf.add_n(state(inputs, Mixture(weights, positive=True), training=training))
        loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=5))
    return outputs, tape.gradient(loss, [inputs, weights, *state.trainable_weights])


def mixture(columns: int) -> tf.Tensor:
    return tf.nn.softmax(numbers(EDGES, columns, seed=3))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("number", [0, 2])
def test_all_edges_are_one_convolution(number, padding):
    state = state_of(*RESIDUAL, number=number, padding=padding)
    for candidate in state.candidates:
        assert candidate.convolution.tail is not None
        assert candidate.convolution.layer.filters == EDGES * FILTERS
    # BatchNorm, sign, pools: once for the state.
    shared = {id(layer) for c in state.candidates for layer in c.convolution.tail.added}
    assert len(shared) == (1 if number == 0 else 0)


@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_the_layers_do(training):
    state = state_of("bin_res_dil_conv_3x3", "avg_pool_3x3", number=0)
    inputs, weights = numbers(4, 6, 6, FILTERS), mixture(2)
    evaluate(state, inputs, weights)  # moves the statistics
    before = [weight.numpy() for weight in state.non_trainable_weights]
    outputs = evaluate(state, inputs, weights, training)[0]
    moved = [weight.numpy() for weight in state.non_trainable_weights]
    for weight, value in zip(state.non_trainable_weights, before, strict=True):
        weight.assign(value)
    memory: dict = {}
    residual, pool = (chain(c.chains[0], inputs, training, memory) for c in state.candidates)
    expected = residual * tf.repeat(weights[:, 0], FILTERS)
    expected += tf.tile(pool, [1, 1, 1, EDGES]) * tf.repeat(weights[:, 1], FILTERS)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for ours, theirs in zip(moved, state.non_trainable_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert any(np.any(old != new) for old, new in zip(before, moved, strict=True)) == training


def test_pruned_edges_add_nothing_and_keep_their_statistics():
    state, whole = state_of("bin_res_conv_3x3"), state_of("bin_res_conv_3x3")
    for mine, other in zip(state.weights, whole.weights, strict=True):
        mine.assign(other)
    state.alive = np.array([[True], [False], [True]])
    inputs, weights = numbers(4, 6, 6, FILTERS), mixture(1)
    pruned, gradients = evaluate(state, inputs, weights)
    outputs, _ = evaluate(whole, inputs, weights)
    live = np.repeat([1.0, 0.0, 1.0], FILTERS)
    np.testing.assert_allclose(pruned, outputs * live, atol=1e-6)
    norm, other = (s.candidates[0].convolution.tail.norm for s in (state, whole))
    np.testing.assert_allclose(norm.moving_mean, other.moving_mean * live, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        norm.moving_variance, np.where(live, other.moving_variance, 1.0), rtol=1e-5
    )
    (slopes,) = (
        gradient
        for gradient, weight in zip(gradients[2:], state.trainable_weights, strict=True)
        if "alpha" in weight.name
    )
    np.testing.assert_array_equal(np.ravel(slopes) != 0, live > 0)


def test_a_sampled_path_moves_only_what_it_draws():
    state = state_of("bin_res_conv_3x3", "bin_res_dil_conv_5x5", "max_pool_3x3", number=0)
    inputs = numbers(4, 6, 6, FILTERS)
    compute = tf.function(lambda chosen: state(inputs, SampledPath(chosen), training=True))
    chosen = tf.constant([0, 1, 0])
    with tf.GradientTape() as tape:
        (outputs,) = compute(chosen)
        loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=5))
    drawn = np.repeat(tf.one_hot(chosen, 2), FILTERS, axis=0).T > 0
    variables = [candidate.convolution.tail.prelu.alpha for candidate in state.candidates[:2]]
    gradients = tape.gradient(loss, variables)
    for candidate, mine, gradient in zip(state.candidates, drawn, gradients, strict=False):
        norm = candidate.convolution.tail.norm
        np.testing.assert_array_equal(norm.moving_mean.numpy() != 0, mine)
        np.testing.assert_array_equal(np.ravel(gradient) != 0, mine)
    weights = tf.one_hot(chosen, 3)
    mixed, expected = evaluate(state, inputs, weights)
    np.testing.assert_allclose(outputs, mixed, atol=1e-5)
    for gradient, variable in zip(gradients, variables, strict=True):
        index = [variable is weight for weight in state.trainable_weights].index(True)
        np.testing.assert_allclose(gradient, expected[2 + index], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_near_float32():
    states = [state_of(*RESIDUAL, number=0, dtype=dtype) for dtype in ("float32", "bfloat16")]
    for mine, other in zip(*(state.weights for state in states), strict=True):
        other.assign(mine)
    inputs, weights = numbers(4, 6, 6, FILTERS), mixture(4)
    exact, rounded = (evaluate(state, inputs, weights)[0] for state in states)
    assert rounded.dtype == tf.float32
    assert np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()
