"""Lint counts what a file will hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bnas_larq.backend import keras, lq
from bnas_larq.errors import ExportError
from bnas_larq.export.dead_branches import dead_branches
from bnas_larq.export.lint import lint
from bnas_larq.export.lint_text import lint_text
from bnas_larq.genotype import Genotype
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.networks.network import NetworkConfig, build_network

BINARY = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "use_bias": False}


@pytest.fixture(scope="module")
def counted():
    """Every figure of this network can be written down."""
    image = keras.Input((8, 8, 40))
    x = lq.layers.QuantConv2D(6, 3, padding="same", name="binary", **BINARY)(image)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = SymmetricQuantConv2D(4, 3, strides=2, name="lost", **BINARY)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(2, name="top")(x), name="counted")


def test_every_figure(counted):
    found = lint(counted)
    layers = {layer.name: layer for layer in found.layers}
    assert list(layers) == ["binary", "bn", "lost", "top"]
    # 40 channels take two words of 32 bits
    assert layers["binary"].bytes == 3 * 3 * 6 * 2 * 4
    assert layers["binary"].wasted_bits == 2 * 32 - 40
    assert layers["binary"].ops == 8 * 8 * 3 * 3 * 40 * 6 / 64
    assert layers["bn"].bytes == 4 * 6 * 4 and layers["bn"].ops == 0
    # meant to be binary, but float in the file
    assert layers["lost"].meant and layers["lost"].cause == "padding"
    assert layers["lost"].bytes == 3 * 3 * 6 * 4 * 4
    assert layers["lost"].ops == 4 * 4 * 3 * 3 * 6 * 4
    assert layers["top"].bytes == (4 * 2 + 2) * 4 and layers["top"].ops == 4 * 2
    assert found.outside_ops == layers["lost"].ops + layers["top"].ops
    assert found.ops == found.outside_ops + layers["binary"].ops
    assert found.planned_ops == found.ops - layers["lost"].ops * (1 - 1 / 64)
    assert found.outside_bytes == found.bytes - layers["binary"].bytes
    assert found.blockers == () and found.constants == {} and found.dead == ()


def test_the_text_tells_it_all(counted):
    text = lint_text(lint(counted))
    assert text.startswith("1 of 2 convolutions will be 1-bit.\n")
    assert "lost  convolution  padding  zeros padded behind the sign" in text
    assert "40 channels  24 of 64 bits unused  1 × convolution, 432 bytes" in text
    assert "3456 of the file's are convolutions that were meant to be 1-bit" in text
    assert "1 × BatchNormalization" in text


def test_json_holds_the_same(counted):
    values = json.loads(json.dumps(lint(counted).to_dict()))
    assert values["binary"] == 1 and set(values["not_binary"]) == {"lost", "top"}
    assert [layer["name"] for layer in values["layers"]] == ["binary", "bn", "lost", "top"]


def test_zeros_are_stored_once_for_each_shape_and_their_readers_are_computed():
    genotype = Genotype(
        (
            (("none", 0), ("none", 1)),
            (("none", 0), ("none", 1)),
            (("bin_conv_3x3", 2), ("bin_conv_3x3", 1)),
        ),
        Genotype.load("bnas_imagenet").reduce,
    )
    config = NetworkConfig(input_shape=(16, 16, 3), cells=2, channels=6)
    found = lint(build_network(genotype, config), genotype, config)
    size = 16 * 16 * 6 * 4
    assert [c for c in found.constants.values()] == [size] * 3  # zeros; node 2's, in both cells
    assert sum(name.startswith("zeros of") for name in found.constants) == 1
    constant = [layer for layer in found.not_binary if layer.cause == "constant"]
    assert [layer.name for layer in constant] == [
        f"cell{cell}_node2_from2_bin_conv_3x3_conv" for cell in (0, 1)
    ]
    assert all(layer.macs == 0 and layer.bytes < 50 for layer in constant)
    text = lint_text(found)
    assert "Zeroise: 4 of 6 edges of the normal cell, 0 of 8 edges of the reduce cell." in text
    assert "normal cell: nodes 0, 1 have only Zeroise edges, so only zeros" in text


def test_what_cannot_be_converted_is_a_finding():
    image = keras.Input((4, 4, 3))
    half = keras.layers.Conv2D(2, 1, dtype="mixed_bfloat16", name="half")(image)
    other = keras.Input((4, 4, 2))
    model = keras.Model([image, other], keras.layers.Concatenate()([half, other]))
    first, second = lint(model).blockers
    assert "Received: 2 inputs" in first and "another precision in half" in second
    assert lint_text(lint(model)).startswith("Cannot be converted as it is:\n")


def test_a_model_without_a_graph_is_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ExportError, match="without a graph"):
        lint(Subclassed())


def test_lint_needs_no_compute_engine(counted, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "larq_compute_engine", None)
    assert np.isfinite(lint(counted).ops)


def test_the_published_cifar_cell_has_the_dead_branches_that_its_paper_implies():
    config = NetworkConfig(cells=6, channels=4)
    normal, reduce = dead_branches(Genotype.load("bnas_cifar"), config)
    assert (normal.edges, normal.zeroise) == (reduce.edges, reduce.zeroise) == (8, 6)
    assert (normal.unread, normal.zero_nodes) == ((), (2, 3))
    assert (reduce.unread, reduce.zero_nodes) == (("newer",), (2, 3))
    assert reduce.absent == ("cell2_preprocess1", "cell4_preprocess1")
    names = {layer.name for layer in build_network(Genotype.load("bnas_cifar"), config).layers}
    for absent in reduce.absent:
        assert f"{absent}_conv" not in names
        assert f"{absent.replace('1', '0')}_conv" in names
    assert reduce.sentences() == [
        "reduce cell: no operation reads its newer input; cell2_preprocess1, cell4_preprocess1 not "
        "built",
        "reduce cell: nodes 2, 3 have only Zeroise edges, so only zeros",
    ]


def test_a_cell_without_zeroise_has_none():
    for dead in dead_branches(Genotype.load("bnas_imagenet")):
        assert dead.sentences() == [] and dead.zeroise == 0


def test_what_reads_only_zeros_is_the_same_for_every_image():
    cell = (
        (("none", 0), ("none", 1)),
        (("bin_conv_3x3", 2), ("none", 0)),
        (("max_pool_3x3", 3), ("bin_conv_3x3", 2)),
        (("max_pool_3x3", 3), ("bin_conv_3x3", 1)),
    )
    normal, _ = dead_branches(Genotype(cell, cell))
    assert (normal.zero_nodes, normal.constant_nodes) == ((0,), (1, 2))
    assert normal.unread == ("older",)
    assert any("nodes 1, 2 have only zeros as input" in text for text in normal.sentences())
