"""The door to Larq Compute Engine (LCE), loaded only when something is exported."""

from __future__ import annotations

from types import ModuleType

from bnas_larq.console import hush
from bnas_larq.errors import ExportError, one_line


def compute_engine() -> ModuleType:
    """The package larq_compute_engine, or ExportError that says how to install it."""
    try:
        with hush():
            import larq_compute_engine
            import larq_compute_engine.mlir.python.tflite_schema
            import larq_compute_engine.tflite.python.interpreter
    except ImportError as error:
        raise ExportError(
            "Export needs larq-compute-engine, which has wheels for Linux and macOS. "
            f"Received: {one_line(error)}. "
            "Run `pip install 'larq-compute-engine>=0.16'` on one of these; "
            "a run folder can be trained here, copied, and exported there."
        ) from error
    return larq_compute_engine
