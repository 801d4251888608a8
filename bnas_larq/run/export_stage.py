"""The stage `export` of a run: its model.tflite, compared with Keras on test images."""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.errors import ExportError
from bnas_larq.export.exporter import export_network
from bnas_larq.files import read_record, write_json
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run_folder import RunFolder
from bnas_larq.run_records import Export


def export_trained(
    folder: RunFolder, network: keras.Model, inputs: RunInputs, count: int, float_storage: str
) -> None:
    """Write model.tflite and export.json.

    Args:
        network: the run's, with its weights.
        count: number of test images to compare on, or all if there are fewer.
        float_storage: see `bnas_larq.export.float_storage`.
    """
    test = inputs.data.test
    count = min(count, test.num_examples)
    raw = test.images_at(np.arange(count))
    images = np.asarray(inputs.normalization.apply(tf.constant(raw)))
    # Killed between its two files, it is done again: what it left behind is this run's own.
    folder.mark_undone("export")
    report = export_network(
        network,
        folder / "model.tflite",
        images,
        labels=test.labels[:count],
        float_storage=float_storage,
        overwrite=True,
    )
    write_json(folder / "export.json", report)
    parity = report["parity"]
    say(
        f"export: model.tflite, {report['bytes']} bytes, "
        f"{report['binary_convolutions']} convolutions in 1 bit, "
        f"{report['float_convolutions']} not (kernels stored as {float_storage}); "
        f"{parity['equal_predictions']:.2%} of {parity['images']} predictions equal to Keras, "
        f"largest difference {parity['max_abs_difference']:.2g}, "
        f"accuracy {parity['accuracy']:.4f} (Keras {parity['keras_accuracy']:.4f})"
    )


def check_exported(folder: RunFolder, float_storage: str) -> None:
    """Raise ExportError unless a run's model.tflite has kernels of this storage."""
    done = read_record(folder / "export.json", Export).get("float_storage", FLOAT32)
    if done != float_storage:
        raise ExportError(
            "A run has one model.tflite. "
            f"Received: float storage {float_storage}, but it was exported with {done}. "
            "Export it again with --overwrite, or elsewhere with --out."
        )
