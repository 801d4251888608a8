"""The training form of whole networks: the same function, in float32 and nearly so in bfloat16."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.batch_norm import BatchNorm2D, batch_norm
from bnas_larq.layers.binary_convolution import BinaryConv2D, MixedPrecisionConv2D
from bnas_larq.layers.convolutions import convolution
from bnas_larq.layers.kernel_groups import StepKernels
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.networks.fast_training import fast_training
from bnas_larq.networks.network import build_network
from bnas_larq.networks.residual_network import build_residual_network
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.teachers import Distilled, Teacher, attention_distance
from bnas_larq.training.trainer import make_loss


def pictures(*shape: int, seed: int = 0) -> tf.Tensor:
    """Normal numbers with exact zeros and ones among them."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x.reshape(-1)[:4] = [0.0, 1.0, -1.0, np.nextafter(np.float32(1), np.float32(2))]
    return tf.constant(x)


SIZE = {"input_shape": (16, 16, 3), "num_classes": 3, "channels": 4, "cells": 3}


def network(seed: int = 0) -> keras.Model:
    """A network of every kind of binary convolution, whose scales are powers of two.

    With such scales larq's order of operations is exact too: no sum that should be zero is not.
    """
    keras.utils.set_random_seed(seed)
    model = build_network(Genotype.load("bnas_imagenet"), **SIZE)
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, BinaryConv2D):
            shape = layer.kernel.shape
            signs = np.where(np.arange(shape[2]) % 2, 0.25, -0.25)[:, None] * np.ones(shape)
            signs *= generator.choice([-1.0, 1.0], size=(*shape[:2], 1, shape[3]))
            layer.kernel.assign(signs)
    return model


def losses_and_gradients(model: keras.Model) -> list[np.ndarray]:
    x = pictures(4, *SIZE["input_shape"], seed=3)
    with tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = tf.reduce_sum(logits * pictures(4, 3, seed=4))
    return [t.numpy() for t in (logits, *tape.gradient(loss, model.trainable_weights))]


def test_a_network_trains_as_with_larqs_layers(monkeypatch):
    own = losses_and_gradients(network())
    monkeypatch.setattr(BinaryConv2D, "is_plain", False)
    expected = losses_and_gradients(network())
    # Some are 0 but for rounding: a bias in front of a BatchNorm changes nothing.
    largest = max(np.abs(other).max() for other in expected)
    for one, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6 * largest)


def test_the_type_changes_training_alone_and_for_a_while_only():
    model = network()
    x = pictures(4, *SIZE["input_shape"], seed=3)
    trained = losses_and_gradients(model)
    weights = model.get_weights()
    evaluated = model(x, training=False).numpy()
    model.compile("sgd", "mse")
    function = model.make_train_function()
    with pytest.raises(ZeroDivisionError), fast_training(model, "bfloat16"):
        assert model.train_function is None
        low = losses_and_gradients(model)
        model.set_weights(weights)  # of BatchNorm's statistics
        np.testing.assert_array_equal(model(x, training=False), evaluated)
        model.train_function = function
        raise ZeroDivisionError
    assert model.train_function is None
    assert {layer.compute for layer in model.layers if isinstance(layer, BinaryConv2D)} == {
        "float32"
    }
    for one, other in zip(losses_and_gradients(model), trained, strict=True):
        np.testing.assert_array_equal(one, other)
    assert all(np.isfinite(value).all() for value in low)
    assert not np.array_equal(low[0], trained[0])


def test_layers_of_models_inside_are_found():
    inner = network()
    outer = keras.Sequential([inner])
    with fast_training(outer, "bfloat16"):
        assert {layer.compute for layer in inner.layers if isinstance(layer, BinaryConv2D)} == {
            "bfloat16"
        }


def test_the_real_network_of_a_binary_layout_trains_in_bfloat16():
    """All its convolutions; evaluation keeps its bits."""
    settings = {"activations": "tanh", "kernels": "real"}
    model = build_network(Genotype.load("bnas_cifar"), **SIZE, **settings)
    real = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert all(isinstance(layer, MixedPrecisionConv2D) for layer in real)
    x = pictures(4, *SIZE["input_shape"], seed=3)
    evaluated, weights = model(x, training=False).numpy(), model.get_weights()
    trained = losses_and_gradients(model)
    model.set_weights(weights)  # of BatchNorm's statistics
    with fast_training(model, "bfloat16"):
        assert {layer.compute for layer in real} == {"bfloat16"}
        np.testing.assert_array_equal(model(x, training=False), evaluated)
        low = losses_and_gradients(model)
    assert 0 < np.linalg.norm(low[0] - trained[0]) < 0.05 * np.linalg.norm(trained[0])
    assert {weight.dtype for weight in model.weights} == {tf.float32}


def test_an_unknown_type_is_refused():
    with (
        pytest.raises(BnasLarqError, match="Received: 'float16'"),
        fast_training(network(), "float16"),
    ):
        pass


# -- BatchNorm in front of a sign ------------------------------------------------------------------


def behind_norms(channels: int, readers: int = 1) -> keras.Model:
    """Binary convolutions of the same images, each behind a BatchNorm of its own."""
    images = keras.Input((8, 8, channels))
    outputs = []
    for reader in range(readers):
        conv = convolution(
            6, 3, name=f"conv{reader}", input_scheme="sign-scale", kernel_scheme="sign-scale"
        )
        outputs.append(conv(batch_norm(f"norm{reader}")(images)))
    model = keras.Model(images, outputs)
    generator = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, BatchNorm2D):
            layer.gamma.assign(generator.uniform(0.5, 1.5, channels))
            layer.beta.assign(generator.normal(0.0, 0.5, channels))
    return model


def steps(model: keras.Model, x: tf.Tensor) -> list[np.ndarray]:
    """Outputs, all gradients and the moving statistics of one pass in training."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = tf.nest.flatten(model(x, training=True))
        outputs = [tf.cast(output, tf.float32) for output in outputs]
        loss = sum(
            tf.reduce_sum(output * pictures(*output.shape, seed=number))
            for number, output in enumerate(outputs)
        )
    gradients = tape.gradient(loss, [x, *model.trainable_weights])
    return [value.numpy() for value in (*outputs, *gradients, *model.non_trainable_weights)]


@pytest.mark.parametrize("channels", [3, 16, 36])
def test_norm_and_sign_together_are_both_after_one_another(channels):
    x = pictures(4, 8, 8, channels, seed=5) * 2.0 + 1.0
    model = behind_norms(channels)
    weights = model.get_weights()
    apart = steps(model, x)
    model.set_weights(weights)  # of BatchNorm's statistics
    with fast_training(model, "float32"):
        assert model.get_layer("norm0").deferred
        together = steps(model, x)
    assert not model.get_layer("norm0").deferred
    for one, other in zip(together, apart, strict=True):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


def test_in_bfloat16_they_are_close():
    x = pictures(16, 8, 8, 36, seed=5) * 2.0 + 1.0
    model = behind_norms(36)
    weights = model.get_weights()
    exact = steps(model, x)
    model.set_weights(weights)
    with fast_training(model, "bfloat16"):
        low = steps(model, x)
    # Rounding moves some values across 0 or ±1, where sign and gradient jump.
    for one, other in zip(low, exact, strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(other)


def test_layers_that_read_the_same_images_share_their_statistics():
    model = behind_norms(5, readers=3)
    with fast_training(model, "float32"):
        traced = tf.function(lambda x: model(x, training=True), autograph=False)
        graph = traced.get_concrete_function(tf.TensorSpec([4, 8, 8, 5])).graph
    calls = [op for op in graph.get_operations() if "moments" in str(op.node_def.attr.get("f"))]
    assert len(calls) == 1


def test_a_norm_that_something_else_reads_normalises():
    images = keras.Input((8, 8, 4))
    normalised = batch_norm("norm")(images)
    conv = convolution(4, 3, name="conv", input_scheme="xnor", kernel_scheme="xnor")
    binary = conv(normalised)
    for model in (
        keras.Model(images, [binary, normalised]),
        keras.Model(images, keras.layers.Add()([binary, normalised])),
    ):
        with fast_training(model, "float32"):
            assert not model.get_layer("norm").deferred


def test_a_frozen_norm_uses_its_moving_statistics():
    model = behind_norms(4)
    norm = model.get_layer("norm0")
    norm.trainable = False
    norm.moving_mean.assign([1.0, -1.0, 0.5, 0.0])
    x = pictures(4, 8, 8, 4)
    expected = model(x, training=False).numpy()
    with fast_training(model, "float32"):
        np.testing.assert_allclose(model(x, training=True), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(norm.moving_mean, np.float32([1.0, -1.0, 0.5, 0.0]))


def test_a_sign_with_another_gradient_stands_behind_its_norm():
    model = build_network(
        Genotype.load("bnas_cifar"), **SIZE, activation_gradient="approx", activation_clip=1.5
    )
    with fast_training(model, "bfloat16"):
        assert not any(layer.deferred for layer in model.layers if isinstance(layer, BatchNorm2D))
        assert all(np.isfinite(value).all() for value in losses_and_gradients(model))


def test_attention_compares_a_batch_norm_in_front_of_a_sign():
    """Which nothing else reads but the loss."""
    size = {"input_shape": (8, 8, 3), "num_classes": 3, "widths": (4,), "blocks": (2,)}
    order = {"block_order": "bn-sign-conv-act-add"}
    student, known = (build_residual_network(**size, **order) for _ in range(2))
    name, x, labels = "block0_1_bn", pictures(4, 8, 8, 3).numpy(), np.array([0, 2, 1, 1])
    # So that its output has its energy elsewhere than its input.
    student.get_layer(name).beta.assign([3.0, -2.0, 1.0, 0.0])
    own, other = (keras.Model(m.inputs, m.get_layer(name).output) for m in (student, known))
    expected = float(attention_distance(own(x, training=True), other(x)))
    weights = {"weight": 0.0, "cross_entropy": 0.0, "attention": 1.0}
    settings = TeacherSettings(model="x", layers={name: name}, **weights)
    model = Distilled(student, Teacher(known, settings), make_loss(TrainSettings(), 3))
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    with fast_training(model, "float32"):
        assert model.get_layer("block0_0_bn").deferred
        logs = model.fit(x, labels, verbose=0).history
    assert logs["loss"] == [pytest.approx(expected, rel=1e-4)]


# -- types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"transition": "depthwise", "nonlinearity": "prelu"},
        {"transition": "pool-conv", "strided_blocks": True, "nonlinearity": "rprelu"},
        {"transition": "blur-conv", "block_order": "bn-sign-conv-act-add"},
        {"activations": "relu", "kernels": "real"},
        {"scheme": "full-precision"},
        {"activation_gradient": "annealed"},
        {"pad_values": 1, "strided_blocks": True, "transition": "conv"},
        {"pad_values": 1, "kernels": "real"},
    ],
)
def test_every_residual_network_trains_in_bfloat16(settings):
    size = {"input_shape": (8, 8, 3), "num_classes": 3, "widths": (4, 8), "blocks": (1, 2)}
    model = build_residual_network(**size, **settings)
    x = pictures(4, 8, 8, 3)
    with fast_training(model, "bfloat16"), tf.GradientTape() as tape:
        logits = model(x, training=True)
        loss = tf.reduce_sum(logits * pictures(4, 3, seed=4))
    assert logits.dtype == tf.float32
    for gradient in tape.gradient(loss, model.trainable_weights):
        assert gradient.dtype == tf.float32 and np.isfinite(gradient).all()


@pytest.mark.parametrize("shortcut", ["conv", "pool", "depthwise", "none"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_every_network_of_cells_trains_in_bfloat16(shortcut, padding):
    operations = [
        ("max_pool_3x3", "avg_pool_3x3"),
        ("identity", "bin_sep_conv_3x3"),
        ("bin_res_conv_3x3", "bin_dil_conv_5x5"),
    ]
    cell = [[(first, 0), (second, 1)] for first, second in operations]
    model = build_network(Genotype(cell, cell), **SIZE, shortcut=shortcut, padding=padding)
    with fast_training(model, "bfloat16"):
        results = losses_and_gradients(model)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in results)


def test_activations_stay_in_bfloat16_from_stem_to_pool():
    """Nothing between them reads float32 images, but for convolutions on CPUs whose kernels for
    bfloat16 round partial sums."""
    model = build_residual_network(input_shape=(16, 16, 3), widths=(16, 32), blocks=(2, 2))
    with fast_training(model, "bfloat16"):
        traced = tf.function(lambda x: model(x, training=True), autograph=False)
        graph = traced.get_concrete_function(tf.TensorSpec([4, 16, 16, 3])).graph
    wide = [
        op for op in graph.get_operations() if op.type == "Cast" and op.outputs[0].shape.rank == 4
    ]
    wide = [op for op in wide if "pool" not in op.name and op.outputs[0].dtype == tf.float32]
    assert {reader.type for op in wide for reader in op.outputs[0].consumers()} <= {"Conv2D"}


def test_kernels_are_quantised_in_groups_in_steps(monkeypatch):
    def trained(grouped: bool) -> tuple[int, list[np.ndarray]]:
        """Number of calls of quantizers, and weights behind a step."""
        model = network()
        model.compile("sgd", "mse")
        kernels, own = [], SignScale.call

        def call(self, kernel):
            kernels.append(kernel)
            return own(self, kernel)

        with monkeypatch.context() as patch, fast_training(model, "float32"):
            patch.setattr(SignScale, "call", call)
            if not grouped:
                patch.setattr(StepKernels, "of", lambda *_: None)
            model.train_on_batch(pictures(4, *SIZE["input_shape"], seed=3), pictures(4, 3, seed=4))
        return len(kernels), model.get_weights()

    (together, weights), (alone, expected) = trained(True), trained(False)
    assert 3 * together < alone
    # The mean of a channel's latent weights is added up in another order.
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
