"""The only door to TensorFlow, Keras and Larq.

Larq is built on Keras 2, which TensorFlow >= 2.16 hands out as `tf.keras` only if
`TF_USE_LEGACY_KERAS=1` was set before `tf.keras` was first touched; the package itself sets it.
Every other module imports `tf`, `keras` and `lq` from here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import ModuleType

import tensorflow as tf

from bnas_larq.errors import BnasLarqError

# Read through the lazy loader: the first touch of `tf.keras`, unless somebody was earlier.
if not tf.keras.Model.__module__.startswith("tf_keras."):
    raise BnasLarqError(
        "bnas_larq needs Keras 2 (the package tf-keras), because Larq does. "
        f"Received: tf.keras is {tf.keras.Model.__module__.split('.')[0]}. "
        'Put `import os; os.environ["TF_USE_LEGACY_KERAS"] = "1"` before the first import of '
        "tensorflow, or import bnas_larq first."
    )

import larq as lq  # noqa: E402

keras = tf.keras

#: Namespace of everything that bnas_larq registers for Keras serialisation.
NAMESPACE = "bnas_larq"

register = keras.utils.register_keras_serializable(NAMESPACE)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and let TensorFlow choose deterministic kernels only.

    The same seed then gives the same bits on the same machine, which is what makes a resumed run
    equal to an uninterrupted one.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def unrecorded() -> AbstractContextManager[None]:
    """Inside, no gradient tape records: what stands in a custom gradient would be, for nobody."""
    from tensorflow.python.eager import record

    return record.stop_recording()


def xplane_protocol() -> ModuleType:
    """The protocol of `tf.profiler`'s traces, which `tf` does not hand out."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    return xplane_pb2


__all__ = [
    "NAMESPACE",
    "keras",
    "lq",
    "make_deterministic",
    "register",
    "tf",
    "unrecorded",
    "xplane_protocol",
]
