"""An exported file as a network: Larq Compute Engine's interpreter behind a method of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bnas_larq.console import hush
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.compute_engine import compute_engine
from bnas_larq.export.tflite_file import read_convolutions

_THREADS = 2


class FileNetwork:
    """A `.tflite` file in LCE's interpreter.

    It runs with LCE's default kernels, as on a device, not with its reference ones (with its
    indirect ones where 1-bit convolutions have groups, which the default ones refuse). On x86 they
    are not optimised, so timings say nothing about a device's latency.

    Args:
        tflite: the file's bytes.

    Raises:
        ExportError: a damaged file, or (in a call) images that it does not take.

    Example:
        >>> FileNetwork(b"TFL3")
        Traceback (most recent call last):
            ...
        bnas_larq.errors.ExportError: ...
    """

    def __init__(self, tflite: bytes) -> None:
        engine = compute_engine()
        read_convolutions(tflite)  # refuses a truncated file, which would crash the interpreter
        try:
            with hush():
                self._interpreter = _interpreter(engine.testing.Interpreter, tflite)
        except (RuntimeError, ValueError) as error:
            raise _failure(error) from error

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Outputs [number, …] for images [number, height, width, channels], one at a time."""
        images = np.asarray(images, np.float32)
        try:
            outputs = [self._interpreter.predict(image[None]) for image in images]
        except (RuntimeError, ValueError) as error:
            raise _failure(error) from error
        return np.concatenate(outputs)


def _interpreter(make: Callable[..., Any], tflite: bytes) -> Any:
    """With LCE's default kernels, or with its indirect ones, which alone (LCE 0.16) know grouped
    1-bit convolutions."""
    try:
        return make(tflite, num_threads=_THREADS)
    except RuntimeError:
        return make(tflite, num_threads=_THREADS, use_indirect_bgemm=True)


def _failure(error: Exception) -> ExportError:
    return ExportError(
        "An exported file must run in Larq Compute Engine's interpreter. "
        f"Received: {one_line(error)}. Export the network again."
    )
