"""Candidate operations: every registered one by one set of checks, and a user's own one."""

from __future__ import annotations

import ast
import subprocess
import sys

import numpy as np
import pytest

from bnas_larq import spaces
from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError, GenotypeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.layers import operations
from bnas_larq.layers.operations import (
    Context,
    build_operation,
    chain,
    register_operation,
    sharing_of,
)
from bnas_larq.networks.network import build_network
from bnas_larq.spaces import SearchSpace, operation_names
from bnas_larq.supernet.compute_cache import BinaryConvolution
from bnas_larq.supernet.super_net import SuperNet

BUILT_IN = SearchSpace.bnas().normal
OPERATIONS = operation_names()


def context(strides: int = 1, padding: str = "same", supernet: bool = False) -> Context:
    shared = {} if supernet else None
    return Context("place", 4, strides, padding, supernet, shared=shared)


def as_model(name: str, place: Context, size: int = 8) -> keras.Model:
    inputs = keras.Input((size, size, 4))
    return keras.Model(inputs, chain(build_operation(name, place), inputs))


def test_the_space_of_the_paper_is_registered():
    assert set(BUILT_IN) <= set(operation_names())
    assert len(BUILT_IN) == 7


@pytest.mark.parametrize("name", operation_names())
@pytest.mark.parametrize("supernet", [True, False], ids=["supernet", "final"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("strides", [1, 2])
def test_every_operation(name, supernet, padding, strides):
    """Keeps the channels, halves with stride 2, sends a gradient back, and survives its config."""
    model = as_model(name, context(strides, padding, supernet))
    x = tf.random.stateless_normal([3, 8, 8, 4], [0, 0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = model(x, training=True)
    assert outputs.shape == (3, 8 // strides, 8 // strides, 4)
    assert np.all(np.isfinite(outputs))
    gradient = tape.gradient(outputs, x)
    assert name == "none" or np.any(gradient)
    again = keras.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "none"])
def test_batch_norm_has_scale_and_offset_in_final_networks_only(name):
    for supernet in (True, False):
        layers = build_operation(name, context(supernet=supernet))
        norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        # Pools are followed by a BatchNorm while they compete, and by none in a final network.
        assert len(norms) == (1 if supernet or "conv" in name else 0)
        assert all(norm.scale == norm.center == (not supernet) for norm in norms)


@pytest.mark.parametrize("name", [name for name in BUILT_IN if "conv" in name])
def test_binary_convolutions_are_batch_norm_sign_convolution_relu(name):
    """Against NumPy: sign(BatchNorm(x)) * sign(W)·mean|W|, without bias, then ReLU."""
    dilation = 2 if "dil" in name else 1
    x = np.random.default_rng(0).normal(1.0, 2.0, (2, 9, 9, 4)).astype(np.float32)
    for supernet in (True, False):
        model = as_model(name, context(supernet=supernet), 9)
        (conv,) = (layer for layer in model.layers if isinstance(layer, lq.layers.QuantConv2D))
        assert not conv.use_bias
        outputs = model(x, training=True)
        normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        signs = np.where(normal >= 0, 1.0, -1.0)
        latent = conv.get_weights()[0]
        latent = np.clip(latent - latent.mean(2, keepdims=True), -1, 1)
        kernel = np.where(latent >= 0, 1.0, -1.0) * np.abs(latent).mean((0, 1, 2))
        by_hand = np.maximum(convolve_by_hand(signs, kernel, 1, dilation), 0.0)
        np.testing.assert_allclose(outputs, by_hand, atol=1e-4)


def convolve_by_hand(x, kernel, strides, dilation):
    """Zero padding of dilation·(kernel − 1)/2 on every side, as PyTorch's convolution."""
    size = kernel.shape[0]
    margin = dilation * (size - 1) // 2
    x = np.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    side = (x.shape[1] - dilation * (size - 1) - 1) // strides + 1
    result = np.zeros((len(x), side, side, kernel.shape[-1]))
    for i, j in np.ndindex(side, side):
        for k, m in np.ndindex(size, size):
            pixel = x[:, i * strides + k * dilation, j * strides + m * dilation]
            result[:, i, j] += pixel @ kernel[k, m]
    return result


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("side", [8, 7])
def test_strided_dilated_convolution_equals_brute_force(padding, kernel_size, side):
    """Stride 2 with dilation 2 is done as a subsampling and an undilated convolution."""
    place = Context("place", 3, 2, padding, full_precision=("*",))
    inputs = keras.Input((side, side, 4))
    model = keras.Model(inputs, chain(place.binary_conv(kernel_size, 2), inputs))
    x = np.random.default_rng(1).normal(size=(2, side, side, 4)).astype(np.float32)
    signs = np.where(x >= 0, 1.0, -1.0)
    by_hand = convolve_by_hand(signs, model.get_weights()[0], 2, 2)
    np.testing.assert_allclose(model(x), by_hand, atol=1e-5)


def test_dilation_that_no_subsampling_can_replace():
    with pytest.raises(BnasLarqError, match="multiple of its strides. Received: dilation=3"):
        context(strides=2).binary_conv(3, dilation=3)


def test_candidates_of_one_state_share_batch_norm_and_sign():
    place = context(supernet=True)
    other = place.at("other", 4, shared=place.shared)
    first = build_operation("bin_conv_3x3", place)
    second = build_operation("bin_dil_conv_5x5", other)
    assert first[:2] == second[:2] and first[2] is not second[2]
    # In final networks, and at a place that is not told to share, nothing is shared.
    assert first[0] is not build_operation("bin_conv_3x3", place.at("third", 4))[0]
    assert place.at("third", 4).shared is None


@pytest.mark.parametrize("name", [name for name in operation_names() if name.endswith("_linear")])
def test_linear_convolutions_are_the_others_without_relu(name):
    """A ReLU would erase the −1 side (BNAS-UCB)."""
    for supernet in (True, False):
        place = context(2, supernet=supernet)
        linear = build_operation(name, place)
        *others, relu = build_operation(name.removesuffix("_linear"), place)
        assert isinstance(relu, keras.layers.ReLU)
        assert [type(layer) for layer in linear] == [type(layer) for layer in others]
        for one, other in zip(linear, others, strict=True):
            for setting in ("kernel_size", "strides", "dilation_rate"):
                assert getattr(one, setting, None) == getattr(other, setting, None)
    assert sharing_of(name) == sharing_of(name, 2) == "channels"
    # The supernet's fast way takes it.
    place, convolution = BinaryConvolution.of(build_operation(name, context(supernet=True)))
    assert (place, convolution.relu) == (2, False)


def test_descriptions_are_those_of_the_plain_list():
    """The list that is read without TensorFlow names everything that is registered with it."""
    code = "from bnas_larq import spaces; print(spaces._OPERATIONS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == {name: spaces.describe(name) for name in OPERATIONS}


def test_sharing_of_the_built_in_operations():
    assert {name: sharing_of(name) for name in BUILT_IN} == {
        "none": "state",
        "max_pool_3x3": "state",
        "avg_pool_3x3": "state",
        "bin_conv_3x3": "channels",
        "bin_conv_5x5": "channels",
        "bin_dil_conv_3x3": "channels",
        "bin_dil_conv_5x5": "channels",
    }


def test_chain_computes_a_common_beginning_once():
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            calls.append(self.name)
            return inputs + 1.0

    first, second, third = (Counting(name=name) for name in ("first", "second", "third"))
    memory: dict = {}
    x = tf.zeros([1, 2])
    one = chain([first, second], x, memory=memory)
    two = chain([first, third], x, memory=memory)
    assert calls == ["first", "second", "third"]
    np.testing.assert_array_equal(one, two)


def user_operation(place: Context):
    """Two binary 3x3 convolutions, one behind the other."""
    second = place.at(f"{place.name}_second", place.filters)
    return [
        *place.binary_input(),
        *place.binary_conv(3),
        *second.binary_input(),
        *second.binary_conv(3),
        second.relu(),
    ]


def test_a_users_operation_joins_space_supernet_and_network(registry):
    register_operation("two_convs")(user_operation)
    assert spaces._OPERATIONS["two_convs"] == "Two binary 3x3 convolutions, one behind the other."
    assert sharing_of("two_convs") == "edge"  # right for every operation

    space = SearchSpace(
        "own", ("none", "bin_conv_3x3"), ("none", "bin_conv_3x3"), nodes=2
    ).with_operations("two_convs")
    assert space.normal[-1] == space.reduce[-1] == "two_convs"
    supernet = SuperNet(space, 3, cells=3, channels=2, input_shape=(8, 8, 3))
    x = tf.random.stateless_normal([2, 8, 8, 3], [0, 0])
    with tf.GradientTape() as tape:
        outputs = supernet(x, training=True)
    assert outputs.shape == (2, 3)
    gradients = tape.gradient(outputs, supernet.alphas)
    assert all(np.any(gradient[:, 2]) for gradient in gradients)
    # Only what reads the state itself is common; the second BatchNorm reads another tensor.
    for edges in supernet.cells[0].outgoing:
        chains = next(c.chains for c in edges.candidates if c.column == 2)
        firsts = {id(layers[0]) for layers in chains}
        seconds = {id(layers[3]) for layers in chains}
        assert len(seconds) == len(chains) and not firsts & seconds
        assert len(firsts) == 1

    prefer = np.zeros([5, 3])
    prefer[:, 2] = 5.0
    supernet.set_alphas(prefer, prefer)
    genotype = supernet.genotype()
    assert genotype.count("two_convs") == 8
    assert Genotype.from_json(genotype.to_json()).id == genotype.id
    network = build_network(genotype, input_shape=(8, 8, 3), num_classes=3, channels=2, cells=3)
    assert network(x).shape == (2, 3)
    names = [layer.name for layer in network.layers]
    assert "cell0_node0_from0_two_convs_second_conv" in names


def test_sharing_by_channels_or_state_is_the_same_mathematics(registry):
    """What a user declares only changes the arrangement of layers."""
    register_operation("wide", "as bin_conv_3x3", sharing="channels")(
        operations._FACTORIES["bin_conv_3x3"]
    )
    register_operation("blur", "mean of 3x3 pixels", sharing="state")(
        lambda place: [keras.layers.AveragePooling2D(3, place.strides, "same")]
    )
    supernet = SuperNet(
        SearchSpace("own", ("wide", "blur"), ("wide", "blur"), nodes=2),
        3,
        cells=1,
        channels=2,
        input_shape=(8, 8, 3),
    )
    wide, blur = supernet.cells[0].outgoing[0].candidates
    assert len(wide.chains) == len(blur.chains) == 1
    assert wide.chains[0][-2].filters == 2 * 2  # two edges leave state 0, two channels each


def test_bad_registrations(registry):
    with pytest.raises(BnasLarqError, match="Received: 'chanels'; did you mean 'channels'"):
        register_operation("own", sharing="chanels")
    with pytest.raises(BnasLarqError, match="Received: 'egde'; did you mean 'edge'"):
        register_operation("own", sharing=("state", "egde"))
    with pytest.raises(BnasLarqError, match=r"or a pair: .* Received: \('edge',\)"):
        register_operation("own", sharing=("edge",))
    with pytest.raises(GenotypeError, match="Python identifier. Received: '3x3'"):
        register_operation("3x3")(user_operation)


def test_unknown_operation_is_refused_with_the_nearest_known_one():
    for attempt in (
        lambda: build_operation("bin_conv_3x4", context()),
        lambda: sharing_of("bin_conv_3x4"),
        lambda: SearchSpace.bnas().with_operations("bin_conv_3x4"),
        lambda: Genotype([[Edge("bin_conv_3x4", 0)]], [[Edge("none", 0)]]),
    ):
        with pytest.raises(GenotypeError, match="did you mean 'bin_conv_3x3'"):
            attempt()
