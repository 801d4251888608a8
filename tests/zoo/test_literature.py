"""The networks that the papers compare with: published costs, and Keras models like any."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq import build_binary_duo, count_costs, planned_costs, zoo
from bnas_larq.backend import keras
from bnas_larq.errors import ZooError
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.networks.weight_files import save_weights
from bnas_larq.zoo.literature import LITERATURE

#: What schemes add to a network's cost in full precision: ReActNet's and the learned scales have
#: no MACs, Real-to-Binary's gates two small matrices for each convolution.
GATES = sum(
    2 * count * width * (width // 8) for width, count in ((64, 4), (128, 4), (256, 4), (512, 4))
)
_REAL = 7 * 7 * 3 * 64 * 112**2 + 512 * 1000  # stem and classifier
_PLACES = ((56, 64, 64), (28, 64, 128), (14, 128, 256), (7, 256, 512))  # side, channels in and out


def _resnet_macs(*blocks: int) -> int:
    """Binary MACs of blocks of two convolutions with binary 1×1 shortcuts."""
    convolutions = sum(
        9 * side**2 * (first * wide + (2 * count - 1) * wide**2)
        for count, (side, first, wide) in zip(blocks, _PLACES, strict=True)
    )
    return convolutions + sum(side**2 * first * wide for side, first, wide in _PLACES[1:])


#: Of CBCN: 16 times the binary MACs of Bi-Real Net's, a stem of 256 channels, shortcuts in front of
#: their pools, a classifier of 2048 channels.
_BI_REAL = sum(9 * side**2 * (first * wide + 3 * wide**2) for side, first, wide in _PLACES)
_SHORTCUTS = 56**2 * 256 * 512 + 28**2 * 512 * 1024 + 14**2 * 1024 * 2048
_CBCN = 7 * 7 * 3 * 256 * 112**2 + _SHORTCUTS + 2048 * 1000 + 16 * _BI_REAL / 64
OPS = {
    **dict.fromkeys(("binarynet-resnet18", "xnornet-resnet18"), 1.450e8),
    **dict.fromkeys(("xnornet-plus-plus-resnet18", "abcnet-resnet18"), 1.450e8),
    "abcnet-resnet34": 1.739e8,
    **dict.fromkeys(("bireal18", "bonn-bireal18", "pcnn-resnet18", "reactnet18"), 1.640e8),
    "real-to-bin18": 1.640e8 + GATES,
    # 25 binary convolutions in place of each one, shortcuts included.
    "abcnet-resnet18-5x5": _REAL + 25 * _resnet_macs(2, 2, 2, 2) / 64,
    "abcnet-resnet34-5x5": _REAL + 25 * _resnet_macs(3, 4, 6, 3) / 64,
    "bireal34": 1.929e8,
    "binary-duo18": 1.637e8,
    "cbcn-bireal18": _CBCN,
}
#: Binary MACs, which BATS' paper prints to four digits.
BATS_MACS = {"bats-base": 1.1497e9, "bats-2x-wider": 2.1573e9}
RESIDUAL = [name for name in LITERATURE if name not in BATS_MACS]


@pytest.mark.parametrize("name", RESIDUAL)
def test_published_costs(name):
    costs = planned_costs(None, LITERATURE[name].config())
    assert costs.ops_honest == pytest.approx(OPS[name], rel=4e-4)


@pytest.mark.parametrize(("name", "macs"), BATS_MACS.items())
def test_binary_macs_of_bats(name, macs):
    network = LITERATURE[name]
    costs = planned_costs(network.load_genotype(), network.config())
    assert costs.binary_macs == pytest.approx(macs, abs=5e4)
    # The CIFAR stem has nothing to group.
    assert network.config(input_shape=(32, 32, 3)).stem_groups == 1


def test_bats_has_its_groups_and_real_stem():
    model = zoo.BATS(input_shape=(32, 32, 3), num_classes=10)
    assert model.name == "bats_base" and model.output_shape == (None, 10)
    grouped = [layer for layer in model.layers if "_bin_group_" in layer.name]
    grouped = [layer for layer in grouped if layer.name.endswith("_conv")]
    # Six convolutions in each of 12 normal cells, five in each of 2 reduction cells.
    assert len(grouped) == 6 * 12 + 5 * 2
    assert {layer.groups for layer in grouped} == {16}


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_factory_builds_it(name):
    network = LITERATURE[name]
    model = getattr(zoo, network.factory)(input_shape=(32, 32, 3), num_classes=10)
    assert model.name == name.replace("-", "_") and model.output_shape == (None, 10)
    assert model.get_layer("classifier").activation is keras.activations.softmax
    binary = latent_kernels(model)
    shortcuts = 3 * (network.backbone.startswith("resnet"))
    assert len(binary) == {"18": 16, "34": 32}[network.backbone[-2:]] + shortcuts


def test_the_factory_of_binary_duo_is_its_decoupled_network():
    """The same layers, so the same costs, whichever way it is built."""
    built = build_binary_duo(decoupled=True, input_shape=(32, 32, 3))
    made = zoo.BinaryDuoResNet18(input_shape=(32, 32, 3), num_classes=10)
    assert [(w.name, w.shape) for w in made.weights] == [(w.name, w.shape) for w in built.weights]
    assert count_costs(made).layers == count_costs(built).layers


def test_papers_and_costs_count_circulant_kernels_differently():
    costs = planned_costs(None, LITERATURE["cbcn-bireal18"].config())
    assert costs.binary_macs == 16 * _BI_REAL
    kernels = sum(layer.parameters for layer in costs.layers if layer.binary_macs)
    weights = sum(9 * (first * wide + 3 * wide**2) for _, first, wide in _PLACES)
    assert kernels == 16 * weights // 4  # stored, of 16 times as many that are used
    published = LITERATURE["cbcn-bireal18"].reported.ops
    assert published == pytest.approx(4 * OPS["bireal18"], rel=1e-3)


def test_its_weights_are_a_file_or_none(tmp_path):
    size = {"input_shape": (32, 32, 3), "num_classes": 4}
    model = zoo.BiRealNet18(**size)
    save_weights(model, tmp_path / "weights.h5")
    again = zoo.BiRealNet18(**size, weights=tmp_path / "weights.h5")
    for weight, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    with pytest.raises(ZooError, match="published weights of BiRealNet18. Received: .*imagenet"):
        zoo.BiRealNet18(**size, weights="imagenet")


def test_another_input_and_head():
    images = keras.Input((64, 48, 3))
    model = zoo.ReActNet18(input_tensor=images, include_top=False, pooling="avg")
    assert model.output_shape == (None, 512)
