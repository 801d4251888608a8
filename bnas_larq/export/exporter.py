"""Export in one step: convert, inspect, compare with Keras, write, and report as plain data."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.errors import ExportError
from bnas_larq.export.converter import convert
from bnas_larq.export.flatbuffer import read_graph
from bnas_larq.export.float_storage import check_float_storage, with_float_storage
from bnas_larq.export.layer_precision import Verdict, judge
from bnas_larq.export.nested_models import flattened
from bnas_larq.export.padding import overhangs
from bnas_larq.export.parity import check_agreement, check_parity
from bnas_larq.export.tflite_file import read_convolutions
from bnas_larq.files import write_atomic

#: Images on which a conversion is checked before kernels are rounded.
_FEW = 16


def export_network(
    model: keras.Model,
    path: str | Path,
    images: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    float_storage: str = FLOAT32,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network as a `.tflite` file for Larq Compute Engine, checked against Keras.

    Args:
        path: the file, written only if conversion and comparison succeed.
        images: float32 [number, height, width, channels], preprocessed as for the model.
        labels: integer [number], the images' classes, to report accuracies, too.
        float_storage: type of the full-precision kernels in the file; see
            `bnas_larq.export.float_storage`.

    Returns:
        A report for JSON: `file` (name), `bytes`, `sha256`, `float_storage`, `memory` (bytes at run
        time: `peak_activations`, see `bnas_larq.costs.peak_memory`, and `restored_kernels`, those
        that are computed from another type and stay), `convolutions` (a `ConvolutionRecord` for
        each convolution and dense layer of the file), `binary_convolutions` and
        `float_convolutions` (their numbers, without dense layers), `not_binary_because` (layer →
        reason), `exact_padding` (layers changed by `bnas_larq.export.padding`), `parity` (see
        `Parity`). Layers of nested models are called `model/layer`.

    Raises:
        ExportError: the file exists (without `overwrite`), the storage is unknown, the model cannot
            be converted, or the file does not run or disagrees with Keras.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"Export writes a file. Received: {path}, a folder. Name a file in it.")
    if path.exists() and not overwrite:
        raise ExportError(
            f"Nothing is overwritten by default. Received: {path}, which exists. "
            "Choose another file or add --overwrite."
        )
    check_float_storage(float_storage)
    flat = flattened(model)
    converted = convert(flat)
    content = with_float_storage(converted, float_storage)
    records, graph = read_convolutions(content, flat), read_graph(content)
    if content != converted:
        # Rounded kernels may hide a wrong conversion.
        check_agreement(check_parity(model, converted, images[:_FEW]))
    parity = check_parity(model, content, images, labels=labels)
    check_agreement(parity, float_storage)
    write_atomic(path, content)
    verdicts = judge(flat)
    binary = {record.name for record in records if record.binary}
    convolutions = [record for record in records if record.kind != "dense"]
    return {
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "float_storage": float_storage,
        "memory": {
            "peak_activations": graph.peak_activation_bytes(),
            "restored_kernels": graph.restored_bytes(),
        },
        "binary_convolutions": sum(record.binary for record in convolutions),
        "float_convolutions": sum(not record.binary for record in convolutions),
        "not_binary_because": {
            record.name: _reason(verdicts.get(record.name))
            for record in records
            if record.name not in binary
        },
        "exact_padding": [layer.name for layer in flat.layers if overhangs(layer)],
        "parity": dataclasses.asdict(parity),
        "convolutions": [dataclasses.asdict(record) for record in records],
    }


def _reason(verdict: Verdict | None) -> str:
    """Why a convolution or dense layer of the file is not 1-bit there."""
    if verdict is None:
        return "its Keras layer is unknown"
    return verdict.reason or "the converter did not recognise it, for an unknown reason"
