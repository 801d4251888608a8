"""ABC-Net: bases, scales and gradients against numbers worked out by hand and NumPy's least
squares, alone, in `ABCConv2D`, and as the scheme of a network."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.abc_convolution import INITIAL_SHIFTS, ABCConv2D
from bnas_larq.layers.abc_net import ABCKernel, ABCSign, shifted_sign, weight_bases
from bnas_larq.layers.activations import RealActivation
from bnas_larq.layers.context import Context
from bnas_larq.layers.quantizers import DepthwiseQuantizer, check_searchable, get_scheme
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.residual_network import build_residual_network

NO_ENGINE = "larq-compute-engine has no wheel here"


def numbers(*shape: int, seed: int = 0, size: float = 0.8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, size, shape).astype(np.float32)


def bases_by_numpy(kernel: np.ndarray, shifts) -> tuple[np.ndarray, np.ndarray]:
    """B and α in double precision."""
    kernel = kernel.astype(np.float64)
    moved = [kernel - kernel.mean() + shift * kernel.std() for shift in shifts]
    bases = np.where(np.array(moved) >= 0, 1.0, -1.0)
    flat = bases.reshape(len(shifts), -1).T
    return bases, np.linalg.lstsq(flat, kernel.ravel(), rcond=None)[0]


# -- weights ---------------------------------------------------------------------------------------


def test_one_base_in_plain_numbers():
    # W = (3/4, −1/4, 1/2, 0) has the mean 1/4: W − mean = (1/2, −1/2, 1/4, −1/4).
    # α = (3/4 + 1/4 + 1/2 − 0)/4 = 3/8.
    kernel = tf.constant([[0.75, -0.25], [0.5, 0.0]])
    upstream = tf.constant([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        binary = ABCKernel()(kernel)
    np.testing.assert_array_equal(binary, [[3 / 8, -3 / 8], [3 / 8, -3 / 8]])
    received = tape.gradient(binary, kernel, upstream)
    np.testing.assert_array_equal(received, 3 / 8 * upstream.numpy())  # without a mask


def test_the_gradient_has_no_mask():
    kernel = tf.constant([[5.0], [-3.0]])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        binary = ABCKernel()(kernel)
    np.testing.assert_array_equal(tape.gradient(binary, kernel), [[4.0], [4.0]])


@pytest.mark.parametrize("shifts", [u for u, _ in INITIAL_SHIFTS.values()])
@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (1, 1, 6, 2), (7, 4)])
def test_scales_are_the_least_squares_solution(shape, shifts):
    kernel = numbers(*shape) + 0.1
    bases, scales = weight_bases(tf.constant(kernel), shifts)
    expected_bases, expected = bases_by_numpy(kernel, shifts)
    np.testing.assert_array_equal(bases, expected_bases)
    if np.linalg.matrix_rank(expected_bases.reshape(len(shifts), -1)) == len(shifts):
        np.testing.assert_allclose(scales, expected, rtol=1e-3, atol=1e-4)
    approximations = [np.tensordot(a, expected_bases, 1) for a in (scales.numpy(), expected)]
    np.testing.assert_allclose(*approximations, atol=1e-3)


def test_equal_bases_share_their_scale():
    """u = 50 and u = 60 both give +1 everywhere."""
    kernel = numbers(3, 3, 2, 4) + 0.3
    _, scales = weight_bases(tf.constant(kernel), (50.0, 60.0))
    np.testing.assert_allclose(scales, [kernel.mean() / 2] * 2, rtol=1e-3)


def test_the_kernel_receives_the_sum_over_its_bases():
    kernel, upstream = tf.constant(numbers(3, 3, 2, 4)), numbers(3, 3, 3, 2, 4, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        bases, scales = weight_bases(kernel, (-1.0, 0.0, 1.0))
        total = tf.tensordot(scales, bases, 1)
    np.testing.assert_allclose(
        tape.gradient(bases, kernel, upstream), upstream.sum(0), rtol=1e-5, atol=1e-6
    )
    received = tape.gradient(total, kernel, upstream[0])
    expected = scales.numpy().sum() * upstream[0]
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-6)


def test_each_edge_of_a_wide_kernel_has_its_own_mean_and_scale():
    kernels = [numbers(3, 3, 2, 4, seed=seed, size=seed + 1.0) for seed in range(3)]
    quantizer = get_scheme("abc-net").kernel_settings(parts=3)["kernel_quantizer"]
    together = quantizer(tf.constant(np.concatenate(kernels, -1)))
    alone = [ABCKernel()(tf.constant(kernel)) for kernel in kernels]
    np.testing.assert_array_equal(together, tf.concat(alone, -1))
    assert quantizer.scales((3, 3, 2, 12)) == 3
    with pytest.raises(BnasLarqError, match="equal parts.* Received: 4 filters, parts=3"):
        quantizer(tf.constant(kernels[0]))


def test_a_depthwise_kernel_keeps_its_signs():
    kernel = numbers(3, 3, 4, 1)
    binary = DepthwiseQuantizer(ABCKernel())(tf.constant(kernel)).numpy()
    np.testing.assert_array_equal(binary > 0, kernel >= kernel.mean())
    assert len(np.unique(np.abs(binary))) == 1


# -- activations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, -1.5, 0.25])
def test_an_activation_equals_the_formula(shift):
    """Also on the bounds, −v and 1 − v, and on the threshold, 0.5 − v."""
    grid = np.arange(-4, 4, 0.125, np.float32)
    upstream = numbers(*grid.shape)
    inputs, moved = tf.constant(grid), tf.constant(shift)
    with tf.GradientTape() as tape:
        tape.watch((inputs, moved))
        signs = shifted_sign(inputs, moved)
    np.testing.assert_array_equal(signs, np.where(np.clip(grid + shift, 0, 1) >= 0.5, 1.0, -1.0))
    of_inputs, of_shift = tape.gradient(signs, (inputs, moved), upstream)
    passed = np.where((grid + shift >= 0) & (grid + shift <= 1), upstream, 0.0)
    np.testing.assert_array_equal(of_inputs, passed)
    np.testing.assert_allclose(of_shift, passed.sum(), rtol=1e-5)
    np.testing.assert_array_equal(ABCSign(shift)(inputs), signs)
    assert ABCSign(shift)(tf.cast(inputs, tf.bfloat16)).dtype == tf.bfloat16


# -- both ------------------------------------------------------------------------------------------


def convolution(inputs: np.ndarray, kernel: np.ndarray, strides: int, padding: str) -> np.ndarray:
    window = len(kernel)
    if padding == "same":
        margins = []
        for size in inputs.shape[1:3]:
            total = max(0, (-(-size // strides) - 1) * strides + window - size)
            margins.append((total // 2, total - total // 2))
        inputs = np.pad(inputs, [(0, 0), *margins, (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(inputs, (window, window), (1, 2))
    return np.einsum("nhwckl,klco->nhwo", views[:, ::strides, ::strides], kernel)


def layer(bases=(3, 5), **settings) -> ABCConv2D:
    """A built layer with other weights than at first."""
    made = ABCConv2D(4, 3, *INITIAL_SHIFTS[bases], name="abc", **settings)
    made.build((None, 6, 6, 2))
    kernel, shift, scale = made.get_weights()
    made.set_weights([numbers(*kernel.shape), shift + 0.1, scale + numbers(*scale.shape, seed=1)])
    return made


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bases", INITIAL_SHIFTS)
@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "same"), (1, "valid")])
def test_the_layer_is_the_double_sum(bases, strides, padding, training):
    made, inputs = layer(bases, strides=strides, padding=padding), numbers(2, 6, 6, 2, seed=2)
    kernel, shifts, factors = made.get_weights()
    expected = 0.0
    for base, scale in zip(*bases_by_numpy(kernel, made.weight_shifts), strict=True):
        for shift, factor in zip(shifts, factors, strict=True):
            signs = np.where(np.clip(inputs + shift, 0, 1) >= 0.5, 1.0, -1.0)
            expected = expected + scale * factor * convolution(signs, base, strides, padding)
    outputs = made(inputs, training=training)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_the_layers_gradients_are_those_of_the_formulas(training):
    """Signs and bases as constants of the double sum give what each of them receives."""
    made, values = layer((3, 3)), numbers(2, 6, 6, 2, seed=2)
    inputs, upstream = tf.constant(values), numbers(2, 6, 6, 4, seed=3)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = made(inputs, training=training)
    of_kernel, of_shift, of_scale, of_inputs = tape.gradient(
        outputs, [*made.trainable_weights, inputs], upstream
    )
    kernel, shifts, factors = made.get_weights()
    bases, scales = (x.astype(np.float32) for x in bases_by_numpy(kernel, made.weight_shifts))
    total = np.tensordot(scales, bases, 1)
    kernels = tf.constant(total)
    received, passed = 0.0, []
    for number, (shift, factor) in enumerate(zip(shifts, factors, strict=True)):
        signs = tf.constant(np.where(values + shift >= 0.5, 1.0, -1.0), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch((signs, kernels))
            own = tf.nn.conv2d(signs, kernels, 1, "SAME")
        of_signs, of_kernels = tape.gradient(own, (signs, kernels), factor * upstream)
        inside = (values + shift >= 0) & (values + shift <= 1)
        passed.append(np.where(inside, of_signs, 0.0))
        received = received + of_kernels.numpy()
        np.testing.assert_allclose(of_scale[number], np.sum(upstream * own), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(of_shift[number], passed[-1].sum(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(of_inputs, np.sum(passed, 0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(of_kernel, scales.sum() * received, rtol=1e-3, atol=1e-3)


def model_of(made: ABCConv2D) -> keras.Model:
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.BatchNormalization(), made])
    model.build()
    return model


def test_training_moves_kernel_shifts_and_scales():
    model = model_of(layer())
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_layer("abc").get_weights()
    model.fit(numbers(4, 6, 6, 2), numbers(4, 6, 6, 4, seed=1), verbose=0)
    after = model.get_layer("abc").get_weights()
    for old, new in zip(before, after, strict=True):
        assert np.all(np.isfinite(new)) and np.any(old != new)


def test_costs_count_every_pair_of_bases():
    costs = count_costs(model_of(layer((3, 5))))
    weights = 3 * 3 * 2 * 4
    assert (costs.binary_macs, costs.full_precision_macs) == (3 * 5 * weights * 6 * 6, 0)
    norm, scales, shifts = 4 * 2, 3 + 5, 5
    assert costs.bits == 3 * weights + 32 * (scales + shifts + norm)
    assert costs.uncounted == ()


@pytest.mark.parametrize(
    "real",
    [
        {"real_input": RealActivation("relu"), "real_kernel": True},
        {"real_input": RealActivation("clip")},
        {"real_kernel": True},
    ],
)
def test_real_stages_of_the_layer(real):
    """One base of each kind of what stays binary, and weights in the same order."""
    made, binary = layer((3, 3), **real), layer((3, 3))
    assert [w.shape for w in made.weights] == [w.shape for w in binary.weights]
    inputs = numbers(2, 6, 6, 2, seed=2)
    kernel, shifts, factors = made.get_weights()
    if "real_kernel" not in real:
        kernel = np.tensordot(*reversed(bases_by_numpy(kernel, made.weight_shifts)), 1)
    values = made.real_input(inputs) if "real_input" in real else 0.0
    if "real_input" not in real:
        for shift, factor in zip(shifts, factors, strict=True):
            values = values + factor * np.where(inputs + shift >= 0.5, 1.0, -1.0)
    expected = convolution(np.asarray(values), kernel, 1, "same")
    for training in (True, False):
        np.testing.assert_allclose(made(inputs, training=training), expected, rtol=1e-3, atol=1e-3)
    trained = 1 + 2 * ("real_input" not in real)
    assert len(made.trainable_weights) == trained
    costs = count_costs(model_of(made))
    assert (costs.binary_macs, costs.full_precision_macs) == (0, 72 * 36)
    assert len(latent_kernels(model_of(made))) == ("real_kernel" not in real)


def test_the_schemes_of_several_bases_refuse_what_the_layer_cannot_do():
    context = Context("edge", 4, scheme="abc-net-3x3")
    with pytest.raises(BnasLarqError, match="not dilated. Received: dilation=2 of edge_conv"):
        context.binary_conv(3, dilation=2)
    symmetric = Context("edge", 4, scheme="abc-net-3x3", padding="symmetric")
    with pytest.raises(BnasLarqError, match="SAME padding. Received: padding='symmetric'"):
        symmetric.binary_conv(3)
    with pytest.raises(BnasLarqError, match="ordinary convolutions.*Received: 'abc-net-5x5'"):
        check_searchable("abc-net-5x5")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("way", ["keras", "h5", "clone"])
def test_it_survives_saving_and_cloning(way, tmp_path):
    kernel = {"kernel_regularizer": "l2", "kernel_constraint": "weight_clip"}
    model = model_of(layer(strides=2, padding="valid", **kernel))
    if way == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{way}")
        again = keras.models.load_model(tmp_path / f"model.{way}")
    inputs = numbers(2, 6, 6, 2)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    assert again.get_layer("abc").get_config() == model.get_layer("abc").get_config()


@pytest.mark.parametrize("made", [ABCKernel(2), ABCSign(0.3)])
def test_config_round_trip(made):
    config = json.loads(json.dumps(keras.utils.serialize_keras_object(made)))
    again = keras.utils.deserialize_keras_object(config)
    assert type(again) is type(made) and again.get_config() == made.get_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_shifts": ()}, r"no two are equal.* Received: \[\]"),
        ({"weight_shifts": (1.0, 1.0)}, r"Received: \[1.0, 1.0\].* INITIAL_SHIFTS"),
        ({"activation_shifts": (0.0, float("nan"))}, r"Received: \[0.0, nan\]"),
        ({"strides": 0}, "are 1 or more.* Received: 4, 3, 0, 'same'"),
        ({"padding": "causal"}, "'same' or 'valid'. Received: 4, 3, 1, 'causal'"),
    ],
)
def test_what_it_refuses(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        ABCConv2D(4, 3, **settings)


# -- on a device -----------------------------------------------------------------------------------


def test_each_product_of_bases_becomes_a_1_bit_convolution():
    pytest.importorskip("larq_compute_engine", reason=NO_ENGINE)
    from bnas_larq.export.converter import convert
    from bnas_larq.export.flatbuffer import read_graph
    from bnas_larq.export.lint import lint
    from bnas_larq.export.parity import check_parity
    from bnas_larq.export.tflite_file import read_convolutions

    model = model_of(layer((3, 5)))
    content = convert(model)
    assert [row.binary for row in read_convolutions(content)] == [True] * 3 * 5
    graph, found = read_graph(content), lint(model)
    assert graph.peak_activation_bytes() == found.peak_activation_bytes
    assert found.to_dict()["binary"] == 3 * 5
    # Of 2 channels in words of 32 bits: 3 kernels; a scale of 4 filters for each pair; 5 shifts.
    stored = 3 * (3 * 3 * 4 * 4) + 4 * (3 * 5 * 4 + 5)
    assert found.layers[-1].bytes == stored
    constants = {
        index
        for operation in graph.operations
        for index in operation.inputs[:3]
        if operation.custom == "LceBconv2d" and graph.tensors[index].content
    }
    assert sum(len(graph.tensors[index].content) for index in constants) == stored - 4 * 5
    pictures = numbers(4, 6, 6, 2, seed=4)
    assert check_parity(model, content, pictures).max_abs_difference < 1e-4


def test_a_network_with_the_scheme_trains_and_is_exported(tmp_path):
    size = {"widths": (4, 8), "blocks": (1, 1), "input_shape": (8, 8, 3), "num_classes": 3}
    model = build_residual_network(scheme="abc-net", **size)
    convolution = model.get_layer("block0_0_conv")
    assert type(convolution.input_quantizer) is ABCSign
    with lq.context.quantized_scope(True):
        binary = keras.backend.get_value(convolution.kernel)
    assert len(np.unique(np.abs(binary))) == 1
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = convolution.get_weights()[0]
    pictures = numbers(8, 8, 8, 3)
    model.fit(pictures, np.arange(8) % 3, verbose=0)
    assert np.any(convolution.get_weights()[0] != before)
    pytest.importorskip("larq_compute_engine", reason=NO_ENGINE)
    from bnas_larq.export.exporter import export_network

    report = export_network(model, tmp_path / "model.tflite", pictures)
    assert (report["binary_convolutions"], report["float_convolutions"]) == (2, 1)
    assert report["parity"]["max_abs_difference"] < 1e-4
