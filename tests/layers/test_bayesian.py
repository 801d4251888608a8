"""BONN: kernels, losses and gradients against the printed formulas and automatic differentiation of
the printed losses, in any larq network, and as the scheme of one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.bayesian import (
    LEAST_DEVIATION,
    AtLeast,
    BayesianFeatureLoss,
    BayesianKernelLoss,
    BONNKernel,
    HeldBONNKernel,
    bayesian_feature_loss,
    bayesian_kernel_loss,
    bonn_kernel,
)
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.networks.residual_network import build_residual_network


def numbers(*shape: int, seed: int = 0, size: float = 0.8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, size, shape).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


# -- the kernel in use -----------------------------------------------------------------------------


def test_two_weights_in_plain_numbers():
    # X = (3/4, −1/4), w = (1, 3): w̄ = 2, |w∘X| = (3/4, 3/4): both pass. ∂L/∂X̂ is (1, 2)/w̄.
    kernel, multiplier = tf.constant([[0.75], [-0.25]]), tf.constant([[1.0], [3.0]])
    with tf.GradientTape() as tape:
        tape.watch((kernel, multiplier))
        binary = bonn_kernel(kernel, multiplier)
    np.testing.assert_array_equal(binary, [[1 / 2], [-1 / 2]])
    received = tape.gradient(binary, (kernel, multiplier), tf.constant([[1.0], [2.0]]))
    np.testing.assert_array_equal(received[0], [[1 / 2 * 1], [2 / 2 * 3]])
    np.testing.assert_array_equal(received[1], [[1 / 2 * 0.75], [2 / 2 * -0.25]])


@pytest.mark.parametrize("parts", [1, 3])
def test_a_kernel_equals_the_formulas(parts):
    kernel, multiplier = numbers(3, 3, 2, 6), positive(3, 3, 2, parts)
    upstream = numbers(3, 3, 2, 6, seed=1)
    latent, weights = tf.constant(kernel), tf.constant(multiplier)
    with tf.GradientTape() as tape:
        tape.watch((latent, weights))
        binary = bonn_kernel(latent, weights)
    of_kernel, of_multiplier = tape.gradient(binary, (latent, weights), upstream)
    filters = 6 // parts
    for out in range(6):
        own = multiplier[..., out // filters]
        product, received = own * kernel[..., out], upstream[..., out] / own.mean()
        sign, inside = np.where(product >= 0, 1.0, -1.0), np.abs(product) <= 1
        assert not inside.all()
        np.testing.assert_allclose(binary[..., out], sign / own.mean(), rtol=1e-6)
        np.testing.assert_allclose(of_kernel[..., out], received * inside * own, rtol=1e-5)
    passed = upstream / np.repeat(multiplier.mean((0, 1, 2)), filters) * kernel
    passed *= np.abs(np.repeat(multiplier, filters, -1) * kernel) <= 1
    expected = passed.reshape(3, 3, 2, parts, filters).sum(-1)
    np.testing.assert_allclose(of_multiplier, expected, rtol=1e-4, atol=1e-5)


# -- the loss of kernels ---------------------------------------------------------------------------


def printed_loss(kernel, multiplier, mean, deviation, signs, prior_weight):
    """L_B for λ = 1 as the paper writes it, with X₊ and X₋ apart."""
    distance = tf.reduce_sum((signs - multiplier * kernel) ** 2)
    upper = tf.where(kernel >= 0, (kernel - mean) ** 2, 0.0)
    lower = tf.where(kernel < 0, (kernel + mean) ** 2, 0.0)
    spread = tf.reduce_sum((upper + lower) / deviation**2)
    determinants = len(signs.reshape(-1, signs.shape[-1])) * tf.math.log(deviation**2)
    return (distance + prior_weight * (spread + tf.reduce_sum(determinants))) / 2


def test_the_loss_and_its_gradients_are_the_printed_ones():
    """Sums for X and w; means over a filter for μ and σ."""
    values = (numbers(3, 3, 2, 4), positive(3, 3, 2, 1), positive(4, seed=1), positive(4, seed=2))
    signs = np.where(values[0] >= 0, 1.0, -1.0).astype(np.float32)
    arguments = [tf.constant(value) for value in values]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(arguments)
        ours = bayesian_kernel_loss(*arguments, 0.3)
        printed = printed_loss(*arguments, signs, 0.3)
    np.testing.assert_allclose(ours, printed, rtol=1e-5)
    received, sums = tape.gradient(ours, arguments), tape.gradient(printed, arguments)
    elements = 3 * 3 * 2
    for own, expected, number in zip(received, sums, (1, 1, elements, elements), strict=True):
        np.testing.assert_allclose(own, expected / number, rtol=1e-4, atol=1e-5)
    kernel, multiplier, mean, deviation = values
    away = kernel - signs * mean
    of_kernel = multiplier * (multiplier * kernel - signs) + 0.3 * away / deviation**2
    np.testing.assert_allclose(received[0], of_kernel, rtol=1e-4, atol=1e-5)
    of_multiplier = ((multiplier * kernel - signs) * kernel).sum(-1, keepdims=True)
    np.testing.assert_allclose(received[1], of_multiplier, rtol=1e-4, atol=1e-5)
    of_mean = 0.3 * (-signs * away / deviation**2).mean((0, 1, 2))
    np.testing.assert_allclose(received[2], of_mean, rtol=1e-4, atol=1e-5)
    of_deviation = 0.3 * (1 / deviation - away**2 / deviation**3).mean((0, 1, 2))
    np.testing.assert_allclose(received[3], of_deviation, rtol=1e-4, atol=1e-5)


def test_a_weight_of_zero_counts_as_positive():
    kernel = tf.zeros([1, 1])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        ones = tf.ones([1, 1]), tf.ones([1]), tf.ones([1])
        loss = bayesian_kernel_loss(kernel, *ones, 0.5)
    # (w·X − X̂)·w + ν·(X − μ)/σ²
    np.testing.assert_array_equal(tape.gradient(loss, kernel), [[-1 + 0.5 * -1]])


# -- the quantizer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2])
def test_it_starts_with_the_statistics_of_a_kernel(parts):
    kernel = numbers(3, 3, 2, 4)
    kernel[..., 0] = 0.25  # without deviation
    quantizer = BONNKernel(parts)
    quantizer.start(tf.constant(kernel))
    size, filters = np.abs(kernel), 4 // parts
    np.testing.assert_allclose(quantizer.mean, size.mean((0, 1, 2)), rtol=1e-5)
    deviations = np.maximum(size.std((0, 1, 2)), LEAST_DEVIATION)
    assert deviations[0] == np.float32(LEAST_DEVIATION)
    np.testing.assert_allclose(quantizer.deviation, deviations, rtol=1e-5)
    for part in range(parts):
        own = size[..., part * filters : (part + 1) * filters].mean()
        expected = np.full((3, 3, 2), 1 / own)
        np.testing.assert_allclose(quantizer.multiplier[..., part], expected, rtol=1e-5)


def test_a_fresh_network_starts_near_the_statistics_of_its_kernels():
    sizes = {"widths": (32,), "blocks": (1,), "input_shape": (8, 8, 3)}
    convolution = build_residual_network(scheme="bonn", **sizes).get_layer("block0_0_conv")
    quantizer, own = convolution.kernel_quantizer, BONNKernel()
    own.start(convolution.get_weights()[0])
    for key in ("multiplier", "mean", "deviation"):
        ours, exact = (np.mean(getattr(one, key)) for one in (quantizer, own))
        assert ours == pytest.approx(exact, rel=0.05)


def test_each_edge_of_a_wide_kernel_has_its_own_multiplier():
    kernels = [numbers(3, 3, 2, 4, seed=seed, size=seed + 1.0) for seed in range(3)]
    settings = get_scheme("bonn").kernel_settings(parts=3)
    quantizer, wide = settings["kernel_quantizer"], np.concatenate(kernels, -1)
    quantizer.start(tf.constant(wide))
    singles = [BONNKernel() for _ in kernels]
    for single, kernel in zip(singles, kernels, strict=True):
        single.start(tf.constant(kernel))
    pairs = [(one, tf.constant(kernel)) for one, kernel in zip(singles, kernels, strict=True)]
    alone = tf.concat([one(kernel) for one, kernel in pairs], -1)
    np.testing.assert_allclose(quantizer(tf.constant(wide)), alone, rtol=1e-5)
    losses = [
        bayesian_kernel_loss(kernel, one.multiplier, one.mean, one.deviation)
        for one, kernel in [*pairs, (quantizer, tf.constant(wide))]
    ]
    np.testing.assert_allclose(losses[-1], sum(losses[:-1]), rtol=1e-5)
    assert quantizer.scales(wide.shape) == 3
    assert isinstance(settings["kernel_regularizer"], BayesianKernelLoss)
    with pytest.raises(BnasLarqError, match="equal parts.* Received: 4 filters, parts=3"):
        BONNKernel(3).build((3, 3, 2, 4))


# -- in a network ----------------------------------------------------------------------------------


def layer(weight: float = 0.5, prior_weight: float = 0.1) -> lq.layers.QuantConv2D:
    return lq.layers.QuantConv2D(
        4,
        3,
        padding="same",
        use_bias=False,
        input_quantizer="ste_sign",
        kernel_quantizer=BONNKernel(),
        kernel_constraint=lq.constraints.WeightClip(),
        kernel_regularizer=BayesianKernelLoss(weight, prior_weight),
    )


def model_of(made: lq.layers.QuantConv2D) -> keras.Model:
    return keras.Sequential([keras.Input((6, 6, 2)), made])


def test_the_regulariser_gives_the_loss_of_the_latent_kernel():
    model = model_of(layer())
    kernel, multiplier, mean, deviation = model.get_weights()
    model.set_weights([numbers(*kernel.shape), positive(*multiplier.shape), mean, deviation])
    model(numbers(2, 6, 6, 2))
    kernel, *others = model.get_weights()
    signs = np.where(kernel >= 0, 1.0, -1.0).astype(np.float32)
    np.testing.assert_allclose(
        model.losses[0], 0.5 * printed_loss(kernel, *others, signs, 0.1), rtol=1e-5
    )


def test_training_reduces_the_loss_and_moves_every_weight():
    model = model_of(layer())
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    before, weights = float(model.losses[0]), model.get_weights()
    history = model.fit(numbers(4, 6, 6, 2), numbers(4, 6, 6, 4), epochs=4, batch_size=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert float(model.losses[0]) < before
    for old, new in zip(weights, model.get_weights(), strict=True):
        assert np.any(old != new)


def test_deviations_and_multipliers_stay_positive():
    model = model_of(layer())
    model.compile(keras.optimizers.SGD(1e3), "mse")
    model.fit(numbers(4, 6, 6, 2), numbers(4, 6, 6, 4), verbose=0)
    _, multiplier, _, deviation = model.get_weights()
    assert multiplier.min() >= 0 and deviation.min() >= np.float32(LEAST_DEVIATION)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("way", ["keras", "h5", "clone"])
def test_it_survives_saving_and_cloning(way, tmp_path):
    model = model_of(layer())
    model.set_weights([positive(*weight.shape, seed=1) - 0.3 for weight in model.get_weights()])
    if way == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{way}")
        again = keras.models.load_model(tmp_path / f"model.{way}")
    inputs = numbers(2, 6, 6, 2)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    assert float(again.losses[0]) == float(model.losses[0])


@pytest.mark.parametrize(
    "made",
    [BONNKernel(2), HeldBONNKernel(2), BayesianKernelLoss(0.3, 0.1), AtLeast(0.2)],
    ids=lambda made: type(made).__name__,
)
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()


def test_a_foreign_kernel_is_refused():
    foreign = keras.layers.Conv2D(2, 3, kernel_regularizer=BayesianKernelLoss(), name="own")
    foreign.build((None, 6, 6, 2))
    with pytest.raises(BnasLarqError, match="that BONNKernel quantises. Received: .*NoneType"):
        _ = foreign.losses


SMALL = {"widths": (4, 8), "blocks": (1, 1), "input_shape": (8, 8, 3), "num_classes": 3}


def fitted(**settings) -> keras.Model:
    model = build_residual_network(scheme="bonn", **SMALL, **settings)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(numbers(8, 8, 8, 3), np.arange(8) % 3, verbose=0)
    return model


def test_a_network_with_the_scheme_trains_and_is_exported(tmp_path):
    model = fitted()
    assert len(model.losses) == 2
    pytest.importorskip("larq_compute_engine", reason="larq-compute-engine has no wheel here")
    from bnas_larq.export.exporter import export_network

    report = export_network(model, tmp_path / "model.tflite", numbers(8, 8, 8, 3))
    assert (report["binary_convolutions"], report["float_convolutions"]) == (2, 1)
    assert report["parity"]["max_abs_difference"] < 1e-4


def test_a_real_stage_leaves_a_binary_one_the_statistics_of_its_kernels():
    model = build_residual_network(scheme="bonn", kernels="real", **SMALL)
    convolution = model.get_layer("block0_0_conv")
    kernel, *others = convolution.get_weights()
    convolution.set_weights([numbers(*kernel.shape), *others])
    model.compile(keras.optimizers.SGD(1e-5), keras.losses.MeanSquaredError())
    model.fit(numbers(8, 8, 8, 3), np.zeros((8, 3)), batch_size=8, verbose=0)
    kernel, multiplier, mean, deviation = convolution.get_weights()
    np.testing.assert_allclose(
        multiplier, np.full_like(multiplier, 1 / np.abs(kernel).mean()), 0.01
    )
    np.testing.assert_allclose(mean, np.abs(kernel).mean((0, 1, 2)), rtol=0.01)
    np.testing.assert_allclose(deviation, np.abs(kernel).std((0, 1, 2)), rtol=0.01)
    assert not any("bonn" in weight.name for weight in model.trainable_weights)


# -- the loss of features --------------------------------------------------------------------------


def test_the_loss_of_features_equals_the_formulas():
    features, centres, deviations = numbers(5, 3), numbers(5, 3, seed=1), positive(5, 3)
    arguments = [tf.constant(value) for value in (features, centres, deviations)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = bayesian_feature_loss(*arguments)
    away = features - centres
    printed = away**2 + away**2 / deviations**2 + np.log(deviations**2)
    np.testing.assert_allclose(loss, printed.sum(-1) / 2, rtol=1e-5)
    of_features, of_centres, of_deviations = tape.gradient(loss, arguments)
    np.testing.assert_allclose(of_features, away * (1 + deviations**-2.0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_centres, -of_features.numpy())
    expected = 1 / deviations - away**2 / deviations**3
    np.testing.assert_allclose(of_deviations, expected, rtol=1e-4, atol=1e-5)


def test_centres_move_as_in_the_centre_loss():
    features, labels = numbers(5, 3), np.array([0, 2, 2, 0, 2])
    made = BayesianFeatureLoss(4, centre_rate=0.3)
    made.build([(None, 3), (None,)])
    centres = numbers(4, 3, seed=1)
    made.centres.assign(centres)
    made([features, labels])
    np.testing.assert_array_equal(made.centres, centres)  # not in inference
    made([features, labels], training=True)
    for label in range(4):
        own = features[labels == label]
        step = (centres[label] - own).sum(0) / (1 + len(own))
        np.testing.assert_allclose(made.centres[label], centres[label] - 0.3 * step, rtol=1e-5)


def with_feature_loss() -> keras.Model:
    """Features of a dense layer, and beside them the loss."""
    images, labels = keras.Input((4,)), keras.Input((), dtype="int32")
    features = keras.layers.Dense(3, name="features")(images)
    losses = BayesianFeatureLoss(2, weight=0.1, name="loss")([features, labels])
    model = keras.Model([images, labels], losses)
    model.add_loss(tf.reduce_mean(losses))
    return model


def test_it_trains_beside_a_network():
    model = with_feature_loss()
    model.compile(keras.optimizers.SGD(0.1))
    data = [numbers(8, 4), np.arange(8) % 2]
    before = model.get_layer("loss").get_weights()
    history = model.fit(data, epochs=5, batch_size=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    for old, new in zip(before, model.get_layer("loss").get_weights(), strict=True):
        assert np.any(old != new)
    assert [weight.name for weight in model.get_layer("loss").trainable_weights] == [
        "loss/deviations:0"
    ]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("way", ["keras", "h5", "clone"])
def test_the_loss_of_features_survives_saving_and_cloning(way, tmp_path):
    model = with_feature_loss()
    model.set_weights([positive(*weight.shape) for weight in model.get_weights()])
    if way == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{way}")
        again = keras.models.load_model(tmp_path / f"model.{way}")
    data = [numbers(8, 4), np.arange(8) % 2]
    np.testing.assert_allclose(again(data), model(data), rtol=1e-6)
    assert again.get_layer("loss").get_config() == model.get_layer("loss").get_config()
