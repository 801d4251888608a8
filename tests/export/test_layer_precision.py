"""What lint foretells of every kind of convolution is what the converter makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.export.converter import convert
from bnas_larq.export.layer_precision import judge
from bnas_larq.export.lint import lint
from bnas_larq.export.nested_models import flattened
from bnas_larq.export.tflite_file import read_convolutions
from bnas_larq.genotype import Genotype
from bnas_larq.layers.convolutions import SymmetricQuantConv2D, Zeroise
from bnas_larq.networks.network import build_network

L, Q = keras.layers, lq.layers
BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}
KERNEL = {"kernel_quantizer": "ste_sign", "use_bias": False}


def conv(name, x, filters=4, **options):
    """A binary 3×3 convolution, but for the options."""
    return Q.QuantConv2D(filters, 3, **{"padding": "same", "name": name, **BINARY, **options})(x)


def sign(x):
    return lq.quantizers.SteSign()(x)


def behind(name, x):
    """A convolution with a binary kernel and no quantizer of its own input."""
    return Q.QuantConv2D(4, 3, padding="same", name=name, **KERNEL)(x)


#: Name → (builder, cause why it is not 1-bit; empty for 1-bit).
CASES = {
    "plain": (conv, ""),
    "valid": (lambda n, x: conv(n, x, padding="valid"), ""),
    "ones_padded": (lambda n, x: conv(n, x, pad_values=1.0, strides=2), ""),
    "dilated": (lambda n, x: conv(n, x, dilation_rate=2), ""),
    "swish": (lambda n, x: conv(n, x, input_quantizer="swish_sign"), ""),
    "scaled": (lambda n, x: conv(n, x, kernel_quantizer="magnitude_aware_sign"), ""),
    "with_bias": (lambda n, x: conv(n, x, use_bias=True, activation="relu"), ""),
    # An explicit zero pad in front of the sign becomes ones, as sign(0) is +1.
    "pad_then_sign": (lambda n, x: conv(n, L.ZeroPadding2D()(x), padding="valid"), ""),
    "pool_then_sign": (lambda n, x: conv(n, L.MaxPooling2D()(sign(x))), ""),
    "sign_before": (lambda n, x: behind(n, sign(x)), ""),
    "sign_dropout": (lambda n, x: behind(n, L.Dropout(0.5)(sign(x))), ""),
    "sign_activation": (
        lambda n, x: behind(n, L.Conv2D(4, 1, activation=lq.quantizers.SteSign(), name="o")(x)),
        "",
    ),
    "partly_zeros": (lambda n, x: conv(n, L.Concatenate()([x, Zeroise()(x)])), ""),
    "sign_then_pad": (
        lambda n, x: Q.QuantConv2D(4, 3, name=n, **KERNEL)(L.ZeroPadding2D()(sign(x))),
        "precision",
    ),
    "sign_then_pool": (lambda n, x: behind(n, L.MaxPooling2D()(sign(x))), "precision"),
    "sign_then_concat": (lambda n, x: behind(n, L.Concatenate()([sign(x)] * 2)), "precision"),
    "sign_then_relu": (lambda n, x: behind(n, L.ReLU()(sign(x))), "precision"),
    "not_quantised": (behind, "precision"),
    "zero_one_input": (lambda n, x: conv(n, x, input_quantizer="ste_heaviside"), "precision"),
    "ternary": (lambda n, x: conv(n, x, kernel_quantizer="ste_tern"), "precision"),
    "float": (lambda n, x: L.Conv2D(4, 3, name=n)(x), "design"),
    "float_kernel": (lambda n, x: conv(n, x, kernel_quantizer=None), "design"),
    "odd_padding": (lambda n, x: conv(n, x, pad_values=-1.0), "padding"),
    "symmetric": (
        lambda n, x: SymmetricQuantConv2D(4, 3, strides=2, name=n, **BINARY)(x),
        "padding",
    ),
    "grouped": (
        lambda n, x: conv(n, L.Conv2D(6, 1, name="to6")(x), filters=6, groups=2),
        "groups",
    ),
    "dilated_alike": (lambda n, x: conv(n, x, dilation_rate=3, padding="valid"), "shared"),
    "dilated_too": (lambda n, x: conv(n, x, dilation_rate=3, padding="valid"), "shared"),
    "dilated_more": (lambda n, x: conv(n, x, dilation_rate=3, padding="same"), ""),
    "depthwise": (
        lambda n, x: Q.QuantDepthwiseConv2D(
            3, name=n, input_quantizer="ste_sign", depthwise_quantizer="ste_sign"
        )(x),
        "kind",
    ),
    "one_dimension": (
        lambda n, x: L.Reshape((1, -1, 4))(Q.QuantConv1D(4, 3, name=n, **BINARY)(_rows(x))),
        "kind",
    ),
    "quant_dense": (lambda n, x: Q.QuantDense(4, name=n, **BINARY)(x), "kind"),
    "on_zeros": (lambda n, x: conv(n, L.BatchNormalization()(Zeroise()(x))), "constant"),
}


def _rows(x):
    return L.Reshape((64, 5))(x)


@pytest.fixture(scope="module")
def everything():
    """One model with all cases, and the list of its file."""
    image = keras.Input((8, 8, 5))
    outputs = []
    for name, (build, _) in CASES.items():
        outputs.append(L.GlobalAveragePooling2D()(build(name, image)))
    model = keras.Model(image, L.Concatenate()(outputs))
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if "pad" not in weight.name:
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        if "kernel" in weight.name:
            weight.assign(generator.normal(0.1, 1.0, weight.shape))
    return model, read_convolutions(convert(model), model)


@pytest.mark.parametrize("name", CASES)
def test_each_verdict_is_the_converters(everything, name):
    model, records = everything
    verdict = judge(model)[name]
    assert verdict.cause == CASES[name][1], verdict.reason
    assert verdict.binary == (not verdict.cause) == (not verdict.reason)
    found = [record.binary for record in records if record.name == name]
    assert found == ([] if verdict.cause == "constant" else [verdict.binary])


def test_the_verdicts_tell_what_was_meant_to_be_binary(everything):
    verdicts = judge(everything[0])
    not_meant = {name for name, verdict in verdicts.items() if not verdict.meant}
    assert not_meant == {"float", "float_kernel", "o", "to6"}


def foretold(model):
    """What lint says will be 1-bit, and what will not; what is computed while converting apart."""
    found = lint(model)
    return (
        {layer.name for layer in found.binary},
        {layer.name for layer in found.not_binary if layer.cause != "constant"},
    )


def converted(model):
    records = read_convolutions(convert(model), model)
    assert {record.named_by for record in records} == {"kernel"}
    return (
        {record.name for record in records if record.binary},
        {record.name for record in records if not record.binary},
    )


@pytest.mark.parametrize(
    ("genotype", "settings", "lost"),
    [
        # Untrained, so that the two dilated convolutions behind equal BatchNorms share their signs.
        ("bnas_imagenet", {"input_shape": (8, 8, 3), "cells": 3, "padding": "symmetric"}, 1 + 2),
        ("bnas_cifar", {"input_shape": (96, 96, 3), "cells": 1, "stem_groups": 2}, 0),
        (
            "random:4",
            {"input_shape": (8, 8, 3), "cells": 2, "full_precision": ("*preprocess1*",)},
            0,
        ),
    ],
)
def test_lint_foretells_the_conversion_of_networks(genotype, settings, lost):
    model = build_network(Genotype.load(genotype), channels=8, **settings)
    binary, other = foretold(model)
    assert binary and (binary, other) == converted(model)
    assert sum(verdict.meant and not verdict.binary for verdict in judge(model).values()) == lost
    if "stem_groups" in settings:
        assert model.get_layer("stem1_conv").groups == 2 and "stem1_conv" in other
    if "full_precision" in settings:
        assert {"cell0_preprocess1_conv", "cell1_preprocess1_conv"} <= other


def test_training_gives_dilated_convolutions_signs_of_their_own():
    model = build_network(
        Genotype.load("bnas_imagenet"), input_shape=(8, 8, 3), cells=1, channels=4
    )
    shared = {name for name, verdict in judge(model).items() if verdict.cause == "shared"}
    ends = ("node2_from1_bin_dil_conv_3x3_conv", "node3_from1_bin_dil_conv_3x3_conv")
    assert shared == {f"cell0_{end}" for end in ends}
    model.get_layer("cell0_node2_from1_bin_dil_conv_3x3_bn").beta.assign([0.1, 0.0, 0.0, 0.0])
    assert not any(verdict.cause == "shared" for verdict in judge(model).values())


def test_lint_foretells_the_conversion_of_larq_zoos_quicknet():
    larq_zoo = pytest.importorskip("larq_zoo")
    model = larq_zoo.sota.QuickNetSmall(weights=None, input_shape=(32, 32, 3), num_classes=5)
    generator = np.random.default_rng(2)
    for weight in model.trainable_weights:
        if "kernel" in weight.name:
            weight.assign(generator.normal(0.0, 1.0, weight.shape))
    binary, other = foretold(model)
    records = read_convolutions(convert(model), model)
    assert len(binary) == 4 * 4 and binary == {r.name for r in records if r.binary}
    # Both pools' blur kernels are constants, all of the same values: named by their order.
    assert other == {r.name for r in records if not r.binary}


def test_a_kernel_of_anothers_layer_is_left_to_the_conversion():
    class Mine(lq.layers.QuantConv2D):
        pass

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Mine(2, 3, name="mine", **BINARY)(image))
    verdict = judge(model)["mine"]
    assert (verdict.cause, verdict.binary) == ("custom", False)
    assert "only a conversion can tell" in verdict.reason


def test_an_unreadable_quantizer_is_no_sign():
    def refuses(x):
        raise ValueError("not today")

    image = keras.Input((8, 8, 3))
    layer = lq.layers.QuantConv2D(2, 3, name="c", kernel_quantizer="ste_sign")
    model = keras.Model(image, layer(image))
    layer.input_quantizer = refuses
    assert judge(model)["c"].cause == "precision"


def test_flat_models_are_judged_as_they_are(everything):
    model = everything[0]
    assert flattened(model) is model
    assert [dataclasses.asdict(v) for v in judge(model).values()]
    assert isinstance(model.inputs[0], type(tf.keras.Input((1,))))
