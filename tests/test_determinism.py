"""Every patch of TensorFlow acts, and gives the same bits."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from bnas_larq import determinism
from bnas_larq.backend import tf
from bnas_larq.determinism import check_patches, functions_read_once, make_deterministic


def test_every_patch_still_acts():
    assert set(check_patches().values()) == {None}


def test_patches_that_no_longer_act_are_named(monkeypatch):
    """As if TensorFlow no longer called what they replace, or had renamed it."""
    from tensorflow.python.ops import gen_math_ops

    def add_n(inputs, name=None):
        return tf.raw_ops.AddN(inputs=inputs, name=name)

    def renamed():
        raise AttributeError("'Context' object has no attribute '_config'")

    add_n.in_order = True
    monkeypatch.setattr(gen_math_ops, "add_n", add_n)
    monkeypatch.setattr(determinism, "_configure_rewriting", renamed)
    monkeypatch.setattr(determinism, "functions_read_once", contextlib.nullcontext)
    fixed, kept, parsed = check_patches().values()
    assert fixed == "it has no effect"
    assert kept == "'Context' object has no attribute '_config'"
    assert "cache_info" in parsed


# -- definitions of traced functions -----------------------------------------------------------


def test_definitions_are_parsed_once_and_only_inside():
    from tensorflow.python.eager import context

    runtime = context.context()
    inner = tf.function(lambda x: tf.sin(x) * 2)
    outer = tf.function(lambda x: inner(x) + inner(x))
    with functions_read_once():
        values = outer(tf.constant([1.0, 2.0]))
        name = outer.get_concrete_function(tf.constant([1.0, 2.0])).name.decode()
        with functions_read_once():
            assert runtime.get_function_def(name) is runtime.get_function_def(name)
        # The inner one has not ended it.
        assert runtime.get_function_def(name) is runtime.get_function_def(name)
        kept = runtime.get_function_def(name)
    assert runtime.get_function_def(name) is not runtime.get_function_def(name)
    assert runtime.get_function_def(name).signature == kept.signature
    np.testing.assert_allclose(values, 4 * np.sin([1.0, 2.0]), rtol=1e-6)


def test_an_error_inside_ends_it_too():
    from tensorflow.python.eager import context

    with pytest.raises(KeyError), functions_read_once():
        raise KeyError
    assert "get_function_def" not in vars(context.context())


# -- the same bits -----------------------------------------------------------------------------


def test_sums_stay_sums_in_graphs_that_tensorflow_thinks_large():
    """Otherwise it adds the terms to a variable, in the order in which threads come by."""
    from tensorflow.python.eager import context

    make_deterministic(0)

    @tf.function
    def two_sums(*values):
        read = [tf.sin(value) for value in values]
        return tf.add_n(read), tf.add_n([tf.cos(value) for value in read])

    context.enable_graph_collection()
    two_sums(*(tf.ones((32, 2**18)) for _ in range(3)))
    graphs = context.export_run_metadata().partition_graphs
    context.disable_graph_collection()
    ops = [node.op for graph in graphs for node in graph.node]
    assert ops.count("AddN") == 2
    assert "TemporaryVariable" not in ops


@pytest.mark.parametrize("way", ["sum", "gradient", "nested"])
def test_sums_of_what_others_read_too_have_one_order(way):
    """`AddN` alone gives other bits in every second call."""
    make_deterministic(0)
    values = [tf.random.stateless_normal((64, 16, 16, 32), (0, number)) for number in range(3)]

    @tf.function
    def several(*values):
        a, b, c = map(tf.sin, values)
        if way == "sum":
            total = tf.add_n([a, b, c])
        elif way == "nested":
            total = tf.add_n([a, tf.add_n([b, c])])
        else:
            # What has three readers, whose gradients others read too.
            with tf.GradientTape() as tape:
                tape.watch(values)
                readers = [tf.identity(values[0]) for _ in range(3)]
            total = tape.gradient(readers, values[0], [a, b, c])
        # Nobody else reads c.
        return total, tf.exp(a), tf.tanh(b)

    first = several(*values)[0].numpy()
    for _ in range(100):
        np.testing.assert_array_equal(several(*values)[0].numpy(), first)


@pytest.mark.parametrize("inputs", [[1, 2, 3], [[1.5], [2.0]]])
def test_sums_of_other_things_stay_as_they_are(inputs):
    make_deterministic(0)
    tensors = [tf.constant(one) for one in inputs]
    total = tf.function(lambda: tf.add_n(tensors))()
    np.testing.assert_array_equal(total, np.sum(inputs, axis=0))
    with tf.GradientTape() as tape:
        variable = tf.Variable([1.0, 2.0])
        doubled = tf.function(lambda: tf.add_n([variable, variable]))()
    np.testing.assert_array_equal(tape.gradient(doubled, variable), [2.0, 2.0])
