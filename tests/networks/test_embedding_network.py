"""Embedding networks: their layers, and that heads come off without a trace."""

from __future__ import annotations

import numpy as np

from bnas_larq.genotype import Genotype
from bnas_larq.networks.embedding_network import build_embedding_network
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.optimizers import weight_kinds
from bnas_larq.networks.residual_network import ResidualConfig


def test_a_backbone_with_pool_and_three_layers():
    config = ResidualConfig(input_shape=(8, 8, 3), widths=(4, 8), blocks=(1, 1))
    model = build_embedding_network(None, config, features=5)
    names = [layer.name for layer in model.layers]
    assert names[-4:] == ["pool", "pool_bn", "embedding", "embedding_bn"]
    assert model.output_shape == (None, 5)
    backbone = build_network(None, config, include_top=False)
    # A BatchNorm of 8, a dense layer without bias, a BatchNorm of 5.
    added = 4 * 8 + 8 * 5 + 4 * 5
    assert model.count_params() == backbone.count_params() + added
    assert weight_kinds(model)[model.get_layer("embedding").kernel.name] == "kernels"


def test_cells_and_their_full_precision_twin():
    genotype = Genotype.published("bnas_cifar")
    config = NetworkConfig(input_shape=(8, 8, 3), channels=4, cells=1)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for changes in ({}, {"activations": "relu", "kernels": "real"}):
        model = build_embedding_network(genotype, config, features=6, **changes)
        assert model(images).shape == (2, 6)
