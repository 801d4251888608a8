"""Embedding networks: a backbone whose features become vectors to compare images by."""

from __future__ import annotations

from typing import Any

from bnas_larq.backend import keras
from bnas_larq.genotype import Genotype
from bnas_larq.layers.batch_norm import BATCH_NORM
from bnas_larq.layers.operations import chain
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import build_network

EMBEDDING = "embedding"


def build_embedding_network(
    genotype: Genotype | None,
    config: BaseConfig | None = None,
    *,
    features: int = 128,
    **settings: Any,
) -> keras.Model:
    """Build a backbone with a global average pool, and behind it BatchNorm, a dense layer in full
    precision and BatchNorm, as face recognition has it (ArcFace, arXiv 1801.07698, section 3.1,
    with the pool in place of its larger dense layer).

    Args:
        genotype, config: of the backbone, see `bnas_larq.build_network`.
        features: length of an embedding.
        settings: as of `bnas_larq.build_network`, but for the top.

    Returns:
        Functional Keras model, [batch, height, width, channels] → [batch, features]. Embeddings are
        not scaled to length 1.

    Raises:
        BnasLarqError, GenotypeError: as of `bnas_larq.build_network`.

    Example:
        >>> from bnas_larq import ResidualConfig
        >>> config = ResidualConfig(input_shape=(8, 8, 3), widths=(4, 8), blocks=(1, 1))
        >>> build_embedding_network(None, config, features=16).output_shape
        (None, 16)
    """
    backbone = build_network(genotype, config, include_top=False, pooling="avg", **settings)
    layers = [
        keras.layers.BatchNormalization(name="pool_bn", **BATCH_NORM),
        keras.layers.Dense(features, use_bias=False, name=EMBEDDING),
        keras.layers.BatchNormalization(name=f"{EMBEDDING}_bn", **BATCH_NORM),
    ]
    outputs = chain(layers, backbone.output)
    return keras.Model(backbone.inputs, outputs, name=f"{backbone.name}_{EMBEDDING}")
