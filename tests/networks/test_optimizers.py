"""Optimizers with coupled decay, against the update rules of PyTorch written out in NumPy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.networks.optimizers import (
    CoupledAdam,
    CoupledSGD,
    latent_kernels,
    weight_kinds,
)
from bnas_larq.training.schedules import OneCycle, OneCycleMomentum

STEPS = 5


def gradients():
    """Gradients of a matrix and a vector, the same each time: [step][variable]."""
    generator = np.random.default_rng(0)
    return [
        [generator.normal(size=(3, 2)).astype(np.float32), generator.normal(size=2).astype("f4")]
        for _ in range(STEPS)
    ]


def start():
    """Two weights of different shape."""
    return [np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2), np.float32([2.0, -3.0])]


def train(optimizer, graph=False):
    """Weights after all steps."""
    variables = [tf.Variable(value) for value in start()]
    optimizer.build(variables)

    def step(first, second):
        optimizer.apply_gradients(zip((first, second), variables, strict=True))

    step = tf.function(step) if graph else step
    for gradient in gradients():
        step(*map(tf.constant, gradient))
    return [variable.numpy() for variable in variables]


def clipped(gradient, limit):
    """torch.nn.utils.clip_grad_norm_: one norm over all variables."""
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradient))
    return [g * min(1.0, limit / norm) for g in gradient]


def torch_sgd(rate, momentum, l2, clip=None):
    """torch.optim.SGD: d = g + λw; v = μv + d; w −= lr·v. `momentum` is a function of the step."""
    weights, velocity = start(), [0.0, 0.0]
    for t, gradient in enumerate(gradients()):
        gradient = gradient if clip is None else clipped(gradient, clip)
        for i, g in enumerate(gradient):
            velocity[i] = momentum(t) * velocity[i] + g + l2 * weights[i]
            weights[i] = weights[i] - rate * velocity[i]
    return weights


def torch_adam(rate, betas, epsilon, l2, clip=None):
    """torch.optim.Adam: the decay passes through both moments."""
    weights, first, second = start(), [0.0, 0.0], [0.0, 0.0]
    for t, gradient in enumerate(gradients(), start=1):
        gradient = gradient if clip is None else clipped(gradient, clip)
        for i, g in enumerate(gradient):
            g = g + l2 * weights[i]
            first[i] = betas[0] * first[i] + (1 - betas[0]) * g
            second[i] = betas[1] * second[i] + (1 - betas[1]) * g * g
            ahead, scale = first[i] / (1 - betas[0] ** t), second[i] / (1 - betas[1] ** t)
            weights[i] = weights[i] - rate * ahead / (np.sqrt(scale) + epsilon)
    return weights


def assert_close(actual, expected, tolerance=2e-6):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_sgd(momentum, l2, graph):
    optimizer = CoupledSGD(0.1, momentum=momentum, l2=l2)
    assert_close(train(optimizer, graph), torch_sgd(0.1, lambda t: momentum, l2))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_adam(l2, graph):
    """The setting of α in the papers, with a stronger decay that cannot hide."""
    optimizer = CoupledAdam(0.01, beta_1=0.5, beta_2=0.999, epsilon=1e-8, l2=l2)
    assert_close(train(optimizer, graph), torch_adam(0.01, (0.5, 0.999), 1e-8, l2))


def test_the_decay_is_not_adamws():
    coupled = train(CoupledAdam(0.01, l2=0.1))
    decoupled = train(CoupledAdam(0.01, weight_decay=0.1))
    assert max(np.abs(a - b).max() for a, b in zip(coupled, decoupled, strict=True)) > 1e-3


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_gradients_are_clipped_before_the_decay_is_added(limit):
    norms = [np.sqrt(sum(np.sum(g * g) for g in gradient)) for gradient in gradients()]
    assert 0.5 < min(norms) and max(norms) < 100.0
    sgd = CoupledSGD(0.1, momentum=0.9, l2=0.1, clip_norm=limit)
    assert_close(train(sgd), torch_sgd(0.1, lambda t: 0.9, 0.1, limit))
    adam = CoupledAdam(0.01, epsilon=1e-8, l2=0.1, clip_norm=limit)
    assert_close(train(adam), torch_adam(0.01, (0.9, 0.999), 1e-8, 0.1, limit))


def test_one_step_by_hand():
    """w = 2, g = (3, 4) of norm 5 clipped to 1: g = (0.6, 0.8); d = g + 0.1·w; w −= 0.5·d."""
    variables = [tf.Variable(2.0), tf.Variable(2.0)]
    optimizer = CoupledSGD(0.5, l2=0.1, clip_norm=1.0)
    optimizer.apply_gradients(zip([tf.constant(3.0), tf.constant(4.0)], variables, strict=True))
    expected = [2 - 0.5 * (0.6 + 0.1 * 2), 2 - 0.5 * (0.8 + 0.1 * 2)]
    assert [variable.numpy() for variable in variables] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_the_momentum_follows_its_schedule(graph):
    schedule = OneCycleMomentum(steps=4)
    optimizer = CoupledSGD(0.1, momentum=0.3, momentum_schedule=schedule, l2=0.1)
    values = [float(schedule(t)) for t in range(STEPS)]
    assert len({round(value, 4) for value in values}) > 2
    assert_close(train(optimizer, graph), torch_sgd(0.1, values.__getitem__, 0.1))
    assert optimizer.momentum == 0.3  # the constant is there again after each step


def test_weights_without_a_gradient_are_left_alone():
    """As in PyTorch: no gradient, no decay."""
    used, unused = tf.Variable(1.0), tf.Variable(1.0)
    optimizer = CoupledSGD(0.5, momentum=0.9, l2=0.1, clip_norm=1.0)
    optimizer.build([unused, used])
    optimizer.apply_gradients([(None, unused), (tf.constant(1.0), used)])
    optimizer.apply_gradients([(tf.constant(0.0), unused), (None, used)])
    assert used.numpy() == pytest.approx(1 - 0.5 * (1 + 0.1))
    assert unused.numpy() == pytest.approx(1 - 0.5 * 0.1)


def test_kernel_constraints_are_kept():
    """Latent kernels are clipped to [−1, 1] after the step."""
    kernel = tf.Variable([0.9, -0.9], constraint=lambda w: tf.clip_by_value(w, -1.0, 1.0))
    CoupledSGD(1.0).apply_gradients([(tf.constant([-1.0, 0.5]), kernel)])
    assert kernel.numpy().tolist() == [1.0, -1.0]


def test_both_are_plain_keras_optimizers_without_their_options():
    ours, theirs = CoupledSGD(0.1, momentum=0.9), keras.optimizers.SGD(0.1, momentum=0.9)
    assert_close(train(ours), train(theirs), 0.0)
    for options in ({}, {"amsgrad": True}):
        ours, theirs = CoupledAdam(0.1, **options), keras.optimizers.Adam(0.1, **options)
        assert_close(train(ours), train(theirs), 0.0)


# -- rates of single weights -------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda **more: CoupledSGD(0.1, momentum=0.9, **more),
        lambda **more: CoupledSGD(
            OneCycle(0.1, 4), momentum=0.9, momentum_schedule=OneCycleMomentum(4), **more
        ),
        lambda **more: CoupledAdam(0.1, **more),
        lambda **more: CoupledAdam(OneCycle(0.1, 4), **more),
    ],
    ids=["sgd", "one-cycle sgd", "adam", "adam with a schedule"],
)
def test_a_multiplier_scales_the_update_itself(make, graph):
    """By 2⁻³, which floating point multiplies by exactly: from 0, w = Σu becomes 2⁻³·Σu."""

    def weights(**more):
        slow, other = (tf.Variable(np.zeros((3, 2), "f4"), name=n) for n in ("slow", "other"))
        optimizer = make(**more)
        optimizer.build([slow, other])

        def step(gradient):
            optimizer.apply_gradients([(gradient, slow), (gradient, other)])

        step = tf.function(step) if graph else step
        for gradient, _ in gradients():
            step(tf.constant(gradient))
        return slow.numpy(), other.numpy()

    slow, other = weights(rate_multipliers={"slow:0": 0.125, "not there:0": 7.0})
    plain, _ = weights()
    assert np.abs(plain).max() > 0.01
    np.testing.assert_array_equal(other, plain)
    np.testing.assert_array_equal(slow, np.float32(0.125) * plain)


def test_the_learning_rate_is_the_common_one_outside_an_update():
    slow = tf.Variable(0.0, name="slow")
    optimizer = CoupledSGD(0.5, rate_multipliers={"slow:0": 0.125})
    optimizer.apply_gradients([(tf.constant(1.0), slow)])
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    optimizer.apply_gradients([(tf.constant(1.0), slow)])
    assert float(optimizer.learning_rate) == 0.25
    assert slow.numpy() == -0.125 * (0.5 + 0.25)


def test_latent_kernels_are_those_of_binary_layers_at_any_depth():
    inner = keras.Sequential(
        [
            lq.layers.QuantConv2D(2, 3, name="float", input_shape=(8, 8, 3)),
            lq.layers.QuantConv2D(
                2, 3, name="binary", kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
            ),
            lq.layers.QuantSeparableConv2D(
                2,
                3,
                name="parts",
                depthwise_quantizer="ste_sign",
                pointwise_quantizer="ste_sign",
                depthwise_constraint="weight_clip",
                pointwise_constraint="weight_clip",
            ),
            lq.layers.QuantConv2D(2, 1, name="dorefa", kernel_quantizer=lq.quantizers.DoReFa(4)),
        ]
    )
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Flatten()])
    names = [kernel.name for kernel in latent_kernels(model)]
    assert names == ["binary/kernel:0", "parts/depthwise_kernel:0", "parts/pointwise_kernel:0"]
    trained = {id(weight) for weight in model.trainable_weights}
    assert all(id(kernel) in trained for kernel in latent_kernels(model))


OPTIMIZERS = {
    "sgd": lambda: CoupledSGD(0.1, momentum=0.9, l2=0.1, clip_norm=0.5),
    "one-cycle": lambda: CoupledSGD(
        OneCycle(0.1, 4), momentum=0.9, momentum_schedule=OneCycleMomentum(4), l2=0.1
    ),
    "adam": lambda: CoupledAdam(0.1, beta_1=0.5, epsilon=1e-8, l2=0.1, clip_norm=0.5),
    "multipliers": lambda: CoupledAdam(0.1, l2=0.1, rate_multipliers={"Variable:0": 0.5}),
    "defaults": lambda: CoupledSGD(),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_config_round_trip(make):
    optimizer = make()
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["l2"] == optimizer.l2
    assert again.rate_multipliers == optimizer.rate_multipliers
    assert_close(train(again), train(make()), 0.0)
    assert_close(train(type(again).from_config(optimizer.get_config())), train(make()), 0.0)


def test_their_names_are_those_of_the_package():
    for kind in (CoupledSGD, CoupledAdam):
        assert keras.utils.get_registered_name(kind) == f"bnas_larq>{kind.__name__}"


def test_a_norm_that_is_not_finite_spoils_all_weights():
    """As `tf.clip_by_global_norm`: else a broken gradient could hide in a weight nobody uses."""
    variables = [tf.Variable(1.0), tf.Variable(1.0)]
    gradients = [tf.constant(3e38), tf.constant(1.0)]
    CoupledSGD(0.1, clip_norm=1.0).apply_gradients(zip(gradients, variables, strict=True))
    assert all(np.isnan(variable.numpy()) for variable in variables)


@pytest.mark.parametrize("kind", [CoupledSGD, CoupledAdam])
def test_xla_does_not_compile_single_updates(kind):
    assert not kind(0.1, jit_compile=True).jit_compile


REPLICAS = """
from bnas_larq.backend import tf
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for kind in (CoupledSGD, CoupledAdam):
    with strategy.scope():
        weight = tf.Variable(2.0)
        optimizer = kind(0.5, l2=0.1, clip_norm=1.0)
        optimizer.build([weight])

    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply_gradients([(3.0 * (1.0 + tf.cast(number, tf.float32)), weight)])

    tf.function(lambda: strategy.run(replica))()
    print(*(round(float(value), 4) for value in strategy.experimental_local_results(weight)))
"""


def test_replicas_clip_and_decay_their_sum():
    """Gradients 3 and 6 of two devices: 9, clipped to 1; the decay of 2 is added once, 0.2."""
    code = [sys.executable, "-c", REPLICAS]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1.4 1.4", "1.5 1.5"]  # Adam's first step is its rate


# -- decay by kind ---------------------------------------------------------------------------------


def test_weights_have_kinds():
    cell = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
    size = {"input_shape": (8, 8, 3), "num_classes": 2, "channels": 2, "cells": 1}
    model = build_network(Genotype(cell, cell), **size)
    kinds = weight_kinds(model)
    assert kinds.keys() == {weight.name for weight in model.trainable_weights}
    conv = "cell0_node0_from0_bin_conv_3x3_conv/kernel:0"
    expected = {
        "binary": {
            *(f"cell0_preprocess{source}_conv/kernel:0" for source in (0, 1)),
            conv,
        },
        "kernels": {"stem_conv/kernel:0"},
        "head": {"classifier/kernel:0", "classifier/bias:0"},
    }
    for kind, names in expected.items():
        assert {name for name, own in kinds.items() if own == kind} == names
    rest = {name: kind for name, kind in kinds.items() if kind not in expected}
    assert set(rest.values()) == {"batch_norm"}
    assert all(name.endswith(("_bn/gamma:0", "_bn/beta:0")) for name in rest)


@pytest.mark.parametrize("make", [CoupledSGD, CoupledAdam])
def test_decay_by_name(make):
    """Each variable moves as with its own decay for all; 0 where none is named."""
    first, second = train(make(0.1, l2=0.5))[0], train(make(0.1, l2=0.0))[1]
    variables = [tf.Variable(value, name=f"named_{n}") for n, value in enumerate(start())]
    optimizer = make(0.1, l2={"named_0:0": 0.5})
    for step in gradients():
        optimizer.apply_gradients(zip(map(tf.constant, step), variables, strict=True))
    np.testing.assert_array_equal(variables[0], first)
    np.testing.assert_array_equal(variables[1], second)
    assert make.from_config(optimizer.get_config()).l2 == {"named_0:0": 0.5}
