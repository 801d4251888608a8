"""The search cell: evaluated state by state it must be the sum over edges of DARTS' definition.

The cell convolves ±1 and multiplies by the scale. In the reference form the scale is inside, as the
papers write it: there many sums of ±a are zero in mathematics and about 1e-9 in floating point,
where rounding decides whether ReLU passes a gradient. Gradients are therefore compared with scales
rounded to a power of two (all sums of ±2^k are exact), and with the papers' scale outside.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cell_comparison import (
    EDGES,
    PLANS,
    SPACE,
    alphas_of,
    assert_close,
    compare,
    inputs_of,
    make,
    mixture_of,
    positive,
    run,
)

from bnas_larq.backend import tf
from bnas_larq.layers.operations import Context, register_operation
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.compute_cache import ComputeCache
from bnas_larq.supernet.relaxations import Mixture, SampledPath
from bnas_larq.supernet.search_cell import PartialChannels, SearchCell

pytestmark = pytest.mark.usefixtures("exact_scheme")


# Paddings differ in strided layers only, and a normal cell has none.
@pytest.mark.parametrize(
    ("kind", "padding", "mixture"),
    [
        ("normal", "same", positive),
        ("reduce", "same", positive),
        ("after reduce", "same", Mixture),
        ("reduce", "symmetric", Mixture),
        ("after reduce", "symmetric", positive),
    ],
)
def test_state_by_state_equals_edge_by_edge(kind, padding, mixture, edge_by_edge):
    """With scales that make sums exact: the papers' kernels ±scale inside the convolution."""
    cell = make(PLANS[kind], padding=padding)
    compare(cell, PLANS[kind], edge_by_edge, mixture)


@pytest.mark.parametrize("kind", PLANS)
def test_the_papers_scale_with_exact_sums(kind, edge_by_edge):
    cell = make(PLANS[kind], "sign-scale")
    compare(cell, PLANS[kind], edge_by_edge, positive, scale_inside=False)


@pytest.mark.parametrize(
    ("kind", "scheme"), [("normal", "sign-scale"), ("reduce", "sign-scale-plain")]
)
def test_outputs_with_the_scale_inside_agree(kind, scheme, edge_by_edge):
    cell = make(PLANS[kind], scheme)
    inputs, weights = inputs_of(PLANS[kind]), mixture_of(1)
    for training in (True, False):
        outputs = cell(inputs, Mixture(weights, positive=True), training=training)
        assert_close(outputs.numpy(), edge_by_edge(cell, inputs, weights, training).numpy())


def without_relu(context: Context):
    return [*context.binary_input(), *context.binary_conv(3)]


def with_two_convolutions(context: Context):
    second = context.at(f"{context.name}_second", context.filters)
    first = [*context.binary_input(), *context.binary_conv(3)]
    return [*first, *second.binary_input(), *second.binary_conv(3), second.relu()]


@pytest.fixture
def spaces(registry):
    """Spaces of other kinds: fewer nodes, no pools, users' operations."""
    register_operation("test_no_relu", "no ReLU", sharing="channels")(without_relu)
    register_operation("test_two", "two convolutions")(with_two_convolutions)
    return {
        "one node": SearchSpace("one", SPACE.normal, SPACE.reduce, nodes=1),
        "no pools": SPACE.without_operations(["max_pool_3x3", "avg_pool_3x3"]),
        "only pools": SPACE.without_operations([n for n in SPACE.normal if n.startswith("bin")]),
        "no shortcut": SearchSpace("plain", SPACE.normal, SPACE.reduce, shortcut=False),
        "bnas-ucb": dataclasses.replace(SearchSpace.bnas_ucb(), nodes=2),
        "darts-binary": dataclasses.replace(SearchSpace.darts_binary(), nodes=2),
        "bnas-residual": dataclasses.replace(SearchSpace.bnas_residual(), nodes=2, shortcut="none"),
        "own operations": SearchSpace(
            "two", ("none", "max_pool_3x3"), ("none", "max_pool_3x3")
        ).with_operations("test_no_relu", "test_two"),
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("one node", "reduce"),
        ("no pools", "normal"),
        ("only pools", "reduce"),
        ("no shortcut", "normal"),
        ("bnas-ucb", "normal"),
        ("bnas-ucb", "reduce"),
        ("darts-binary", "reduce"),
        ("bnas-residual", "normal"),
        ("bnas-residual", "reduce"),
        ("own operations", "normal"),
        ("own operations", "reduce"),
    ],
)
def test_other_spaces(name, kind, spaces, edge_by_edge):
    plan = PLANS[kind]
    # Behind the first kernel of a separable chain stand three BatchNorms, each of which takes most
    # of the gradient away: rounding of the whole weighs more in what is left. The reference with
    # its images reversed is 2.7e-5 away from itself there, the cell 2.0e-5 away from the reference.
    reordered = name == "darts-binary"
    compare(make(plan, space=spaces[name]), plan, edge_by_edge, positive, reordered)


@pytest.mark.parametrize("name", ["bnas-ucb", "darts-binary", "bnas-residual"])
@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_sampled_paths_of_other_spaces(name, kind, edge_by_edge):
    """Each candidate once on each edge, then a mixture of those that are left."""
    plan = dataclasses.replace(PLANS[kind], filters=4)
    space = dataclasses.replace(SearchSpace.named(name), nodes=1, shortcut="none")
    cell = make(plan, "sign-scale", space)
    compute = tf.function(lambda chosen: cell(inputs_of(plan), SampledPath(chosen), training=True))
    count = len(space.normal)
    for first in range(count):
        chosen = tf.constant([first, count - 1 - first])
        outputs, weights = compute(chosen), tf.one_hot(chosen, count)
        expected = edge_by_edge(cell, inputs_of(plan), weights, scale_inside=False)
        assert_close(outputs.numpy(), expected.numpy())
    alive = np.arange(2 * count).reshape(2, count) % 3 == 0
    cell.keep_alive(alive)
    weights = mixture_of(1, space)
    outputs = cell(inputs_of(plan), positive(weights), training=True)
    expected = edge_by_edge(cell, inputs_of(plan), weights * alive, scale_inside=False)
    assert_close(outputs.numpy(), expected.numpy())


@pytest.mark.parametrize("name", ["bnas-ucb", "darts-binary"])
def test_partial_channels_of_other_spaces(name):
    space = dataclasses.replace(SearchSpace.named(name), nodes=1)
    plan = dataclasses.replace(PLANS["reduce"], filters=8)
    cell = make(plan, "sign-scale", space, channel_sampling=PartialChannels(4))
    candidates = [w for edges in cell.outgoing for w in edges.trainable_weights]
    assert {weight.shape[2] for weight in candidates} == {2}
    outputs = cell(inputs_of(plan), positive(mixture_of(1, space)), training=True)
    assert outputs.shape == (3, 4, 4, 8) and np.any(outputs)


def test_full_precision_candidates_are_not_fused(edge_by_edge):
    plan = PLANS["normal"]
    cell = make(plan, full_precision=("cell1_edge2_bin_conv_5x5_conv",))
    # Edge 2 is (node 1, state 0).
    (candidate,) = (c for c in cell.outgoing[0].candidates if c.column == 4)
    kernels = [layers[-2].kernel_quantizer is None for layers in candidate.chains]
    assert kernels == [False, True, False, False]
    compare(cell, plan, edge_by_edge, positive)


def test_bfloat16_keeps_weights_statistics_and_outputs_float32(edge_by_edge):
    plan = PLANS["reduce"]
    cell = make(plan, "sign-scale", dtype="bfloat16")
    alphas, variables = alphas_of(SPACE), cell.trainable_variables
    ours = run(lambda x, w: cell(x, positive(w), training=True), plan, alphas, variables)
    theirs = run(lambda x, w: edge_by_edge(cell, x, w, scale_inside=False), plan, alphas, variables)
    assert ours[0].dtype == np.float32
    assert {w.dtype for w in cell.weights} == {tf.float32}
    # 8 bits of mantissa: each value is within 2^-9, and sums of them a little more.
    assert np.abs(ours[0] - theirs[0]).max() < 0.02 * np.abs(theirs[0]).max()
    for one, other in zip([ours[1], *ours[2]], [theirs[1], *theirs[2]], strict=True):
        cosine = np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.99


def test_like_states_share_one_traced_function():
    cache = ComputeCache()
    plans = [CellPlan(index, 2, False, False) for index in (1, 2)]
    context = Context("", 2, supernet=True)
    cells = [SearchCell(SPACE, plan, "cifar", context, cache) for plan in plans]
    states = tuple(tf.random.stateless_normal([2, 4, 4, 8], [0, n]) for n in (1, 2))
    for cell in cells:
        states = states[1], cell(states, positive(mixture_of(1)), training=True)
    # For 4, 3, 2 and 1 edges each, forward and backward.
    assert len(cache._functions) == 8


def test_every_edge_reads_its_own_row_of_the_mixture():
    """One changed entry of α changes its node and later ones only."""
    plan = PLANS["normal"]
    cell = make(plan)
    mixture = mixture_of(12).numpy()
    before = cell(inputs_of(plan), tf.constant(mixture), training=False).numpy()
    for row, (node, _) in enumerate(SPACE.edges):
        changed = mixture.copy()
        changed[row, 1] += 1.0
        after = cell(inputs_of(plan), tf.constant(changed), training=False).numpy()
        moved = [
            np.any(before[..., i] != after[..., i])
            for i in range(0, 4 * plan.filters, plan.filters)
        ]
        assert moved[:node] == [False] * node and moved[node], (row, node)


def test_the_first_cell_has_no_shortcut():
    first = make(CellPlan(0, 2, False, False))
    assert not first.has_shortcut
    without = SearchSpace("plain", SPACE.normal, SPACE.reduce, shortcut=False)
    cell = SearchCell(without, PLANS["reduce"], "cifar", Context("", 4, supernet=True))
    assert not cell.has_shortcut and cell.shortcut == []


def test_zeroise_has_no_weights_and_all_layers_are_found():
    cell = make(PLANS["normal"])
    # 2 preprocessing convolutions, and on each of 5 states one for each of 4 kinds.
    assert len(cell.trainable_weights) == 2 + 5 * 4
    # A BatchNorm each: 2 of the preprocessing, and on each state 1 common one and 2 behind pools.
    assert len(cell.non_trainable_weights) == 2 * (2 + 5 * 3)
    kernels = 9 + 25 + 9 + 25  # entries of all four kinds for one pair of channels
    shapes = sum(int(np.prod(weight.shape)) for weight in cell.trainable_weights)
    assert shapes == 6 * 3 + 12 * 3 + EDGES * kernels * 3 * 3
