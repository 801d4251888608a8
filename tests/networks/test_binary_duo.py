"""BinaryDuo: the published layout, and a decoupling that changes no output."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq import build_binary_duo, count_costs, decouple
from bnas_larq.backend import keras, lq
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.binary_convolution import MixedPrecisionConv2D
from bnas_larq.layers.coupled_activation import ClippedRound
from bnas_larq.networks.binary_duo import BinaryDuoConfig

SMALL = {
    "input_shape": (8, 8, 3),
    "num_classes": 3,
    "widths": (4, 6, 10),
    "blocks": (2, 2, 2),
    "last_width": 14,
}


def images(side=8, number=4):
    generator = np.random.default_rng(5)
    return generator.normal(size=(number, side, side, 3)).astype(np.float32)


def binary_convolutions(model):
    layers = (layer for layer in model.layers if isinstance(layer, MixedPrecisionConv2D))
    return [layer for layer in layers if layer.input_quantizer is not None]


def inputs(model, x):
    """What the binary convolutions quantise: their names → real values."""
    layers = binary_convolutions(model)
    inner = keras.Model(model.inputs, {layer.name: layer.input for layer in layers})
    return {name: values.numpy() for name, values in inner(x, training=False).items()}


def activations(model, x):
    """What the binary convolutions read: their names → activations."""
    values = inputs(model, x)
    return {
        layer.name: layer.input_quantizer(values[layer.name]).numpy()
        for layer in binary_convolutions(model)
    }


def far_from_thresholds(coupled, side):
    """Images none of whose values rounding could carry over a threshold."""
    x = images(side, 32)
    distances = [
        np.minimum(np.abs(values - 0.25), np.abs(values - 0.75)).min((1, 2, 3))
        for values in inputs(coupled, x).values()
    ]
    x = x[np.min(distances, axis=0) > 1e-5]
    assert len(x) >= 4
    return x


@pytest.mark.parametrize("kernels", ["binary", "real"])
@pytest.mark.parametrize(
    "size",
    [
        {},
        {"last_width": 10},
        {"blocks": (1, 1, 1)},  # the last convolution halves the resolution, too
        {"widths": (5,), "blocks": (1,)},
        {"input_shape": (32, 32, 3), "stem": "imagenet"},
    ],
    ids=["small", "equal", "single", "one", "imagenet"],
)
def test_decoupling_changes_no_output(with_statistics, size, kernels):
    size = {**SMALL, **size, "kernels": kernels}
    keras.utils.set_random_seed(0)  # other weights may put many values on a threshold
    coupled = with_statistics(build_binary_duo(**size))
    before = coupled.get_weights()
    decoupled = decouple(coupled)
    x = far_from_thresholds(coupled, size["input_shape"][0])
    outputs = coupled(x, training=False).numpy()
    assert np.ptp(outputs) > 0.1
    np.testing.assert_allclose(decoupled(x, training=False), outputs, rtol=1e-5, atol=1e-5)
    pairs = activations(coupled, x), activations(decoupled, x)
    assert len(pairs[0]) == sum(size["blocks"])
    for name, ternary in pairs[0].items():
        first, second = np.split(pairs[1][name], 2, axis=-1)
        assert {*first.ravel(), *second.ravel()} <= {0.0, 1.0}
        np.testing.assert_array_equal((first + second) / 2, ternary, err_msg=name)
    assert set(np.concatenate([part.ravel() for part in pairs[0].values()])) == {0.0, 0.5, 1.0}
    for weight, same in zip(before, coupled.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)


def test_decoupled_weights_are_those_of_the_published_rule(with_statistics):
    coupled = with_statistics(build_binary_duo(**SMALL))
    decoupled = decouple(coupled)
    norms = {"block0_0_bn": 0.0, "stream0_bn": 0.25, "stream1_bn": 0.25, "stream2_bn": 0.25}
    for name, shift in norms.items():
        gamma, beta, mean, variance = coupled.get_layer(name).get_weights()
        copies = decoupled.get_layer(name).get_weights()
        for copied, weight in zip(copies, (gamma, None, mean, variance), strict=True):
            if weight is not None:
                np.testing.assert_array_equal(copied, np.tile(weight, 2))
        np.testing.assert_array_equal(copies[1], np.concatenate([beta - shift, beta + shift]))
    (kernel,), (halves,) = (
        m.get_layer("block1_1_conv").get_weights() for m in (coupled, decoupled)
    )
    np.testing.assert_array_equal(halves, np.concatenate([kernel / 2, kernel / 2], axis=2))
    for name in ("stem_conv", "transition1_conv", "block2_1_bn", "classifier"):
        pairs = zip(*(m.get_layer(name).get_weights() for m in (coupled, decoupled)), strict=True)
        for weight, copied in pairs:
            np.testing.assert_array_equal(copied, weight)


def test_binary_kernels_have_one_scale_for_the_layer():
    for convolution in binary_convolutions(build_binary_duo(**SMALL)):
        with lq.context.quantized_scope(True):
            kernel = keras.backend.get_value(convolution.kernel)
        assert len(np.unique(np.abs(kernel))) == 1


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_saved_network_is_decoupled(with_statistics, tmp_path, suffix):
    coupled = with_statistics(build_binary_duo(**SMALL))
    coupled.save(tmp_path / f"coupled.{suffix}")
    decoupled = decouple(keras.models.load_model(tmp_path / f"coupled.{suffix}"))
    x = far_from_thresholds(coupled, 8)
    expected = coupled(x, training=False)
    np.testing.assert_allclose(decoupled(x, training=False), expected, rtol=1e-5, atol=1e-5)
    decoupled.save(tmp_path / f"decoupled.{suffix}")
    again = keras.models.load_model(tmp_path / f"decoupled.{suffix}")
    np.testing.assert_array_equal(again(x, training=False), decoupled(x, training=False))


def test_it_is_the_network_that_is_built_decoupled():
    own, built = decouple(build_binary_duo(**SMALL)), build_binary_duo(**SMALL, decoupled=True)
    assert [(w.name, w.shape) for w in own.weights] == [(w.name, w.shape) for w in built.weights]
    described = (
        [(layer.name, type(layer), layer.output_shape) for layer in model.layers]
        for model in (own, built)
    )
    assert next(described) == next(described)


def test_the_copies_learn_on_their_own():
    decoupled = decouple(build_binary_duo(**SMALL))
    decoupled.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    decoupled.fit(images(), np.array([0, 1, 2, 0]), epochs=2, verbose=0)
    (kernel,) = decoupled.get_layer("block1_1_conv").get_weights()
    assert not np.array_equal(*np.split(kernel, 2, axis=2))
    first, second = np.split(decoupled.get_layer("stream1_bn").get_weights()[0], 2)
    assert not np.array_equal(first, second)


def published(**settings):
    return build_binary_duo(
        input_shape=(224, 224, 3), num_classes=1000, stem="imagenet", **settings
    )


def test_the_decoupled_resnet_18_has_the_published_cost():
    costs = count_costs(published(decoupled=True))
    # Convolutions of 2C channels; the first one of a resolution reads those of the one before.
    binary = 9 * 56**2 * (4 * 128 * 64)
    binary += 9 * 28**2 * (128 * 90 + 3 * 180 * 90)
    binary += 9 * 14**2 * (180 * 180 + 3 * 360 * 180)
    binary += 9 * 7**2 * (360 * 360 + 2 * 720 * 360 + 720 * 512)
    pointwise = 64 * 90 * 28**2 + 90 * 180 * 14**2 + 180 * 360 * 7**2
    real = 7 * 7 * 3 * 64 * 112**2 + pointwise + 512 * 1000
    assert (costs.binary_macs, costs.full_precision_macs) == (binary, real)
    assert (f"{binary:.3e}", f"{real:.3e}") == ("2.197e+09", "1.294e+08")
    assert costs.ops_honest == real + binary / 64
    assert costs.ops_honest == pytest.approx(1.637e8, rel=0.005)
    assert not costs.uncounted


def test_two_bits_are_not_one():
    """The ternary activations of the coupled network make no 1-bit products."""
    costs = count_costs(build_binary_duo(**SMALL))
    assert costs.binary_macs == 0
    assert count_costs(build_binary_duo(**SMALL, decoupled=True)).binary_macs > 0
    real = count_costs(build_binary_duo(**SMALL, decoupled=True, kernels="real"))
    assert real.binary_macs == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_width": 8}, r"not narrower .* Received: last_width=8, widths=\[4, 6, 10\]"),
        ({"last_width": 20_000}, "Received: last_width=20000.* at most 10,000"),
        ({"widths": (4, 6)}, r"as many widths as .* Received: widths=\[4, 6\]"),
        ({"stem": "imagnet"}, "stem is one of .* Received: 'imagnet'"),
        ({"kernels": "ternary"}, "kernels is one of binary, real. Received: 'ternary'"),
    ],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        build_binary_duo(**{**SMALL, **settings})


@pytest.mark.parametrize(
    ("last_width", "weights"),
    [(None, 9 * 7000**2 * 2 + 7000 * 10), (8000, 9 * 7000 * 8000 * 2 + 8000 * 10)],
)
def test_its_number_of_weights_is_limited(last_width, weights):
    """That of the decoupled network, whose kernels read two copies."""
    size = {"widths": (7000,), "blocks": (1,), "last_width": last_width}
    BinaryDuoConfig(**size, activations="ternary")
    with pytest.raises(BnasLarqError, match=f"more than 640,000,000 .* about {weights:,} for "):
        BinaryDuoConfig(**size)


def test_a_network_is_decoupled_once():
    decoupled = decouple(build_binary_duo(**SMALL, name="mine"))
    assert isinstance(binary_convolutions(decoupled)[0].input_quantizer, ClippedRound)
    with pytest.raises(BnasLarqError, match="Received: 'mine', which has none"):
        decouple(decoupled)
