"""What an entry's `.tflite` file is and does, measured when it is published."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.export.exporter import export_network
from bnas_larq.export.file_network import FileNetwork
from bnas_larq.training import evaluate_network


def deployed_facts(
    model: keras.Model, images: tf.data.Dataset, float_storage: str
) -> dict[str, Any]:
    """Facts of a model's `.tflite` file.

    Args:
        model: with the weights that are published.
        images: all test images in batches with their labels; the first batch is compared with
            Keras.
        float_storage: see `bnas_larq.export.float_storage`.

    Returns:
        `bytes`, `sha256`, `float_storage`, `memory` and the numbers of `binary_convolutions` and
        `float_convolutions`, as of `export_network`; `accuracy` on the test images.

    Raises:
        ExportError: the model cannot be converted.
    """
    first, _ = next(iter(images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = export_network(model, path, first.numpy(), float_storage=float_storage)
        evaluation = evaluate_network(FileNetwork(path.read_bytes()), images)
    keys = ("bytes", "sha256", "float_storage", "memory")
    keys += ("binary_convolutions", "float_convolutions")
    return {**{key: report[key] for key in keys}, "accuracy": evaluation.metrics()["accuracy"]}
