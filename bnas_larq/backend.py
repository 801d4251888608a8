"""The only door to TensorFlow, Keras and Larq.

Larq is built on Keras 2, which TensorFlow >= 2.16 hands out as `tf.keras` only if
`TF_USE_LEGACY_KERAS=1` was set before `tf.keras` was first touched; the package itself sets it.
Every other module imports `tf`, `keras` and `lq` from here.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
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

#: Of gradients that `with_gradient` registers, which need names of their own.
_numbers = itertools.count()

register = keras.utils.register_keras_serializable(NAMESPACE)


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and let TensorFlow choose deterministic kernels only.

    The same seed then gives the same bits on the same machine, which is what makes a resumed run
    equal to an uninterrupted one.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    _add_in_order()
    _keep_sums()


def _add_in_order() -> None:
    """Let `tf.add_n`, and with it the gradients of what has several readers, add in a fixed order.

    `AddN` takes the buffer of an input that nobody else needs any more as its output, and begins
    the sum with that input: which one it is hangs on how far other threads are, also where
    operations are to be deterministic, and from three terms on rounding follows. Here inputs are
    buffers of their own (`Snapshot` copies what others read), of which it takes the first. All of
    them, and of two terms too: Grappler makes one `AddN` of nested ones.
    """
    from tensorflow.python.ops import gen_math_ops

    add_n = gen_math_ops.add_n
    if getattr(add_n, "in_order", False):
        return
    # Of `Snapshot`, unless this TensorFlow has one.
    with contextlib.suppress(KeyError):
        tf.RegisterGradient("Snapshot")(lambda _, upstream: upstream)

    def in_order(inputs, name=None):
        # Eager operations run one after the other. Sums of lists and the like are left alone.
        if not tf.executing_eagerly() and all(one.dtype.is_floating for one in inputs):
            inputs = [tf.raw_ops.Snapshot(input=one) for one in inputs]
        return add_n(inputs, name)

    in_order.in_order = True
    # Whatever adds gradients asks this module for it, by this name.
    gen_math_ops.add_n = in_order


def _keep_sums() -> None:
    """Keep Grappler from making of an `AddN` in a graph that it thinks large a variable, to which
    other threads add the terms as they come.

    It does from an estimate of 205 MiB on: four fifths of the 256 MiB that TensorFlow takes for a
    CPU's memory. `tf` has no switch for its memory optimizer alone.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    if context.context()._config is not None:
        config.CopyFrom(context.context()._config)
    off = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    config.graph_options.rewrite_options.memory_optimization = off
    context.context()._config = config
    # What is traced from now on shall know.
    tf.config.optimizer.set_experimental_options({})


def with_gradient(
    name: str,
    function: Callable[[], tuple[tf.Tensor, Callable[[tf.Tensor], Sequence[tf.Tensor]]]],
    inputs: Sequence[tf.Tensor],
) -> tf.Tensor:
    """A function of tensors with a gradient of its own, as by `tf.custom_gradient`.

    In graphs that one's gradient begins with zeros for each input, which nobody reads.

    Args:
        name: of the operation, for TensorFlow's messages.
        function: returns its output, and what makes the gradients of `inputs` out of the output's.
            No tape records what it does.
        inputs: what the output depends on.
    """
    from tensorflow.python.eager import record

    with record.stop_recording():
        output, gradient = function()
        if not tf.executing_eagerly():
            # Tapes outside a graph, and `tf.gradients`, see its operations only.
            registered = f"BnasLarq{name}{next(_numbers)}"
            tf.RegisterGradient(registered)(lambda _, *upstream: [None, *gradient(upstream[0])])
            graph = tf.compat.v1.get_default_graph()
            with graph.gradient_override_map({"IdentityN": registered}):
                output = tf.identity_n([output, *inputs])[0]
    record.record_operation(name, [output], list(inputs), gradient)
    return output


@contextlib.contextmanager
def functions_read_once() -> Iterator[None]:
    """Inside, TensorFlow parses the definition of a traced function once and not three times.

    They do not change, but it asks for one wherever it wants an attribute or the number of
    arguments. With protobuf in pure Python that was a fifth of the tracing of a large supernet.
    """
    from tensorflow.python.eager import context

    asked = context.context()
    if "get_function_def" in vars(asked):
        yield
        return
    asked.get_function_def = functools.cache(asked.get_function_def)
    try:
        yield
    finally:
        del asked.get_function_def


def xplane_protocol() -> ModuleType:
    """The protocol of `tf.profiler`'s traces, which `tf` does not hand out."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    return xplane_pb2


__all__ = [
    "NAMESPACE",
    "functions_read_once",
    "keras",
    "lq",
    "make_deterministic",
    "register",
    "tf",
    "with_gradient",
    "xplane_protocol",
]
