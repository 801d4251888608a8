"""Export of networks that are built from genotypes."""

from __future__ import annotations

import numpy as np

from bnas_larq.export.exporter import export_network
from bnas_larq.genotype import Genotype
from bnas_larq.models.network import build_network


def network(genotype, **settings):
    """A small network with statistics as after training."""
    model = build_network(Genotype.load(genotype), num_classes=5, cells=3, channels=6, **settings)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if any(part in weight.name for part in ("gamma", "variance")):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
        elif any(part in weight.name for part in ("beta", "mean", "bias")):
            weight.assign(generator.normal(0, 0.3, weight.shape))
    return model


def test_everything_but_stem_shortcut_and_classifier_is_one_bit(tmp_path):
    """8×8 images: the last cell works on 2×2, smaller than every kernel but 1×1."""
    model = network("bnas_imagenet", input_shape=(8, 8, 3))
    images = np.random.default_rng(2).normal(size=(40, 8, 8, 3)).astype(np.float32)
    report = export_network(model, tmp_path / "model.tflite", images)
    assert report["parity"]["equal_predictions"] == 1.0
    assert sorted(report["not_binary_because"]) == [
        "cell1_shortcut_conv",
        "cell2_shortcut_conv",
        "classifier",
        "stem_conv",
    ]
    assert all("by design" in reason for reason in report["not_binary_because"].values())
    assert report["exact_padding"]
    convolutions = [layer.name for layer in model.layers if layer.name.endswith("_conv")]
    listed = [row["name"] for row in report["convolutions"] if row["kind"] == "convolution"]
    assert sorted(listed) == sorted(convolutions)
    assert {row["named_by"] for row in report["convolutions"]} == {"kernel"}
