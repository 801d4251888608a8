"""Names and shapes of the authors' tensors, against the papers' counts and our own models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnas_larq.errors import WeightsError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.layers.operations import register_operation
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.zoo.authors_layout import head_convolutions, layout, sizes, to_keras
from bnas_larq.zoo.variants import variant

CIFAR, IMAGENET = Genotype.published("bnas_cifar"), Genotype.published("bnas_imagenet")
NETWORKS = [
    (CIFAR, {"cells": 5, "channels": 4}),
    (IMAGENET, {"cells": 3, "channels": 4, "num_classes": 7}),
    (IMAGENET, {"cells": 1, "channels": 2}),
    (IMAGENET, {"cells": 4, "channels": 8, "input_shape": (96, 96, 3)}),
    (CIFAR, {"cells": 3, "channels": 8, "input_shape": (96, 96, 3), "stem_groups": 2}),
]


def tensors(genotype: Genotype, config: NetworkConfig) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, as broadcast zeros: shapes without memory."""
    return {
        name: np.broadcast_to(np.float32(0), shape)
        for module in layout(genotype, config)
        for name, shape in module.tensors.items()
    }


def trainable(genotype: Genotype, config: NetworkConfig, live: bool = False) -> int:
    return sum(
        math.prod(shape)
        for module in layout(genotype, config)
        for name, shape in module.shapes.items()
        if not name.startswith("running") and (module.live or not live)
    )


def test_parameters_are_the_papers():
    """The authors' own count includes branches that reach no output."""
    a, f = variant("bnas-a"), variant("bnas-f")
    assert trainable(a.load_genotype(), a.config()) == 5_578_252
    assert trainable(a.load_genotype(), a.config(), live=True) == 5_578_252 - 52_704
    assert trainable(f.load_genotype(), f.config()) == 39_781_442


@pytest.mark.parametrize(("genotype", "settings"), NETWORKS)
def test_live_modules_are_the_models_layers(genotype, settings):
    config = NetworkConfig(**settings)
    model = build_network(genotype, config)
    expected = {
        layer.name: [tuple(weight.shape) for weight in layer.weights]
        for layer in model.layers
        if layer.weights
    }
    found = {
        module.layer: [to_keras(np.empty(shape)).shape for shape in module.shapes.values()]
        for module in layout(genotype, config)
        if module.live
    }
    assert found == expected


@pytest.mark.parametrize(("genotype", "settings"), NETWORKS)
def test_sizes_follow_from_shapes(genotype, settings):
    config = NetworkConfig(**settings)
    found = sizes(tensors(genotype, config))
    assert NetworkConfig(input_shape=config.input_shape, **found) == config


def test_names_of_both_kinds_of_reduction_cells():
    names = tensors(IMAGENET, NetworkConfig(cells=4, channels=8))
    assert {"stem.bn.weight", "cells.1.preprocess0.op.0.weight"} <= set(names)
    names = tensors(IMAGENET, NetworkConfig(cells=4, channels=8, input_shape=(224, 224, 3)))
    assert {"stem0.3.weight", "stem1.1.weight", "cells.1.preprocess0_red.op.0.weight"} <= set(names)
    assert "cells.3.preprocess0.op.0.weight" in names


def test_head_is_the_last_two_convolutions_of_the_last_cell():
    assert head_convolutions(IMAGENET, NetworkConfig(cells=5)) == (
        "cell4_node3_from1_bin_dil_conv_3x3_conv",
        "cell4_node3_from0_bin_conv_3x3_conv",
    )
    assert head_convolutions(CIFAR, NetworkConfig(cells=5)) == (
        "cell4_node0_from0_bin_dil_conv_3x3_conv",
        "cell4_node1_from1_bin_conv_3x3_conv",
    )
    # With three cells the last one reduces, and its cell has no convolutions at all.
    assert head_convolutions(CIFAR, NetworkConfig(cells=3)) == ()


def test_kernels_are_turned():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # out, in, height, width
    assert to_keras(kernel)[3, 4, 2, 1] == kernel[1, 2, 3, 4]
    assert to_keras(np.ones((7, 2))).shape == (2, 7)
    assert to_keras(np.ones(7)).shape == (7,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.clear(), "0 cells"),
        (lambda t: t.pop("classifier.weight"), "no tensor classifier.weight"),
        (lambda t: t.pop("stem.op.0.weight"), "no tensor stem0.3.weight"),
        (lambda t: t.update({"cells.9999.x": np.ones(1)}), "4 cells, not numbered"),
        (lambda t: t.update({"classifier.weight": np.ones(3)}), r"classifier.weight of shape \(3,"),
        (lambda t: t.update({"stem.op.0.weight": np.ones((0, 3, 3, 3))}), "of shape"),
        (
            lambda t: t.update({"stem.op.0.weight": np.ones((7, 3, 3, 3))}),
            "7 channels, no multiple",
        ),
        (lambda t: t.update({"cells.0._ops.1._ops.2.op.0.weight": np.ones(1)}), "a supernet's"),
    ],
)
def test_what_is_no_final_network_of_theirs(change, message):
    found = tensors(IMAGENET, NetworkConfig(cells=3, channels=4))
    change(found)
    with pytest.raises(WeightsError, match=f"whole final network.*Received: .*{message}"):
        sizes(found)


def test_an_operation_of_ones_own_is_none_of_theirs():
    @register_operation("test_authors_op")
    def operation(context):
        return [context.relu()]

    cell = [[Edge("test_authors_op", 0)]]
    with pytest.raises(WeightsError, match="Received: a genotype with 'test_authors_op'"):
        layout(Genotype(cell, cell), NetworkConfig(cells=1))
