"""Keras 2 whatever is imported first, or a sentence, in processes of their own; functions with a
gradient of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnas_larq.backend import functions_read_once, make_deterministic, tf, with_gradient

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess:
    """Run `code` where nothing is set and nothing is imported yet."""
    clean = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_in_front_of_keras_is_enough():
    done = python(
        "import bnas_larq\n"
        "from tensorflow import keras\n"
        "print(keras.Model.__module__)\n"
        "import bnas_larq.backend"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tf_keras.")


def test_keras_3_in_front_of_the_package_is_refused():
    done = python("from tensorflow import keras\nkeras.Model\nimport bnas_larq.backend")
    assert done.returncode != 0
    assert "or import bnas_larq first" in done.stderr


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


# -- functions with a gradient of their own ----------------------------------------------------


def tripled(x, y):
    """x·y whose gradients are three times those of the product."""

    def function():
        return x * y, lambda upstream: [3.0 * upstream * y, 3.0 * upstream * x]

    return with_gradient("Tripled", function, [x, y])


def around(function, x, y):
    with tf.GradientTape() as tape:
        tape.watch((x, y))
        loss = 0.5 * function(x, y)
    return tape.gradient(loss, (x, y))


def symbolic(x, y):
    return tf.gradients(0.5 * tripled(x, y), (x, y))


@pytest.mark.parametrize(
    "gradients",
    [
        lambda x, y: around(tripled, x, y),
        lambda x, y: around(tf.function(tripled), x, y),
        tf.function(lambda x, y: around(tripled, x, y)),
        tf.function(lambda x, y: around(tf.function(tripled), x, y)),
        tf.function(symbolic),
    ],
    ids=["eager", "tape around a graph", "tape in a graph", "graph in a graph", "tf.gradients"],
)
def test_the_gradient_is_the_given_one_wherever_the_tape_is(gradients):
    found = gradients(tf.constant(2.0), tf.constant(5.0))
    assert [float(value) for value in found] == [0.5 * 3 * 5, 0.5 * 3 * 2]


def test_what_is_not_watched_has_no_gradient():
    x, y = tf.constant(2.0), tf.constant(5.0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(y)
        product = tripled(x, y)
    assert [value is None for value in tape.gradient(product, (x, y))] == [True, False]


def test_the_gradient_has_a_gradient():
    """Of what its operations are: ∂(3·y)/∂y."""
    x, y = tf.constant(2.0), tf.constant(5.0)
    with tf.GradientTape() as outer:
        outer.watch(y)
        with tf.GradientTape() as inner:
            inner.watch(x)
            product = tripled(x, y)
        slope = inner.gradient(product, x)
    assert float(outer.gradient(slope, y)) == 3.0
