"""Keras 2 whatever is imported first, or a sentence, in processes of their own; functions with a
gradient of their own, and that they keep no model alive."""

from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from bnas_larq.backend import keras, tf, with_gradient
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet

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


def test_onednn_is_on_unless_it_was_turned_off(monkeypatch):
    code = "import os, bnas_larq; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert python(code).stdout == "1\n"
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert python(code).stdout == "0\n"


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


# -- models that are gone --------------------------------------------------------------------------


@tf.custom_gradient
def doubled(x):
    return 2.0 * x, lambda upstream: 4.0 * upstream


@pytest.mark.parametrize("function", [doubled, lambda x: tripled(x, x)], ids=["tf", "ours"])
def test_a_graph_with_gradients_of_its_own_dies_with_its_function(function):
    from tensorflow.python.framework import ops

    gc.collect()  # what earlier tests left
    registered = set(ops.gradient_registry.list())
    traced = tf.function(function, autograph=False)
    graph = weakref.ref(traced.get_concrete_function(tf.TensorSpec([2])).graph)
    assert set(ops.gradient_registry.list()) > registered
    del traced
    gc.collect()
    assert graph() is None
    assert set(ops.gradient_registry.list()) == registered


def searched():
    space = dataclasses.replace(SearchSpace.bnas(), nodes=1)
    net = SuperNet(space, 3, cells=1, channels=2, input_shape=(8, 8, 3))
    net.compile()
    half = tf.ones([2, 8, 8, 3]), tf.zeros([2], tf.int32)
    net.fit(tf.data.Dataset.from_tensors((half, half)), verbose=0)
    return net


def trained():
    cell = [[("bin_conv_3x3", 0), ("bin_dil_conv_3x3", 1)]]
    size = {"input_shape": (8, 8, 3), "num_classes": 3, "channels": 4, "cells": 1}
    net = build_network(Genotype(cell, cell), drop_path=True, **size)
    net.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.fit(tf.ones([2, 8, 8, 3]), tf.zeros([2], tf.int32), verbose=0)
    return net


@pytest.mark.parametrize("make", [searched, trained])
def test_nothing_of_a_deleted_model_stays(make):
    net = make()
    parts = [net, net.train_function, *net.variables, *net.submodules]
    references = [weakref.ref(part) for part in parts]
    del net, parts
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in references if reference() is not None] == []
