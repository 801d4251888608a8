"""The mixed cell: evaluated state by state it must be the sum over edges of DARTS' definition.

Many sums of ±a are zero in mathematics and about 1e-9 in floating point, where the order of
addition then decides whether ReLU passes a gradient. One wide convolution and several narrow ones
add in different orders, so gradients are compared with scales rounded to a power of two: all sums
of ±2^k are exact, in any order.
"""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.mixed import MixedCell
from bnas_larq.layers.operations import Context, chain
from bnas_larq.layers.quantizers import CenterClip, Scheme, SignScale, register_scheme
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import SearchSpace

SPACE = SearchSpace.bnas()
EDGES, OPERATIONS = len(SPACE.edges), len(SPACE.normal)
PLANS = {
    "normal": CellPlan(index=1, filters=3, reduction=False, after_reduction=False),
    "reduce": CellPlan(index=1, filters=4, reduction=True, after_reduction=False),
    "after reduce": CellPlan(index=2, filters=3, reduction=False, after_reduction=True),
}


class ExactScale(SignScale):
    """`SignScale` whose scale is rounded to a power of two; the gradient is `SignScale`'s."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        product = super().call

        @tf.custom_gradient
        def quantize(latent):
            with tf.GradientTape() as tape:
                tape.watch(latent)
                outputs = product(latent)
            exact = tf.sign(outputs) * tf.pow(
                2.0, tf.round(tf.math.log(abs(outputs)) / np.log(2.0))
            )
            return exact, lambda upstream: tape.gradient(outputs, latent, upstream)

        return quantize(inputs)


@pytest.fixture(autouse=True, scope="module")
def exact_scheme():
    register_scheme("test-exact", Scheme(lq.quantizers.SteSign, ExactScale, CenterClip))


def inputs_of(plan: CellPlan) -> tuple[tf.Tensor, tf.Tensor]:
    """The outputs of the two cells before; the newer one has the cell's own 4·filters channels."""
    side = 16 if plan.after_reduction else 8
    older = tf.random.stateless_normal([3, side, side, 6], [0, 1])
    return older, tf.random.stateless_normal([3, 8, 8, 4 * plan.filters], [0, 2])


def mixture_of(seed: int) -> tf.Tensor:
    return tf.nn.softmax(tf.random.stateless_normal([EDGES, OPERATIONS], [seed, 3]))


def make(plan: CellPlan, fused: bool, scheme: str = "test-exact", **settings) -> MixedCell:
    context = Context("", plan.filters, supernet=True, scheme=scheme, **settings)
    cell = MixedCell(SPACE, plan, "cifar", context, fused)
    cell(inputs_of(plan), mixture_of(0))
    return cell


def convolution_of(layers: list[keras.layers.Layer]) -> lq.layers.QuantConv2D:
    (conv,) = (layer for layer in layers if isinstance(layer, lq.layers.QuantConv2D))
    return conv


def convolutions_of(cell: MixedCell):
    """(state, column, convolutions of that candidate's chains)"""
    for state, mixed in enumerate(cell.mixed_states):
        for candidate in mixed.candidates:
            if SPACE.normal[candidate.column].startswith("bin"):
                yield state, candidate.column, [convolution_of(c) for c in candidate.chains]


def joined(kernels) -> np.ndarray:
    """The kernels of one candidate's edges as the fused convolution holds them."""
    return np.concatenate([np.asarray(kernel) for kernel in kernels], axis=-1)


def copy_weights(fused: MixedCell, single: MixedCell) -> None:
    pairs = zip(convolutions_of(fused), convolutions_of(single), strict=True)
    for (state, column, wide), (other_state, other_column, narrow) in pairs:
        assert (state, column) == (other_state, other_column)
        kernels = [conv.get_weights()[0] for conv in wide]
        if len(wide) == 1:
            kernels = np.split(kernels[0], len(narrow), axis=-1)
        for conv, kernel in zip(narrow, kernels, strict=True):
            conv.set_weights([kernel])
    for one, other in zip(fused.preprocess, single.preprocess, strict=True):
        convolution_of(other).set_weights(convolution_of(one).get_weights())
    for one, other in zip(fused.shortcut, single.shortcut, strict=True):
        other.set_weights(one.get_weights())


def run(cell: MixedCell, plan: CellPlan, alphas: tf.Tensor, training: bool = True):
    """Outputs, gradient of α, and gradients of the candidates' kernels by (state, column)."""
    kernels = {key[:2]: [c.kernel for c in key[2]] for key in convolutions_of(cell)}
    with tf.GradientTape() as tape:
        tape.watch(alphas)
        outputs = cell(inputs_of(plan), tf.nn.softmax(alphas), training=training)
        # Any uneven weighting, so that every output counts differently.
        loss = tf.reduce_sum(outputs * tf.random.stateless_normal(tf.shape(outputs), [5, 6]))
    gradient, received = tape.gradient(loss, (alphas, kernels))
    return outputs.numpy(), gradient.numpy(), {k: joined(v) for k, v in received.items()}


def assert_close(one: np.ndarray, other: np.ndarray) -> None:
    """Equal to 1e-5 of the largest entry."""
    assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


# Paddings differ in strided layers only, and a normal cell has none.
@pytest.mark.parametrize(
    ("kind", "padding"),
    [(k, "same") for k in PLANS] + [("reduce", "symmetric"), ("after reduce", "symmetric")],
)
def test_fused_cell_equals_edge_by_edge(kind, padding):
    plan = PLANS[kind]
    fused, single = (make(plan, form, padding=padding) for form in (True, False))
    copy_weights(fused, single)
    alphas = tf.random.stateless_normal([EDGES, OPERATIONS], [7, 8])
    outputs, gradient, received = run(fused, plan, alphas)
    outputs_single, gradient_single, received_single = run(single, plan, alphas)
    assert_close(outputs, outputs_single)
    assert_close(gradient, gradient_single)
    assert received.keys() == received_single.keys() and len(received) == 5 * 4
    for key, kernel_gradient in received_single.items():
        assert np.any(kernel_gradient), key
        assert_close(received[key], kernel_gradient)
    # Both have collected the same moving statistics, so inference agrees too.
    assert_close(run(fused, plan, alphas, False)[0], run(single, plan, alphas, False)[0])


@pytest.mark.parametrize("kind", PLANS)
def test_outputs_of_both_forms_agree_with_the_papers_scale(kind):
    plan = PLANS[kind]
    fused, single = (make(plan, form, "sign-scale") for form in (True, False))
    copy_weights(fused, single)
    for training in (True, False):
        one, other = (cell(inputs_of(plan), mixture_of(1), training) for cell in (fused, single))
        assert_close(one.numpy(), other.numpy())


def test_full_precision_candidates_are_not_fused():
    plan = PLANS["normal"]
    cells = [
        make(plan, form, full_precision=("cell1_edge2_bin_conv_5x5_conv",))
        for form in (True, False)
    ]
    for cell in cells:
        # Edge 2 is (node 1, state 0).
        precise = {
            (state, column): [conv.kernel_quantizer is None for conv in convs]
            for state, column, convs in convolutions_of(cell)
        }
        assert precise.pop((0, 4)) == [False, True, False, False]
        assert not any(any(entries) for entries in precise.values())
    copy_weights(*cells)
    alphas = tf.random.stateless_normal([EDGES, OPERATIONS], [9, 10])
    one, other = (run(cell, plan, alphas) for cell in cells)
    assert_close(one[0], other[0])
    assert_close(one[1], other[1])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", PLANS)
def test_one_hot_mixture_is_that_single_path(kind, fused):
    plan = PLANS[kind]
    single = make(plan, False)
    cell = single
    if fused:
        cell = make(plan, True)
        copy_weights(cell, single)
    chosen = np.random.default_rng(11).integers(0, OPERATIONS, EDGES)
    chosen[:2] = (0, 3)  # Zeroise takes part
    one_hot = tf.one_hot(chosen, OPERATIONS)
    older, newer = inputs_of(plan)

    def path(row: int, value: tf.Tensor) -> tf.Tensor | float:
        state = SPACE.edges[row][1]
        mixed = single.mixed_states[state]
        for candidate in mixed.candidates:
            if candidate.column == chosen[row]:
                return chain(candidate.chains[mixed.rows.index(row)], value, False)
        assert SPACE.normal[chosen[row]] == "none"
        return 0.0

    states = [
        chain(layers, x, False) for layers, x in zip(single.preprocess, (older, newer), strict=True)
    ]
    for node in range(4):
        rows = [row for row, (owner, _) in enumerate(SPACE.edges) if owner == node]
        states.append(sum(path(row, states[SPACE.edges[row][1]]) for row in rows))
    by_hand = tf.concat(states[2:], -1) + chain(single.shortcut, newer, False)
    outputs = cell((older, newer), one_hot, training=False)
    side = 4 if plan.reduction else 8
    assert outputs.shape == (3, side, side, 4 * plan.filters)
    assert_close(outputs.numpy(), by_hand.numpy())


def test_every_edge_reads_its_own_row_of_the_mixture():
    """One changed entry of α changes its node and later ones only."""
    plan = PLANS["normal"]
    cell = make(plan, True)
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
    first = make(CellPlan(0, 2, False, False), True)
    assert not first.has_shortcut
    without = SearchSpace("plain", SPACE.normal, SPACE.reduce, shortcut=False)
    cell = MixedCell(without, PLANS["reduce"], "cifar", Context("", 4, supernet=True))
    assert not cell.has_shortcut and cell.shortcut == []


def test_zeroise_has_no_weights_and_all_layers_are_found():
    cell = make(PLANS["normal"], True)
    # 2 preprocessing convolutions, and on each of 5 states one for each of 4 kinds.
    assert len(cell.trainable_weights) == 2 + 5 * 4
    # A BatchNorm each: 2 of the preprocessing, and on each state 1 common one and 2 behind pools.
    assert len(cell.non_trainable_weights) == 2 * (2 + 5 * 3)
    kernels = 9 + 25 + 9 + 25  # entries of all four kinds for one pair of channels
    shapes = sum(int(np.prod(weight.shape)) for weight in cell.trainable_weights)
    assert shapes == 6 * 3 + 12 * 3 + EDGES * kernels * 3 * 3
