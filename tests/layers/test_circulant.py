"""CBCN's rotations: index by index, as an adjoint, and by what they are for, equivariance."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq import count_costs
from bnas_larq.backend import keras, lq, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.circulant import CirculantQuantConv2D, rotated
from bnas_larq.networks.optimizers import latent_kernels

#: Row and column of the outer taps of a 3×3 kernel, clockwise.
RING = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(kernel: np.ndarray, orientations: int) -> np.ndarray:
    """Ŵ[turn_r(p), i·R + (n + r) mod R, o·R + r] = W[p, i·R + n, o] of a 3×3 kernel."""
    _, _, channels, planes = kernel.shape
    result = np.zeros((3, 3, channels, planes * orientations), kernel.dtype)
    for rotation in range(orientations):
        for row, column, channel, plane in np.ndindex(kernel.shape):
            target = (row, column)
            if target in RING:
                taps = rotation * 8 // orientations
                target = RING[(RING.index(target) + taps) % 8]
            i, n = divmod(channel, orientations)
            read = i * orientations + (n + rotation) % orientations
            result[(*target, read, plane * orientations + rotation)] = kernel[
                row, column, channel, plane
            ]
    return result


@pytest.mark.parametrize("orientations", [4, 8])
def test_every_weight_stands_where_the_formula_says(orientations):
    kernel = numbers(3, 3, 2 * orientations, 3)
    np.testing.assert_array_equal(rotated(kernel, orientations), by_hand(kernel, orientations))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_kernels_of_any_size_turn_by_90_degrees(size):
    kernel = numbers(size, size, 4, 1)
    turned = rotated(kernel).numpy()
    np.testing.assert_array_equal(turned[..., 0], kernel[..., 0])
    clockwise = np.roll(np.rot90(kernel[..., 0], -1), 1, axis=-1)
    np.testing.assert_array_equal(turned[..., 1], clockwise)


@pytest.mark.parametrize("orientations", [4, 8])
def test_a_whole_turn_is_the_identity(orientations):
    """The rotation by one step, taken R times."""
    kernel = start = numbers(3, 3, 2 * orientations, 1)
    for _ in range(orientations):
        kernel = rotated(kernel, orientations)[..., 1:2]
    np.testing.assert_array_equal(kernel, start)


@pytest.mark.parametrize("orientations", [4, 8])
def test_its_gradient_is_the_adjoint(orientations):
    """⟨rot W, G⟩ = ⟨W, rot* G⟩, and rot* rot = R."""
    kernel = tf.constant(numbers(3, 3, 2 * orientations, 3))
    upstream = numbers(3, 3, 2 * orientations, 3 * orientations, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(kernel)
        turned = rotated(kernel, orientations)
    adjoint = tape.gradient(turned, kernel, upstream)
    assert isinstance(adjoint, tf.Tensor)  # dense
    np.testing.assert_allclose(
        np.vdot(turned, upstream), np.vdot(kernel, adjoint), rtol=1e-4, atol=1e-4
    )
    back = tape.gradient(turned, kernel, turned)
    np.testing.assert_allclose(back, orientations * kernel, rtol=1e-6)


def turned_map(maps: np.ndarray, orientations: int = 4) -> np.ndarray:
    """Feature maps of an image that was turned clockwise by 90°."""
    batch, side, _, channels = maps.shape
    planes = maps.reshape(batch, side, side, channels // orientations, orientations)
    return np.roll(np.rot90(planes, -1, axes=(1, 2)), 1, axis=-1).reshape(maps.shape)


def test_turning_the_input_turns_the_output():
    layer = CirculantQuantConv2D(3, padding="same")
    x = numbers(2, 6, 6, 8)
    expected = turned_map(layer(x).numpy())
    np.testing.assert_allclose(layer(turned_map(x)), expected, rtol=1e-5, atol=1e-5)


def built(planes=2, size=6, channels=8, **settings) -> tuple[keras.Model, CirculantQuantConv2D]:
    layer = CirculantQuantConv2D(planes, padding="same", name="conv", **settings)
    return keras.Sequential([keras.Input((size, size, channels)), layer]), layer


@pytest.mark.parametrize("settings", [{}, {"strides": 2}, {"orientations": 8}])
def test_forward_and_backward_pass(settings):
    """a·conv(sign X, sign Ŵ), differentiated through both signs (2 ∓ 2x) and through a."""
    model, layer = built(**settings)
    orientations, strides = layer.orientations, layer.strides[0]
    latent = 0.7 * numbers(*layer.kernel.shape, seed=2)
    model.set_weights([latent])
    x = numbers(2, 6, 6, 8, seed=3)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        outputs = model(inputs, training=True)
        weights = numbers(*outputs.shape, seed=4)
        loss = tf.reduce_sum(outputs * weights)
    of_inputs, of_kernel = tape.gradient(loss, [inputs, *model.trainable_variables])

    scale = np.abs(latent).mean()
    with tf.GradientTape() as tape:
        signs = tf.constant(np.sign(x))
        kernel = tf.constant(by_hand(np.sign(latent), orientations))
        tape.watch((signs, kernel))
        sums = tf.nn.conv2d(signs, kernel, strides, "SAME")
        loss = tf.reduce_sum(sums * weights)
    np.testing.assert_allclose(outputs, scale * sums, rtol=1e-5, atol=1e-5)
    of_signs, of_sign_kernel = tape.gradient(loss, (signs, kernel))
    slope = np.maximum(2 - 2 * np.abs(x), 0)
    np.testing.assert_allclose(of_inputs, scale * of_signs * slope, rtol=1e-4, atol=1e-4)
    # The place of each latent weight in each rotation, from the rotations of their numbers.
    places = by_hand(np.arange(latent.size).reshape(latent.shape), orientations)
    gathered = np.zeros(latent.size)
    np.add.at(gathered, places.ravel(), of_sign_kernel.numpy().ravel())
    slope = np.maximum(2 - 2 * np.abs(latent), 0)
    expected = scale * gathered.reshape(latent.shape) * slope
    expected += np.sign(latent) * float(loss) / latent.size
    np.testing.assert_allclose(of_kernel, expected, rtol=1e-3, atol=1e-3)


def test_it_starts_as_published_and_its_kernel_is_a_latent_one():
    model, layer = built(planes=64, channels=64)
    (kernel,) = model.get_weights()
    assert kernel.std() == pytest.approx(np.sqrt(2 / (64 * 9)), rel=0.05)
    assert np.abs(kernel).max() > 3 * kernel.std()  # a normal distribution that is not cut off
    assert layer.kernel_constraint is None
    assert [latent.name for latent in latent_kernels(model)] == [layer.kernel.name]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("form", ["keras", "h5", "clone"])
def test_it_is_saved_and_cloned(tmp_path, form):
    model, _ = built(strides=2, orientations=8, kernel_constraint="weight_clip")
    if form == "clone":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    else:
        model.save(tmp_path / f"model.{form}")
        again = keras.models.load_model(tmp_path / f"model.{form}")
    x = numbers(1, 6, 6, 8)
    np.testing.assert_array_equal(again(x), model(x))
    assert again.get_layer("conv").get_config() == model.get_layer("conv").get_config()


def test_a_real_kernel_turns_too():
    _, layer = built(kernel_quantizer=None, input_quantizer=None)
    x = numbers(1, 6, 6, 8)
    expected = tf.nn.conv2d(x, by_hand(layer.kernel.numpy(), 4), 1, "SAME")
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("orientations", [4, 8])
def test_costs_count_the_convolution_that_runs_and_the_signs_that_are_stored(orientations):
    planes, inputs, side = 3, 2, 6
    model, _ = built(planes, side, inputs * orientations, orientations=orientations)
    costs = count_costs(model)
    used = 9 * (inputs * orientations) * (planes * orientations)
    assert (costs.binary_macs, costs.full_precision_macs) == (used * side**2, 0)
    stored = 9 * orientations * inputs * planes
    assert used == orientations * stored
    assert costs.parameters == stored
    assert costs.bits == stored + 32  # and one scale


def test_a_fourth_of_the_planes_has_the_operations_of_an_ordinary_convolution():
    model, _ = built(planes=16 // 4, channels=16)
    convolution = lq.layers.QuantConv2D(
        16,
        3,
        padding="same",
        use_bias=False,
        input_quantizer="approx_sign",
        kernel_quantizer="magnitude_aware_sign",
    )
    ordinary = keras.Sequential([keras.Input((6, 6, 16)), convolution])
    assert count_costs(model).ops_honest == count_costs(ordinary).ops_honest
    assert 4 * count_costs(model).parameters == count_costs(ordinary).parameters


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"orientations": 6}, 12, "4 orientations .* or 8 .* Received: orientations=6"),
        ({}, 6, "channels for each plane. Received: 6 channels, orientations=4"),
        ({}, None, "Received: None channels"),
        ({"kernel_size": (3, 1)}, 4, r"is square.* Received: kernel_size=\(3, 1\)"),
        ({"use_bias": True}, 4, "use_bias, groups.* Received: use_bias=True. Omit it"),
        ({"data_format": "channels_first"}, 4, "Received: data_format='channels_first'"),
        ({"kernel_size": 5, "orientations": 8}, 8, r"3×3 with 8.* Received: kernel_size=\(5, 5\)"),
    ],
)
def test_what_it_refuses(settings, channels, message):
    with pytest.raises(BnasLarqError, match=message):
        CirculantQuantConv2D(2, **settings).build((None, 6, 6, channels))
