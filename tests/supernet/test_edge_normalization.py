"""Edge normalisation and partial channels (PC-DARTS), by hand and against the edge-by-edge cell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.layers.operations import Context
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.architecture import EdgeNormalization
from bnas_larq.supernet.relaxations import Mixture, SampledPath
from bnas_larq.supernet.search_cell import PartialChannels, SearchCell

OPERATIONS = ("none", "avg_pool_3x3", "bin_conv_3x3")
SPACE = SearchSpace("small", OPERATIONS, OPERATIONS, nodes=2)
EDGES = 2 + 3
NORMAL = CellPlan(index=1, filters=4, reduction=False, after_reduction=False)
PLANS = {"normal": NORMAL, "reduce": dataclasses.replace(NORMAL, reduction=True)}


def test_softmax_over_the_edges_of_each_node():
    """Nodes 0 and 1 have two and three edges, one behind the other."""
    betas = np.log([1.0, 3.0, 2.0, 2.0, 4.0]).astype(np.float32)
    weights = EdgeNormalization(nodes=2)(tf.constant(betas)).numpy()
    assert weights == pytest.approx([1 / 4, 3 / 4, 2 / 8, 2 / 8, 4 / 8])


def test_beta_of_one_node_do_not_move_the_other():
    betas = tf.zeros([EDGES])
    with tf.GradientTape() as tape:
        tape.watch(betas)
        first = EdgeNormalization(nodes=2)(betas)[0]
    # p·(δ − p) with p = 1/2.
    assert tape.gradient(first, betas).numpy().tolist() == [0.25, -0.25, 0.0, 0.0, 0.0]


def make(plan: CellPlan, proportion: int) -> SearchCell:
    keras.utils.set_random_seed(0)
    context = Context("", plan.filters, supernet=True, scheme="sign-scale")
    cell = SearchCell(SPACE, plan, "cifar", context, channel_sampling=PartialChannels(proportion))
    cell.build(tuple(tuple(state.shape) for state in states_of(plan)))
    return cell


def states_of(plan: CellPlan) -> tuple[tf.Tensor, tf.Tensor]:
    shapes = [3, 8, 8, 6], [3, 8, 8, SPACE.nodes * plan.filters]
    return tuple(tf.random.stateless_normal(shape, [0, n]) for n, shape in enumerate(shapes))


def run(compute, *watched) -> list[np.ndarray]:
    """Output and gradients of an uneven loss; BatchNorm takes an even gradient away."""
    with tf.GradientTape() as tape:
        tape.watch(watched)
        outputs = compute()
        loss = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, [5, 6]))
    return [np.asarray(value) for value in (outputs, *tape.gradient(loss, watched))]


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("sampled", [False, True])
def test_gradients_of_partial_channels_and_edge_weights(kind, sampled, edge_by_edge):
    """Outputs and the gradients of α, β and all kernels, for mixtures and for sampled paths."""
    plan = PLANS[kind]
    cell, states = make(plan, proportion=2), states_of(plan)
    alphas = tf.random.stateless_normal([EDGES, len(OPERATIONS)], [1, 1])
    betas = tf.random.stateless_normal([EDGES], [1, 2])
    normalise = EdgeNormalization(SPACE.nodes)
    chosen = tf.constant([2, 0, 1, 2, 2])
    hard = tf.one_hot(chosen, len(OPERATIONS))

    def choice():
        weights, edges = tf.nn.softmax(alphas), normalise(betas)
        if sampled:
            return SampledPath(chosen, weights, edge_weights=edges)
        return Mixture(weights, positive=True, edge_weights=edges)

    def reference():
        weights = tf.nn.softmax(alphas) * (hard if sampled else 1.0)
        return edge_by_edge(
            cell, states, weights, scale_inside=False, edge_weights=normalise(betas)
        )

    watched = [alphas, betas, *cell.trainable_variables]
    ours = run(tf.function(lambda: cell(states, choice(), training=True)), *watched)
    theirs = run(reference, *watched)
    for one, other in zip(ours, theirs, strict=True):
        assert np.any(other)
        # Sums in another order.
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def test_all_channels_and_even_edges_are_the_plain_cell():
    """S = 1: nothing bypasses; equal β: each node is its plain sum over the number of its edges."""
    cell, states = make(NORMAL, proportion=1), states_of(NORMAL)
    weights = tf.nn.softmax(tf.random.stateless_normal([EDGES, len(OPERATIONS)], [1, 3]))
    even = EdgeNormalization(SPACE.nodes)(tf.zeros([EDGES]))
    assert even.numpy() == pytest.approx([1 / 2] * 2 + [1 / 3] * 3)
    plain = cell(states, Mixture(weights / np.repeat([2.0, 3.0], [2, 3])[:, None]), training=False)
    normalised = cell(states, Mixture(weights, edge_weights=even), training=False)
    np.testing.assert_allclose(normalised, plain, rtol=1e-5, atol=1e-5)
