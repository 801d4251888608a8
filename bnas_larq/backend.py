"""The only door to TensorFlow, Keras and Larq.

Larq is built on Keras 2, which TensorFlow >= 2.16 hands out as `tf.keras` only if
`TF_USE_LEGACY_KERAS=1` was set before `tf.keras` was first touched; the package itself sets it.
Other modules import `tf`, `keras` and `lq` from here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import itertools
import logging
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

import tensorflow as tf

from bnas_larq.errors import BnasLarqError

# The first touch of `tf.keras`, unless somebody was earlier.
if not tf.keras.Model.__module__.startswith("tf_keras."):
    raise BnasLarqError(
        "bnas_larq needs Keras 2 (the package tf-keras), because Larq does. "
        f"Received: tf.keras is {tf.keras.Model.__module__.split('.')[0]}. "
        'Put `import os; os.environ["TF_USE_LEGACY_KERAS"] = "1"` before the first import of '
        "tensorflow, or import bnas_larq first."
    )

# Larq also imports `tensorflow.keras` by name: TensorFlow chose what that is when it was imported,
# perhaps before `TF_USE_LEGACY_KERAS` was set.
sys.modules.setdefault("tensorflow.keras", tf.keras)

import larq as lq  # noqa: E402

keras = tf.keras

#: Namespace of everything that bnas_larq registers for Keras serialisation.
NAMESPACE = "bnas_larq"

#: What the names begin with under which `tf.custom_gradient` registers gradients.
_CUSTOM = "CustomGradient-"
#: For those of `with_gradient`.
_numbers = itertools.count()

register = keras.utils.register_keras_serializable(NAMESPACE)


def _free_gradients() -> None:
    """Let the gradient that `tf.custom_gradient` makes for one operation of a graph die with that
    graph.

    TensorFlow's registry would keep it for good, and with it the graph, whatever the graph reads,
    and so every model: larq's quantizers have such gradients.
    """
    from tensorflow.python.framework import ops, registry

    class GraphGradients(registry.Registry):
        __slots__ = ()

        def register(self, candidate, name=None):
            # Loaded models register theirs while executing eagerly.
            if name and name.startswith(_CUSTOM) and not tf.executing_eagerly():
                graph = tf.compat.v1.get_default_graph()
                if not hasattr(graph, "_custom_gradients"):
                    graph._custom_gradients = []
                graph._custom_gradients.append(candidate)
                gradient = weakref.ref(candidate, lambda _: self._registry.pop(name, None))
                candidate = tf.autograph.experimental.do_not_convert(
                    lambda *arguments: gradient()(*arguments)
                )
            super().register(candidate, name)

    ops.gradient_registry.__class__ = GraphGradients


_free_gradients()


def with_gradient(
    name: str,
    function: Callable[[], tuple[tf.Tensor, Callable[[tf.Tensor], Sequence[tf.Tensor]]]],
    inputs: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Call a function that has its own gradient, like `tf.custom_gradient`, whose graphs also hold
    zeros for each input that nobody reads.

    Args:
        name: of the operation, for TensorFlow's messages.
        function: returns its output, and a function from the output's gradient to those of
            `inputs`. No tape records what it does.
        inputs: what the output depends on.
    """
    from tensorflow.python.eager import record

    with record.stop_recording():
        output, gradient = function()
        if not tf.executing_eagerly():
            # Tapes outside the graph, and `tf.gradients`, see only its operations.
            registered = f"{_CUSTOM}{name}{next(_numbers)}"
            tf.RegisterGradient(registered)(lambda _, *upstream: [None, *gradient(upstream[0])])
            graph = tf.compat.v1.get_default_graph()
            with graph.gradient_override_map({"IdentityN": registered}):
                output = tf.identity_n([output, *inputs])[0]
    record.record_operation(name, [output], list(inputs), gradient)
    return output


def only_infers_shape(layer: keras.layers.Layer) -> bool:
    """Whether Keras calls this layer now for the shape of its output alone, in a graph that never
    runs: it does so for each layer of a functional model that is built."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return getattr(graph, "name", None) == f"{layer.name}_scratch_graph"


@contextlib.contextmanager
def unbounded_kernels() -> Iterator[None]:
    """Without larq's warning, for each layer, that a binary kernel without a constraint may starve:
    where a scheme omits it on purpose, and where layers are copied. Also a decorator."""

    def keeps(record: logging.LogRecord) -> bool:
        return "starved weights" not in record.getMessage()

    logger = logging.getLogger("larq.layers_base")
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)


@functools.cache
def close_iterators_at_exit() -> None:
    """Close all iterators over data sets before Python ends. A thread of TensorFlow that calls
    Python later never returns, and TensorFlow waits for it."""
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator

    def close() -> None:
        for candidate in gc.get_objects():
            if type(candidate) is OwnedIterator:
                candidate._iterator_resource = None

    atexit.register(close)


def xplane_protocol() -> ModuleType:
    """The format of `tf.profiler`'s traces, which `tf` does not export."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    return xplane_pb2


__all__ = [
    "NAMESPACE",
    "close_iterators_at_exit",
    "keras",
    "lq",
    "only_infers_shape",
    "register",
    "tf",
    "unbounded_kernels",
    "with_gradient",
    "xplane_protocol",
]
