"""Which convolutions the supernet's fast way takes, and that it and larq's own layers agree."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.operations import Context, chain, register_operation
from bnas_larq.layers.projection import ProjectionLoss
from bnas_larq.layers.template import CellPlan
from bnas_larq.supernet.compute_cache import BinaryConvolution, ComputeCache
from bnas_larq.supernet.outgoing_edges import OutgoingEdges, input_layers
from bnas_larq.supernet.relaxations import Mixture

FILTERS, EDGES = 2, 3


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def state_of(*operations: str, scheme: str = "xnor") -> OutgoingEdges:
    """Three edges that leave one state, with kernels of one magnitude: a scale that is a power of
    two makes all sums of ±scale exact, so that no ReLU depends on rounding."""
    context = Context("", FILTERS, supernet=True, scheme=scheme)
    plan = CellPlan(1, FILTERS, False, False)
    state = OutgoingEdges(operations, list(range(EDGES)), plan, 2, context, ComputeCache())
    state.build((None, 6, 6, FILTERS))
    for number, weight in enumerate(state.trainable_weights):
        if "kernel" in weight.name:
            signs = np.where(numbers(*weight.shape, seed=number) < 0, -1.0, 1.0)
            weight.assign(0.25 * signs)
        else:
            weight.assign(np.random.default_rng(9).uniform(0.5, 1.5, weight.shape))
    return state


def own_layers(state: OutgoingEdges, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The candidates as Keras calls them, times their weights."""
    total = 0.0
    for candidate in state.candidates:
        outputs = chain(candidate.chains[0], inputs, True)
        column = tf.repeat(weights[:, candidate.column], FILTERS)
        total += outputs * column
    return total


def compare(state: OutgoingEdges, with_losses: bool = False) -> None:
    """Outputs, and all gradients, of the supernet's way and of the layers themselves."""
    inputs = tf.constant(numbers(4, 6, 6, FILTERS))
    columns = len(state.candidates)
    weights = tf.constant(np.random.default_rng(1).uniform(0.2, 0.8, (EDGES, columns)), tf.float32)
    results = []
    for compute in (
        lambda: tf.add_n(state(inputs, Mixture(weights, positive=True), training=True)),
        lambda: own_layers(state, inputs, weights),
    ):
        with tf.GradientTape() as tape:
            tape.watch((inputs, weights))
            outputs = compute()
            loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=2))
            if with_losses:
                loss += tf.add_n(state.losses)
        gradients = tape.gradient(loss, [inputs, weights, *state.trainable_weights])
        results.append([tf.convert_to_tensor(value).numpy() for value in (outputs, *gradients)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
        assert np.any(other)


def is_fast(state: OutgoingEdges) -> list[bool]:
    return [candidate.convolution is not None for candidate in state.candidates]


def convolution_of(**settings):
    """An operation whose convolution has other settings than the built-in ones."""

    def factory(context: Context) -> list[keras.layers.Layer]:
        convolution = lq.layers.QuantConv2D(
            context.filters, 3, use_bias=False, padding="same", **settings
        )
        return [*context.binary_input(), convolution, context.relu()]

    return factory


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_quantizer": "ste_heaviside"},
        {"kernel_quantizer": lq.quantizers.NoOp(precision=1)},
        {"kernel_quantizer": "ste_sign", "pad_values": 1.0},
    ],
    ids=["heaviside", "no-op", "padded with ones"],
)
def test_what_is_not_a_scaled_sign_with_zero_padding_is_left_to_its_layer(settings, registry):
    """`SteHeaviside` gives 0 and 1, `NoOp` the latent kernel itself; both call themselves 1-bit."""
    register_operation("own", "own", sharing="channels")(convolution_of(**settings))
    state = state_of("own", "bin_conv_3x3")
    assert is_fast(state) == [False, True]
    compare(state)


@pytest.mark.parametrize(
    "quantizer", ["ste_sign", "approx_sign", "swish_sign", "magnitude_aware_sign"]
)
def test_larqs_signs_take_the_fast_way(quantizer, registry):
    register_operation("own", "own", sharing="channels")(convolution_of(kernel_quantizer=quantizer))
    state = state_of("own")
    assert is_fast(state) == [True]
    compare(state)


@pytest.mark.parametrize("scheme", ["sign-scale", "xnor"])
@pytest.mark.parametrize("name", ["bin_conv_3x3_linear", "bin_dil_conv_5x5_linear"])
def test_linear_convolutions_take_the_fast_way(name, scheme):
    state = state_of(name, scheme=scheme)
    assert is_fast(state) == [True] and not state.candidates[0].convolution.relu
    compare(state)


def test_pcnn_takes_the_fast_way_and_its_projection_loss_follows():
    """The loss is the sum over the edges, and learns what δ the fast way sends back."""
    state = state_of("bin_conv_3x3", "bin_conv_3x3_linear", scheme="pcnn")
    assert is_fast(state) == [True, True]
    shapes = [tuple(w.shape) for w in state.trainable_weights if "projection" in w.name]
    assert shapes == [(3, 3, FILTERS, EDGES)] * 2
    for candidate in state.candidates:
        layer = candidate.convolution.layer
        # So large that the loss' own gradient counts.
        layer.kernel_regularizer.weight = 10.0
        assert isinstance(layer.kernel_regularizer, ProjectionLoss)
    compare(state)
    compare(state, with_losses=True)


def test_full_precision_is_left_to_its_layers():
    state = state_of("bin_conv_3x3", "bin_dil_conv_3x3_linear", scheme="full-precision")
    assert is_fast(state) == [False, False]
    compare(state)
    layers = state.candidates[0].chains[0]
    assert BinaryConvolution.of(layers) is None


@pytest.mark.usefixtures("registry")
def test_what_draws_in_front_of_a_convolution_is_left_to_its_layers():
    """The backward pass computes what stands there again: a mask would be another one."""

    @register_operation("test_dropout", sharing="channels")
    def dropout(context):
        first = [*context.binary_input(), keras.layers.Dropout(0.5)]
        return [*first, *context.binary_conv(3), context.relu()]

    (candidate,) = state_of("test_dropout").candidates
    assert candidate.convolution is not None and input_layers(candidate) is None
    (candidate,) = state_of("bin_conv_3x3").candidates
    assert input_layers(candidate) is not None


def test_the_gradient_of_an_evaluating_pass_is_that_of_its_statistics():
    state = state_of("bin_conv_3x3", "max_pool_3x3")
    inputs = tf.constant(5.0 * numbers(4, 6, 6, FILTERS))
    weights = tf.constant(np.random.default_rng(1).uniform(0.2, 0.8, (EDGES, 2)), tf.float32)
    kernels, found = state.trainable_weights, []
    for moved in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.add_n(state(inputs, Mixture(weights, positive=True), training=False))
            loss = tf.reduce_sum(outputs * numbers(*outputs.shape, seed=2))
            if moved:
                with tape.stop_recording():
                    state(inputs, Mixture(weights, positive=True), training=True)
        found.append(tape.gradient(loss, [inputs, *kernels]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
