"""The door to Larq Compute Engine (LCE), which is loaded only to export, and silently.

Most of its log lines come from C++ code that writes to file descriptor 2, beyond the reach of
Python's logging.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType

from bnas_larq.errors import ExportError, one_line


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings, TensorFlow's log lines and everything written to standard error.

    Exceptions pass unchanged. The redirection affects the whole process, so keep the block short.
    """
    logger = logging.getLogger("tensorflow")
    level = logger.level
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        stack.callback(logger.setLevel, level)
        # A process may have no standard error.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            sink = stack.enter_context(tempfile.TemporaryFile())
            os.dup2(sink.fileno(), 2)
            stack.callback(os.dup2, terminal, 2)
        yield


def compute_engine() -> ModuleType:
    """The package larq_compute_engine, or ExportError that says how to install it."""
    try:
        with quiet():
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
