"""PCNN: the projection and its loss against numbers worked out by hand, in any larq network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.binary_convolution import BinaryConv2D
from bnas_larq.layers.projection import (
    Magnitude,
    PCNNProjection,
    ProjectionLoss,
    pcnn_projection,
)
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.networks.optimizers import latent_kernels


def numbers(*shape: int, seed: int = 0, size: float = 0.8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, size, shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def gradients(kernel, projection, delta, weight: float, step: float):
    """(Ĉ, distance, what C and W receive) when Ĉ receives δ and the distance λ."""
    kernel, projection = tf.constant(kernel), tf.constant(projection)
    with tf.GradientTape() as tape:
        tape.watch((kernel, projection))
        binary, distance = pcnn_projection(kernel, projection, step)
        loss = tf.reduce_sum(binary * delta) + weight * distance
    return [t.numpy() for t in (binary, distance, *tape.gradient(loss, (kernel, projection)))]


def test_two_weights_in_plain_numbers():
    # C = (3/4, −1/4), W = (1, 2) of two input channels: W̄ = 3/2, a = (3/4 + 1/4)/2 = 1/2.
    # |W̄·C| = (9/8, 3/8): the straight-through estimator passes the second only.
    # δ = (1, 2), η = 1/4, λ = 10: C + η·δ = (1, 1/4);
    # R = W∘(C + η·δ) − Ĉ = (1 − 1/2, 2·1/4 + 1/2) = (1/2, 1).
    kernel = np.array([[0.75], [-0.25]], np.float32)
    projection = np.array([[1.0], [2.0]], np.float32)
    delta = np.array([[1.0], [2.0]], np.float32)
    binary, distance, dkernel, dprojection = gradients(kernel, projection, delta, 10.0, 0.25)
    np.testing.assert_array_equal(binary, [[0.5], [-0.5]])
    # ½·((1/2 − 3/4)² + (−1/2 + 2·1/4)²)
    assert distance == 0.5 * (0.25**2 + 0.0**2)
    np.testing.assert_allclose(dkernel, [[10 * 0.5 * 1], [2 * 1.5 + 10 * 1 * 2]])
    # Each entry of W has half of W̄'s: (2·(−1/4))/2.
    np.testing.assert_allclose(dprojection, [[-0.25 + 10 * 0.5 * 1], [-0.25 + 10 * 1 * 0.25]])


def by_hand(kernel, projection, delta, weight, step):
    """The module's formulas, weight by weight."""
    parts = projection.shape[-1]
    filters = kernel.shape[-1] // parts
    binary, dkernel = np.zeros_like(kernel, np.float64), np.zeros_like(kernel, np.float64)
    dprojection, distance = np.zeros_like(projection, np.float64), 0.0
    for part in range(parts):
        own = slice(part * filters, (part + 1) * filters)
        scale = np.abs(kernel[..., own]).mean()
        for *place, channel, out in np.ndindex(*kernel.shape[:-1], filters):
            out += part * filters
            plane = tuple(place)
            c, d = float(kernel[(*plane, channel, out)]), float(delta[(*plane, channel, out)])
            w = float(projection[(*plane, channel, part)])
            mean = float(projection[(*plane, slice(None), part)].mean())
            value = scale if mean * c >= 0 else -scale
            binary[(*plane, channel, out)] = value
            distance += 0.5 * (value - w * c) ** 2
            passed = d if abs(mean * c) <= 1 else 0.0
            rest = w * (c + step * d) - value
            dkernel[(*plane, channel, out)] = passed * mean + weight * rest * w
            dprojection[(*plane, slice(None), part)] += passed * c / projection.shape[-2]
            dprojection[(*plane, channel, part)] += weight * rest * (c + step * d)
    return binary, distance, dkernel, dprojection


@pytest.mark.parametrize("parts", [1, 3])
def test_a_kernel_equals_the_formulas(parts):
    kernel, projection = numbers(3, 3, 2, 6), positive(3, 3, 2, parts)
    delta = numbers(3, 3, 2, 6, seed=1)
    assert np.abs(kernel).max() > 1.0
    ours = gradients(kernel, projection, delta, 0.7, 0.3)
    for one, other in zip(ours, by_hand(kernel, projection, delta, 0.7, 0.3), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_projection_loss_is_differentiated_with_the_binary_kernel_and_delta_held():
    """Finite differences of λ/2·‖Ĉ − W∘(C + η·δ)‖², at fixed Ĉ and δ; what δ alone brings is
    taken off."""
    kernel, projection = numbers(3, 3, 2, 2), positive(3, 3, 2, 1)
    delta, weight, step = numbers(3, 3, 2, 2, seed=1), 0.7, 0.3
    binary, _, *whole = gradients(kernel, projection, delta, weight, step)
    _, _, *task = gradients(kernel, projection, delta, 0.0, step)

    def loss(kernel, projection):
        ahead = kernel + step * delta
        return weight / 2 * np.sum((binary - projection * ahead) ** 2)

    start = [kernel.astype(np.float64), projection.astype(np.float64)]
    for which in (0, 1):
        for place in ((0, 1, 0, 0), (2, 2, 1, 0)):
            moved = [array.copy() for array in start]
            moved[which][place] += 1e-4
            difference = (loss(*moved) - loss(*start)) / 1e-4
            assert (whole[which] - task[which])[place] == pytest.approx(difference, rel=1e-2)


def layer(**settings) -> lq.layers.QuantConv2D:
    settings = {"kernel_regularizer": ProjectionLoss(0.5), "use_bias": False, **settings}
    return lq.layers.QuantConv2D(
        4,
        3,
        padding="same",
        input_quantizer="ste_sign",
        kernel_quantizer=PCNNProjection(0.3),
        kernel_constraint=lq.constraints.WeightClip(),
        **settings,
    )


def received(model: keras.Model, x: np.ndarray, with_losses: bool = True) -> list[tf.Tensor]:
    """Gradients of a model's weights for an uneven loss."""
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=3))
        if with_losses:
            loss += tf.add_n(model.losses)
    return tape.gradient(loss, model.trainable_variables)


def value(model: keras.Model, weight: float = 0.5) -> float:
    """What the projection loss should say."""
    kernel, projection = model.get_weights()
    return weight * by_hand(kernel, projection, kernel, 0, 0)[1]


def expected(model: keras.Model, x: np.ndarray, weight: float):
    """What C and W should receive: δ is what an ordinary convolution's kernel ±a receives."""
    kernel, projection = model.get_weights()
    signs = tf.constant(np.where(x >= 0, 1.0, -1.0), tf.float32)
    binary = tf.constant(by_hand(kernel, projection, kernel, 0, 0)[0], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(binary)
        outputs = tf.nn.conv2d(signs, binary, 1, "SAME")
        loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=3))
    delta = tape.gradient(loss, binary).numpy()
    return by_hand(kernel, projection, delta, weight, 0.3)[2:]


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("kind", ["larq", "ours"])
def test_in_a_network_the_regulariser_brings_the_losses_gradient(kind, graph):
    convolution = layer()
    if kind == "ours":
        convolution = BinaryConv2D.from_config(convolution.get_config())
        assert convolution.is_plain
    model = keras.Sequential([keras.Input((6, 6, 2)), convolution])
    x = numbers(2, 6, 6, 2, seed=2)
    kernel, projection = model.get_weights()
    assert kernel.shape == (3, 3, 2, 4) and projection.shape == (3, 3, 2, 1)
    model.set_weights([kernel, positive(3, 3, 2, 1)])
    for weight, with_losses in ((0.5, True), (0.0, False)):
        compute = tf.function(received, autograph=False) if graph else received
        pairs = zip(compute(model, x, with_losses), expected(model, x, weight), strict=True)
        for ours, other in pairs:
            np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-4)


def test_the_losses_value_is_that_of_the_present_weights():
    model = keras.Sequential([keras.Input((6, 6, 2)), layer()])
    (before,) = model.losses  # nobody has called it with numbers yet
    assert float(before) == pytest.approx(value(model), rel=1e-5)
    x = numbers(2, 6, 6, 2)
    model(x)
    tf.function(model)(x)  # leaves a tensor of a graph that is over
    model.set_weights([numbers(3, 3, 2, 4, seed=4), positive(3, 3, 2, 1)])
    (after,) = model.losses
    assert float(after) == pytest.approx(value(model), rel=1e-5)
    model.compile("sgd", "mse")
    assert model.evaluate(x, model(x), verbose=0) == pytest.approx(value(model), rel=1e-5)


def test_training_moves_kernel_and_projection_and_keeps_the_latter_positive():
    model = keras.Sequential([keras.Input((6, 6, 2)), layer()])
    model.compile(keras.optimizers.SGD(5.0), "mse")
    before = model.get_weights()
    model.fit(numbers(4, 6, 6, 2), numbers(4, 6, 6, 4, size=9.0), epochs=3, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(one, other)
    assert np.all(model.get_weights()[1] >= 0)
    np.testing.assert_array_equal(Magnitude()(tf.constant([-2.0, 3.0])), [2.0, 3.0])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_it_is_saved_and_is_a_latent_binary_kernel(tmp_path, suffix):
    model = keras.Sequential([keras.Input((6, 6, 2)), layer()])
    model.set_weights([numbers(3, 3, 2, 4), positive(3, 3, 2, 1)])
    model.save(tmp_path / f"model.{suffix}")
    again = keras.models.load_model(tmp_path / f"model.{suffix}")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(again.losses[0]) == float(model.losses[0])
    assert [kernel.name for kernel in latent_kernels(model)] == [model.layers[0].kernel.name]
    with lq.context.quantized_scope(True):
        binary = keras.backend.get_value(model.layers[0].kernel)
    assert len(np.unique(np.abs(binary))) == 1


@pytest.mark.parametrize("made", [PCNNProjection(0.1, 2), ProjectionLoss(0.3), Magnitude()])
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()
    assert config["registered_name"].startswith("bnas_larq>")


def test_what_it_refuses():
    with pytest.raises(BnasLarqError, match="equal parts.* Received: 4 filters, parts=3"):
        PCNNProjection(parts=3).build((3, 3, 2, 4))
    foreign = keras.layers.Conv2D(2, 3, kernel_regularizer=ProjectionLoss(), name="own")
    foreign.build((None, 6, 6, 2))
    with pytest.raises(BnasLarqError, match="that PCNNProjection quantises. Received.*NoneType"):
        _ = foreign.losses


def test_the_scheme_gives_each_edge_of_a_wide_kernel_its_own_projection():
    settings = get_scheme("pcnn").kernel_settings(parts=3)
    quantizer = settings["kernel_quantizer"]
    assert quantizer.parts == quantizer.scales((3, 3, 2, 12)) == 3
    assert isinstance(settings["kernel_regularizer"], ProjectionLoss)
    kernels = [numbers(3, 3, 2, 4, seed=seed, size=0.3 * (seed + 1)) for seed in range(3)]
    together = quantizer(tf.constant(np.concatenate(kernels, -1)))
    alone = [PCNNProjection()(tf.constant(kernel)) for kernel in kernels]
    np.testing.assert_allclose(together, tf.concat(alone, -1), rtol=1e-6)
