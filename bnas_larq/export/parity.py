"""Compares an exported file, run in LCE's interpreter, with its Keras model, image by image."""

from __future__ import annotations

import dataclasses

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.errors import ExportError
from bnas_larq.export.file_network import FileNetwork

#: Tolerated mean difference, as a share of the largest output. A value within rounding of 0 that
#: gets the opposite sign moves the outputs of its image by some percent; a larger mean difference
#: comes from a different function.
TOLERATED = 0.05
#: The same where kernels are stored as another type: every rounded kernel moves all values in front
#: of signs a little, and so turns more of them, above all in images unlike those of training.
TOLERATED_ROUNDED = 0.15
#: Probabilities below are not told apart.
_LEAST = 1e-7
#: Images of a Keras call; the file takes one at a time.
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far a file and its Keras model agree.

    Attributes:
        images: number of images compared.
        max_abs_difference: largest difference of any output.
        mean_abs_difference: mean difference over all outputs.
        max_abs_output: largest output of Keras.
        judged_difference: mean difference as a share of the largest output, by which the file is
            judged. Probabilities are judged by their logits, whose size does not depend on the
            number of classes.
        equal_predictions: share of images, 0 to 1, with the same argmax.
        accuracy, keras_accuracy: share of images that the file, and Keras, classify as labelled;
            None without labels.
    """

    images: int
    max_abs_difference: float
    mean_abs_difference: float
    max_abs_output: float
    judged_difference: float
    equal_predictions: float
    accuracy: float | None = None
    keras_accuracy: float | None = None


def check_agreement(parity: Parity, float_storage: str = FLOAT32) -> None:
    """Raise ExportError if a file computes a different function from its Keras model."""
    tolerated = TOLERATED if float_storage == FLOAT32 else TOLERATED_ROUNDED
    if parity.judged_difference > tolerated:
        way_out = "Larq Compute Engine converts a layer wrongly. Nothing is written; replace "
        way_out += "unusual layers, such as uncommon paddings."
        if float_storage != FLOAT32:
            way_out = f"kernels stored as {float_storage} are too coarse, or Larq Compute Engine "
            way_out += "converts a layer wrongly. Nothing is written; store them as float32."
        raise ExportError(
            "An exported file must compute what its Keras model does. "
            f"Received: outputs that differ by {parity.judged_difference:.0%} of the largest on "
            f"average: {way_out}"
        )


def _judged(outputs: np.ndarray) -> np.ndarray:
    """What a comparison is judged by: outputs, or the logits behind probabilities, which are known
    up to a number for each image."""
    sums = outputs.sum(axis=-1)
    if outputs.shape[-1] == 1 or outputs.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        return outputs
    logits = np.log(np.maximum(outputs, _LEAST))
    return logits - logits.mean(axis=-1, keepdims=True)


def check_parity(
    model: keras.Model, tflite: bytes, images: np.ndarray, *, labels: np.ndarray | None = None
) -> Parity:
    """Run images through the file, see `FileNetwork`, and through Keras, and compare the outputs.

    Args:
        images: float32 [number, height, width, channels], preprocessed as for the model.
        labels: integer [number], the images' classes, to compute accuracies, too.

    Raises:
        ExportError: no image, images of another shape, a damaged file, or outputs that are not
            finite or of another shape.
    """
    images = np.asarray(images, np.float32)
    expected = tuple(model.input_shape[1:])
    if images.ndim != 4 or len(images) == 0 or images.shape[1:] != expected:
        raise ExportError(
            f"The comparison needs images of shape [number, {', '.join(map(str, expected))}]. "
            f"Received: {images.shape}. Give the images preprocessed as for training."
        )
    starts = range(0, len(images), _BATCH)
    batches = (model(images[start : start + _BATCH], training=False) for start in starts)
    keras_outputs = np.concatenate([np.asarray(outputs) for outputs in batches])
    file_outputs = FileNetwork(tflite).predict_on_batch(images)
    if file_outputs.shape != keras_outputs.shape:
        raise ExportError(
            f"The file must give the model's outputs {keras_outputs.shape}. "
            f"Received: {file_outputs.shape}. Compare it with the model it was exported from."
        )
    if not (np.isfinite(keras_outputs).all() and np.isfinite(file_outputs).all()):
        source = "the file" if np.isfinite(keras_outputs).all() else "the Keras model"
        raise ExportError(
            f"A comparison needs finite outputs. Received: NaN or infinity from {source}. "
            "Train the network again."
        )
    keras_outputs = keras_outputs.astype(np.float64)
    difference = np.abs(keras_outputs - file_outputs)
    judged = _judged(keras_outputs)
    largest = np.abs(judged).max() or 1.0
    flat = (len(images), -1)
    keras_classes, file_classes = (
        outputs.reshape(flat).argmax(1) for outputs in (keras_outputs, file_outputs)
    )
    accuracies = {}
    if labels is not None:
        accuracies["accuracy"] = float((file_classes == labels).mean())
        accuracies["keras_accuracy"] = float((keras_classes == labels).mean())
    return Parity(
        images=len(images),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        max_abs_output=float(np.abs(keras_outputs).max()),
        judged_difference=float(np.abs(judged - _judged(file_outputs)).mean() / largest),
        equal_predictions=float((keras_classes == file_classes).mean()),
        **accuracies,
    )
