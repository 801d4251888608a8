"""PCNN with several projections: kernels and gradients against the formulas, and in a network."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.projected_convolution import ProjectedConv2D
from bnas_larq.layers.projection import HeldProjection, PCNNProjection, ProjectionLoss
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.residual_network import build_residual_network


def numbers(*shape: int, seed: int = 0, size: float = 0.8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, size, shape).astype(np.float32)


def by_hand(kernel, projection, delta, weight, step):
    """Ĉ, distance, and what C and W receive: sums over the J projections, each by the formulas of
    `bnas_larq.layers.projection`."""
    scale = np.abs(kernel).mean()
    binaries, distance, of_kernel, of_projection = [], 0.0, 0.0, []
    for number, own in enumerate(np.split(delta, projection.shape[-1], axis=-1)):
        w = projection[..., number, None]
        mean = w.mean(axis=2, keepdims=True)
        binary = scale * np.where(mean * kernel >= 0, 1.0, -1.0)
        passed = own * (np.abs(mean * kernel) <= 1)
        rest = w * (kernel + step * own) - binary
        of_kernel = of_kernel + passed * mean + weight * rest * w
        task = (passed * kernel).mean(axis=2, keepdims=True)
        of_projection.append((task + weight * rest * (kernel + step * own)).sum(-1))
        distance += 0.5 * ((binary - w * kernel) ** 2).sum()
        binaries.append(binary)
    return np.concatenate(binaries, -1), distance, of_kernel, np.stack(of_projection, -1)


def test_several_projections_equal_the_formulas():
    kernel, projection = numbers(3, 3, 2, 4), numbers(3, 3, 2, 3, seed=1)
    delta, weight, step = numbers(3, 3, 2, 12, seed=2), 0.3, 0.25
    quantizer = PCNNProjection(step, projections=3)
    latent = tf.constant(kernel)
    quantizer(latent)
    quantizer.projection.assign(projection)
    with tf.GradientTape() as tape:
        tape.watch(latent)
        binary = quantizer(latent)
        loss = tf.reduce_sum(binary * delta) + weight * quantizer.distance(latent)
    received = tape.gradient(loss, [latent, quantizer.projection])
    expected = by_hand(kernel, projection, delta, weight, step)
    np.testing.assert_allclose(binary, expected[0], rtol=1e-5)
    np.testing.assert_allclose(quantizer.distance(latent), expected[1], rtol=1e-5)
    for gradient, formula in zip(received, expected[2:], strict=True):
        np.testing.assert_allclose(gradient, formula, rtol=1e-4, atol=1e-5)


def test_projections_start_at_signs_of_positions():
    quantizer = PCNNProjection(projections=4)
    quantizer.build([3, 3, 5, 2])
    start = quantizer.projection.numpy()
    assert start.shape == (3, 3, 5, 4) and set(np.unique(start)) == {-1.0, 1.0}
    np.testing.assert_array_equal(start, np.repeat(start[:, :, :1], 5, axis=2))
    np.testing.assert_array_equal(start[..., 0], 1.0)
    assert quantizer.projection.constraint is None


def model(**settings) -> keras.Model:
    layer = ProjectedConv2D(2, 3, projections=3, padding="same", name="conv", **settings)
    return keras.Sequential([keras.Input((6, 6, 4)), keras.layers.BatchNormalization(), layer])


TRAINED = {
    "input_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
    "kernel_regularizer": ProjectionLoss(),
}


def test_costs_count_the_convolution_that_runs_and_the_signs_that_are_stored():
    costs = count_costs(model(**TRAINED))
    stored = 3 * 3 * 4 * 2
    assert (costs.binary_macs, costs.full_precision_macs) == (3 * stored * 6 * 6, 0)
    norm, scales = 4 * 4, 3
    assert costs.bits == stored + 32 * (norm + scales)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("form", ["keras", "h5", "clone"])
def test_it_trains_and_is_saved_and_cloned(tmp_path, form):
    network = model(**TRAINED)
    assert len(latent_kernels(network)) == 1
    network.compile(keras.optimizers.SGD(0.1), "mse")
    before = network.get_layer("conv").get_weights()
    network.fit(numbers(4, 6, 6, 4), numbers(4, 6, 6, 6, seed=1), verbose=0)
    for old, new in zip(before, network.get_layer("conv").get_weights(), strict=True):
        assert np.any(old != new)
    if form == "clone":
        again = keras.models.clone_model(network)
        again.set_weights(network.get_weights())
    else:
        network.save(tmp_path / f"model.{form}")
        again = keras.models.load_model(tmp_path / f"model.{form}")
    x = numbers(2, 6, 6, 4)
    np.testing.assert_array_equal(again(x), network(x))
    assert again.get_layer("conv").get_config() == network.get_layer("conv").get_config()


def test_a_real_stage_has_the_same_weights():
    size = {"widths": (4, 8), "blocks": (1, 1), "input_shape": (8, 8, 3), "scheme": "pcnn-4"}
    binary, real = (build_residual_network(**size, kernels=kind) for kind in ("binary", "real"))
    assert [w.shape for w in binary.weights] == [w.shape for w in real.weights]
    conv = real.get_layer("block0_0_conv")
    assert isinstance(conv.kernel_quantizer, HeldProjection) and not latent_kernels(real)
    maps = keras.Model(real.inputs, conv.output)(numbers(1, 8, 8, 3)).numpy()
    np.testing.assert_allclose(maps[..., 1:], maps[..., :-1], rtol=1e-5)  # four times the one plane


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProjectedConv2D(2, 3, kernel_quantizer="ste_sign"), "quantizer='ste_sign'. Omit"),
        (
            lambda: ProjectedConv2D(2, 3, groups=2),
            "A ProjectedConv2D determines .* Received: groups=2",
        ),
        (lambda: PCNNProjection(projections=0), "1 projection or more.*projections=0"),
        (lambda: PCNNProjection(parts=2, projections=2), "parts=2, projections=2"),
        (
            lambda: build_residual_network(widths=(6, 12), blocks=(1, 1), scheme="pcnn-4"),
            "Received: 6 filters of block0_0_conv, J=4",
        ),
    ],
)
def test_what_it_refuses(make, message):
    with pytest.raises(BnasLarqError, match=message):
        make()
