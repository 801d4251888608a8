"""A search cell's choices: hard mixtures, sampled paths, pruned candidates, partial channels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cell_comparison import (
    EDGES,
    OPERATIONS,
    PLANS,
    SPACE,
    alphas_of,
    assert_close,
    inputs_of,
    make,
    mixture_of,
    positive,
    run,
)

from bnas_larq.backend import tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.operations import chain
from bnas_larq.supernet.relaxations import Mixture, SampledPath
from bnas_larq.supernet.search_cell import PartialChannels, SearchCell

pytestmark = pytest.mark.usefixtures("exact_scheme")


def one_hot(seed: int = 11) -> tuple[np.ndarray, tf.Tensor]:
    chosen = np.random.default_rng(seed).integers(0, OPERATIONS, EDGES)
    chosen[:2] = (0, 3)  # Zeroise takes part
    return chosen, tf.one_hot(chosen, OPERATIONS)


@pytest.mark.parametrize("kind", ["reduce"])
def test_a_hard_mixture_is_its_path_and_passes_every_candidates_gradient(kind, edge_by_edge):
    plan = PLANS[kind]
    cell = make(plan)
    _, hard = one_hot()

    def straight_through(weights):
        return hard + weights - tf.stop_gradient(weights)

    alphas = alphas_of(SPACE)
    ours = run(lambda x, w: cell(x, straight_through(w), training=True), plan, alphas)
    theirs = run(lambda x, w: edge_by_edge(cell, x, straight_through(w)), plan, alphas)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])
    assert np.count_nonzero(ours[1]) > EDGES


@pytest.mark.parametrize("kind", ["reduce"])
def test_a_sampled_path_is_the_one_hot_mixture(kind, edge_by_edge):
    plan = PLANS[kind]
    cell = make(plan, "sign-scale")
    chosen, hard = one_hot()
    weights = tf.random.stateless_uniform([EDGES, OPERATIONS], [3, 4], 0.5, 1.5)
    path = SampledPath(tf.constant(chosen, tf.int32), weights)
    received = []
    for compute in (
        tf.function(lambda: cell(inputs_of(plan), path, training=True)),
        lambda: edge_by_edge(cell, inputs_of(plan), hard * weights, scale_inside=False),
    ):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = compute()
            # Uneven, as in `run`: BatchNorm takes an even gradient away but for rounding.
            loss = tf.reduce_sum(outputs * tf.random.stateless_normal(outputs.shape, [5, 6]))
        gradients = tape.gradient(loss, [weights, *cell.trainable_variables])
        received.append([np.asarray(value) for value in (outputs, *gradients)])
    for mine, reference in zip(*received, strict=True):
        assert_close(mine, reference)


def test_only_the_sampled_path_is_computed():
    """The convolutions stand in the branches of a switch in a function that edges of one shape
    share; one branch is executed."""
    cell = make(PLANS["normal"])

    @tf.function
    def compute(chosen):
        return cell(inputs_of(PLANS["normal"]), SampledPath(chosen), training=True)

    graph = compute.get_concrete_function(tf.TensorSpec([EDGES], tf.int32)).graph
    definition = graph.as_graph_def()
    functions = {function.signature.name: function for function in definition.library.function}
    types = [node.op for node in definition.node]
    assert types.count("Conv2D") == 2  # both of the preprocessing
    called = [node.attr["f"].func.name for node in definition.node if "Partitioned" in node.op]
    switches = [name for name in called if _types(functions[name]) & {"Case", "StatelessCase"}]
    assert len(switches) == EDGES
    assert len(set(switches)) == 1
    assert "Conv2D" not in _types(functions[switches[0]])


def _types(function):
    return {node.op for node in function.node_def}


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_pruned_candidates_are_neither_added_nor_computed(kind, edge_by_edge):
    plan = PLANS[kind]
    cell = make(plan)
    alive = np.random.default_rng(5).random([EDGES, OPERATIONS]) < 0.4
    alive[:, 0] = True
    alive[[row for row, (_, state) in enumerate(SPACE.edges) if state == 2], 1:] = False
    cell.keep_alive(alive)
    alphas = alphas_of(SPACE)
    variables = cell.trainable_variables
    mask = tf.constant(alive, tf.float32)
    ours = run(lambda x, w: cell(x, positive(w), training=True), plan, alphas, variables)
    theirs = run(lambda x, w: edge_by_edge(cell, x, w * mask), plan, alphas, variables)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])
    for one, other in zip(ours[2], theirs[2], strict=True):
        # What nobody computes has no gradient; in the reference one of zeros.
        assert_close(np.zeros_like(other) if one.dtype == object else one, other)

    function = tf.function(lambda x: cell(x, positive(mixture_of(1)), training=False))
    graph = function.get_concrete_function(inputs_of(plan)).graph
    filters = 0
    for inner in (graph, *(graph._get_function(n).graph for n in graph._functions)):
        for operation in inner.get_operations():
            if operation.type == "Conv2D" and operation.inputs[1].shape[0] in (3, 5):
                filters += operation.inputs[1].shape[-1]
    preprocessing = plan.filters if plan.after_reduction else 0
    assert filters <= alive[:, 3:].sum() * plan.filters + preprocessing


@pytest.mark.parametrize("alive", [np.ones([2, 2], bool), np.zeros([EDGES, OPERATIONS], bool)])
def test_pruning_keeps_one_candidate_on_each_edge(alive):
    with pytest.raises(BnasLarqError, match="keeps at least one"):
        make(PLANS["normal"]).keep_alive(alive)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_partial_channels_mix_a_part_and_shuffle_in_the_rest(kind):
    filters, part = 8, 2
    plan = dataclasses.replace(PLANS[kind], filters=filters)
    cell = make(plan, channel_sampling=PartialChannels(filters // part))
    shapes = {tuple(w.shape) for w in cell.trainable_weights if w.shape[0] == 5}
    assert {shape[2] for shape in shapes} == {part}
    edge_weights = tf.random.stateless_uniform([EDGES], [1, 9])
    older, newer = inputs_of(plan)
    weights = mixture_of(3)
    outputs = cell((older, newer), Mixture(weights, edge_weights=edge_weights), training=False)

    values = [
        chain(layers, x, False) for layers, x in zip(cell.preprocess, (older, newer), strict=True)
    ]
    for node in range(SPACE.nodes):
        total = 0.0
        for row, (owner, state) in enumerate(SPACE.edges):
            if owner != node:
                continue
            outgoing = cell.outgoing[state]
            value = values[state]
            bypass = value[..., part:]
            if outgoing.strides == 2:
                bypass = tf.nn.max_pool2d(bypass, 2, 2, "SAME")
            alone = cell_edge(cell, row, value[..., :part], weights)
            total += edge_weights[row] * tf.concat([alone, bypass], -1)
        groups = tf.stack(tf.split(total, filters // part, axis=-1), axis=-1)
        values.append(tf.reshape(groups, total.shape))
    by_hand = tf.concat(values[2:], -1) + chain(cell.shortcut, newer, False)
    assert_close(outputs.numpy(), by_hand.numpy())


def cell_edge(cell: SearchCell, row: int, value: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """One edge of the selected channels, out of the state's evaluation."""
    outgoing = cell.outgoing[cell.space.edges[row][1]]
    place = outgoing.rows.index(row)
    terms = outgoing(value, Mixture(weights), training=False)
    return tf.split(tf.add_n(terms), len(outgoing.rows), axis=-1)[place]


def test_all_channels_are_no_sampling():
    plan = PLANS["normal"]
    cells = [make(plan, channel_sampling=sampling) for sampling in (None, PartialChannels(1))]
    cells[1].set_weights(cells[0].get_weights())
    one, other = (cell(inputs_of(plan), mixture_of(2), training=False) for cell in cells)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("proportion", [0, 3, 8])
def test_impossible_proportions_are_refused(proportion):
    with pytest.raises(BnasLarqError, match="Partial channels"):
        make(
            dataclasses.replace(PLANS["normal"], filters=8),
            channel_sampling=PartialChannels(proportion),
        )
