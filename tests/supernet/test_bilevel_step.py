"""The bilevel step by hand: what it moves, and what it does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_supernet import OPERATIONS, halves, images, labels, supernet

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.constraints import centre_and_clip
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.supernet.architecture import AnnealedEntropy
from bnas_larq.supernet.super_net import SuperNet


def one_step(net: SuperNet) -> None:
    """One step of `fit`, with the same kernels as an eager calculation by hand."""
    net.fit(halves(1), verbose=0)


def copy_of(net: SuperNet) -> SuperNet:
    other = SuperNet.from_config(net.get_config())
    other.set_weights(net.get_weights())
    return other


def test_first_order_update_by_hand():
    """α descend L_val − λ·H at the present weights, then the weights L_train at the new α."""
    net = supernet()
    net.compile(
        optimizer=CoupledSGD(0.1, momentum=0.9, l2=3e-4, clip_norm=0.5),
        alpha_optimizer=CoupledSGD(2.0, l2=1e-3),
        diversity=AnnealedEntropy(0.7, 7.7),
        run_eagerly=True,
    )
    other = copy_of(net)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    (x_train, y_train), (x_val, y_val) = next(iter(halves(1)))

    with tf.GradientTape() as tape:
        entropies = []
        for alpha in other.alphas:
            shares = tf.nn.softmax(alpha)
            entropies.append(-tf.reduce_sum(shares * tf.math.log(shares), -1))
        entropy = tf.reduce_mean(tf.concat(entropies, 0))
        objective = cross_entropy(y_val, other(x_val, training=True)) - 0.7 * entropy
    for alpha, gradient in zip(other.alphas, tape.gradient(objective, other.alphas), strict=True):
        assert np.any(gradient)
        alpha.assign(alpha - 2.0 * (gradient + 1e-3 * alpha))

    with tf.GradientTape() as tape:
        loss = cross_entropy(y_train, other(x_train, training=True))
    gradients = tape.gradient(loss, other.network_variables)
    assert not any(gradient is None for gradient in gradients)
    norm = math.sqrt(sum(float(tf.reduce_sum(gradient**2)) for gradient in gradients))
    for variable, gradient in zip(other.network_variables, gradients, strict=True):
        clipped = gradient * min(1.0, 0.5 / norm)
        moved = variable - 0.1 * (clipped + 3e-4 * variable)
        variable.assign(centre_and_clip(moved) if is_binary(variable) else moved)

    one_step(net)
    for one, copy in zip(net.trainable_weights, other.trainable_weights, strict=True):
        np.testing.assert_allclose(one.numpy(), copy.numpy(), atol=2e-6, err_msg=one.name)
    # The moving statistics have seen both halves, the validation half first.
    for one, copy in zip(net.non_trainable_weights, other.non_trainable_weights, strict=True):
        if "moving" in one.name:
            np.testing.assert_allclose(one.numpy(), copy.numpy(), atol=1e-5, err_msg=one.name)


def is_binary(variable: tf.Variable) -> bool:
    return "bin_conv" in variable.name


def test_the_alpha_step_leaves_the_weights_and_the_weight_step_leaves_alpha():
    still = CoupledSGD(0.0)
    for moving in ("alpha", "weights"):
        net = supernet(cells=1)
        for variable in net.network_variables:
            if is_binary(variable):  # as the constraint leaves them
                variable.assign(centre_and_clip(variable))
        rates = {"optimizer": still, "alpha_optimizer": CoupledSGD(1.0)}
        if moving == "weights":
            rates = {"optimizer": CoupledSGD(0.1), "alpha_optimizer": CoupledSGD(0.0)}
        net.compile(**rates, run_eagerly=True)
        groups = {"alpha": net.alphas, "weights": net.network_variables}
        before = {key: [v.numpy() for v in group] for key, group in groups.items()}
        one_step(net)
        for key, group in groups.items():
            for variable, value in zip(group, before[key], strict=True):
                if key == moving:
                    assert np.any(variable.numpy() != value), variable.name
                else:
                    np.testing.assert_allclose(variable.numpy(), value, atol=1e-7)


def test_default_optimizers_are_the_papers():
    net = supernet(cells=1)
    net.compile()
    assert isinstance(net.optimizer, CoupledSGD) and isinstance(net.alpha_optimizer, CoupledAdam)
    first, second = net.optimizer.get_config(), net.alpha_optimizer.get_config()
    assert (first["learning_rate"], first["momentum"], first["l2"]) == pytest.approx(
        (0.025, 0.9, 3e-4)
    )
    assert (second["learning_rate"], second["beta_1"], second["beta_2"], second["l2"]) == (
        pytest.approx((3e-4, 0.5, 0.999, 1e-3))
    )
    assert net.diversity.get_config() == {"weight": 1.0, "tau": 7.7}


def test_weight_0_switches_the_entropy_off():
    net = supernet(cells=1)
    net.compile(diversity=AnnealedEntropy(weight=0))
    task, objective, _ = net.alpha_loss(images(0), labels(0))
    assert float(task) == float(objective)
    net.compile(diversity=AnnealedEntropy(weight=0.5))
    net.epoch.assign(3.0)
    task, objective, _ = net.alpha_loss(images(0), labels(0))
    expected = 0.5 * math.exp(-3 / 7.7) * math.log(len(OPERATIONS))
    assert float(task - objective) == pytest.approx(expected, rel=1e-3)


def test_a_loss_function_counts_as_its_mean_over_the_batch():
    """A function gives one loss for each example; its gradient must not grow with the batch."""
    net, losses = supernet(cells=1), keras.losses
    net.compile(loss=lambda y, z: losses.sparse_categorical_crossentropy(y, z, from_logits=True))
    by_function, *_ = net.alpha_loss(images(0), labels(0))
    net.compile(loss=losses.SparseCategoricalCrossentropy(from_logits=True))
    by_object, *_ = net.alpha_loss(images(0), labels(0))
    assert by_function.shape == () and float(by_function) == pytest.approx(float(by_object))


def test_batches_without_halves_are_refused():
    net = supernet(cells=1)
    net.compile()
    plain = tf.data.Dataset.from_tensors((tf.zeros([2, 8, 8, 3]), tf.zeros([2], tf.int32)))
    with pytest.raises(BnasLarqError, match="batches of both halves"):
        net.fit(plain)
