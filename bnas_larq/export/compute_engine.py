"""The door to Larq Compute Engine (LCE): loads it only when something is exported, and quietly.

Most of its chatter is written by C++ code straight to file descriptor 2, where the settings of
Python's logging do not reach.
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
    """Swallow warnings, TensorFlow's log lines and all that the block writes to standard error.

    Exceptions pass through unchanged. The redirection holds for the whole process, so keep the
    block short.
    """
    logger = logging.getLogger("tensorflow")
    level = logger.level
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        stack.callback(logger.setLevel, level)
        # Without a standard error there is nothing to keep clean.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            sink = stack.enter_context(tempfile.TemporaryFile())
            os.dup2(sink.fileno(), 2)
            stack.callback(os.dup2, terminal, 2)
        yield


def compute_engine() -> ModuleType:
    """The package larq_compute_engine, or ExportError that says how to get it."""
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
            "train here and export there, a run folder can be copied."
        ) from error
    return larq_compute_engine
