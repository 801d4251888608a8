"""Bytes by kind of weight as visible arithmetic."""

from __future__ import annotations

import pytest

from bnas_larq.backend import keras, lq
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.costs.float_kernels import kernel_bytes
from bnas_larq.genotype import Genotype
from bnas_larq.layers.quantizers import SignScale
from bnas_larq.layers.scaling import LearnedScale


@pytest.mark.parametrize(
    ("case", "parameters", "factors"),
    [
        (1, 5, 5),
        (2, 2 * 3 * 5, 2 * 3 * 5),
        (3, 5 + 2 * 3, 2 * 3 * 5),
        (4, 5 + 2 + 3, 2 * 3 * 5),
    ],
)
def test_learned_scales_are_deployed_as_their_product(case, parameters, factors):
    costs = count_costs(keras.Sequential([keras.Input((2, 3, 5)), LearnedScale(case)]))
    assert (costs.parameters, costs.bytes) == (parameters, 4 * factors)


def test_every_weight_has_a_kind():
    binary = {"input_quantizer": "ste_sign", "kernel_quantizer": SignScale(), "use_bias": False}
    image = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(16, 3, use_bias=False, name="stem_conv")(image)
    x = keras.layers.BatchNormalization()(x)
    x = lq.layers.QuantConv2D(20, 3, **binary)(x)
    x = keras.layers.DepthwiseConv2D(4, name="cell1_shortcut_depthwise")(x)
    x = keras.layers.SeparableConv2D(24, 1, name="separable")(
        keras.layers.PReLU(shared_axes=[1, 2])(x)
    )
    model = keras.Model(image, keras.layers.Dense(12)(x))
    costs = count_costs(model)
    # The separable convolution's depthwise kernel of 20 weights is too small to be stored smaller.
    stem, depthwise, pointwise, dense = 3 * 3 * 4 * 16, 4 * 4 * 20, 20 * 24, 24 * 12
    fixed = {
        "binary_kernels": 3 * 3 * 16 * 20 // 8,
        "scales": 4 * 20,
        "batch_norm": 4 * 4 * 16,
        "bias": 4 * (20 + 24 + 12),
        "other": 4 * 20,
    }
    assert costs.bytes_by_kind == {
        "float32": {
            **fixed,
            "stem": 4 * stem,
            "shortcut": 4 * depthwise,
            "classifier": 4 * dense,
            "other_kernels": 4 * (20 + pointwise),
        },
        "float16": {
            **fixed,
            "stem": 2 * stem,
            "shortcut": 2 * depthwise,
            "classifier": 2 * dense,
            "other_kernels": 4 * 20 + 2 * pointwise,
        },
        "int8": {
            **fixed,
            "stem": stem + 4 * 16,
            "shortcut": depthwise + 4 * 20,
            "classifier": dense + 4 * 12,
            "other_kernels": 4 * 20 + pointwise + 4 * 24,
        },
    }
    assert sum(costs.bytes_by_kind["float32"].values()) == costs.bytes
    assert costs.to_dict()["bytes_by_kind"] == costs.bytes_by_kind
    table = costs.table()
    row = next(line.split() for line in table.splitlines() if line.strip().startswith("shortcut"))
    assert row == ["shortcut", f"{4 * depthwise:,}", f"{2 * depthwise}", f"{depthwise + 80}"]


@pytest.mark.parametrize(
    ("storage", "expected"), [("float32", 1200), ("float16", 600), ("int8", 300 + 4 * 10)]
)
def test_bytes_of_a_kernel(storage, expected):
    assert kernel_bytes(300, 10, storage) == expected
    assert kernel_bytes(255, 10, storage) == 4 * 255  # restoring it would take what it saves


def test_kinds_of_a_planned_network_sum_to_its_bytes():
    costs = planned_costs(Genotype.published("bnas_cifar"), cells=3, channels=4)
    kinds = costs.bytes_by_kind["float32"]
    assert sum(kinds.values()) == costs.bytes
    assert kinds["stem"] == 4 * 3 * 3 * 3 * 12
    # 2×2 convolutions from 4·4 channels to 8·4, and from there to 16·4
    assert kinds["shortcut"] == 4 * (2 * 2 * 16 * 32 + 2 * 2 * 32 * 64)
    assert kinds["classifier"] == 4 * 64 * 10
