"""Schemes and spaces in a whole supernet: what a step trains, and what it adds to the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.layers.projection import ProjectionLoss
from bnas_larq.networks.optimizers import CoupledSGD
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.alpha_gradients import SecondOrder
from bnas_larq.supernet.super_net import SuperNet

CONVOLUTIONS = ("bin_conv_3x3_linear",)


def small(scheme: str, space: SearchSpace | None = None, **settings) -> SuperNet:
    keras.utils.set_random_seed(0)
    names = ("none", "identity", *CONVOLUTIONS)
    space = space or SearchSpace("small", names, names, nodes=1, shortcut=False)
    return SuperNet(space, 3, cells=1, channels=2, scheme=scheme, input_shape=(6, 6, 3), **settings)


def batch(seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.random.stateless_normal([6, 6, 6, 3], [seed, 1]), tf.constant([0, 1, 2, 0, 1, 2])


def halves() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors((batch(0), batch(1)))


def of_projections(net: SuperNet) -> list[tf.Variable]:
    return [variable for variable in net.network_variables if "projection" in variable.name]


def test_the_projection_losses_of_pcnn_are_losses_of_the_supernet():
    """One for each convolution of each state that edges leave."""
    net = small("pcnn")
    assert len(net.losses) == 2 * len(CONVOLUTIONS) == len(of_projections(net))
    assert all(float(loss) > 0 for loss in net.losses)


@pytest.mark.parametrize("gradient", [None, SecondOrder()], ids=["first order", "second order"])
def test_a_step_moves_projections_as_one_backward_pass_says(gradient):
    """Also where α's half quantises the kernels at other weights in between: δ belongs to the
    training half's own pass."""
    net = small("pcnn", alive=None)
    for layer in net.submodules:
        regulariser = getattr(layer, "kernel_regularizer", None)
        if isinstance(regulariser, ProjectionLoss):
            regulariser.weight = 5.0
            layer.kernel_quantizer.step = 20.0  # so large that δ counts
    before = [variable.numpy() for variable in net.network_variables]
    alphas = [alpha.numpy() for alpha in net.alphas]
    net.compile(
        CoupledSGD(0.01), keras.optimizers.SGD(0.0), alpha_gradient=gradient, run_eagerly=False
    )
    net.fit(halves(), verbose=0)
    moved = [variable.numpy() for variable in net.network_variables]
    for variable, value in zip(net.network_variables, before, strict=True):
        variable.assign(value)
    for alpha, value in zip(net.alphas, alphas, strict=True):
        np.testing.assert_array_equal(alpha, value)
    inputs, labels = batch(0)
    with tf.GradientTape() as tape:
        logits = net(inputs, training=True)
        task = tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )
        objective = task + tf.add_n(net.losses)
    gradients = tape.gradient(objective, net.network_variables)
    found = 0
    for variable, value, after, received in zip(
        net.network_variables, before, moved, gradients, strict=True
    ):
        if "projection" in variable.name:
            found += 1
            step = 0.01 * received.numpy()
            np.testing.assert_allclose(value - after, step, rtol=1e-3, atol=1e-7)
    assert found == len(of_projections(net))


@pytest.mark.parametrize("scheme", ["full-precision", "pcnn", "abc-net", "bonn"])
def test_a_search_with_each_scheme_moves_every_kernel(scheme):
    net = small(scheme)
    kernels = [v for v in net.network_variables if "kernel" in v.name]
    before = [kernel.numpy() for kernel in kernels]
    net.compile()
    history = net.fit(halves(), verbose=0).history
    assert np.isfinite(history["loss"][0])
    for kernel, value in zip(kernels, before, strict=True):
        assert np.any(kernel.numpy() != value), kernel.name
    again = SuperNet.from_config(net.get_config())
    again.set_weights(net.get_weights())
    inputs, _ = batch(2)
    np.testing.assert_array_equal(again(inputs), net(inputs))


@pytest.mark.parametrize("name", ["bnas-ucb", "darts-binary"])
def test_the_other_spaces_are_searched_and_derived(name, tmp_path):
    space = dataclasses.replace(SearchSpace.named(name), nodes=1)
    net = small("sign-scale", space)
    net.compile()
    net.fit(halves(), verbose=0)
    genotype = net.genotype()
    assert {edge.op for node in genotype.normal for edge in node} <= set(space.normal)
    net.save_weights(tmp_path / "net.weights.h5")
    again = small("sign-scale", space)
    again.load_weights(tmp_path / "net.weights.h5")
    inputs, _ = batch(2)
    np.testing.assert_array_equal(again(inputs), net(inputs))
