"""What makes a run repeat its bits, and other patches of TensorFlow's private parts.

`tf` has no public switch for any of them: `tf.compat.v1.enable_eager_execution(config=…)` sets
Grappler's only before TensorFlow has begun to work. `check_patches` tells whether each still acts.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator

from bnas_larq.backend import keras, tf
from bnas_larq.errors import one_line


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and restrict TensorFlow to deterministic kernels.

    The same seed then gives the same bits on the same machine, so that a resumed run equals an
    uninterrupted one.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    _add_in_order()
    _configure_rewriting()


def _add_in_order() -> None:
    """Let `tf.add_n`, and so the gradients of what is read several times, add in a fixed order.

    `AddN` reuses the buffer of an input that nobody else needs any more for its output, and begins
    the sum with that input. Which one it is depends on thread timing, even with deterministic
    operations, and from three terms on rounding follows. `Snapshot` copies what others read too, so
    that each input has a buffer of its own and `AddN` takes the first. Sums of two terms as well:
    Grappler merges nested ones.
    """
    from tensorflow.python.ops import gen_math_ops

    add_n = gen_math_ops.add_n
    if getattr(add_n, "in_order", False):
        return
    # Unless this TensorFlow has a gradient of `Snapshot`.
    with contextlib.suppress(KeyError):
        tf.RegisterGradient("Snapshot")(lambda _, upstream: upstream)

    def in_order(inputs, name=None):
        # Eager operations run one after the other. Sums of lists and the like are left alone.
        if not tf.executing_eagerly() and all(term.dtype.is_floating for term in inputs):
            inputs = [tf.raw_ops.Snapshot(input=term) for term in inputs]
        return add_n(inputs, name)

    in_order.in_order = True
    # Whatever adds gradients looks it up in this module by this name.
    gen_math_ops.add_n = in_order


def _configure_rewriting() -> None:
    """Keep Grappler, which rewrites graphs before they run, from changing sums, and let it go over
    a graph once: the second time takes seconds and finds nothing.

    It rewrites `AddN` in a large graph as a variable to which threads add their terms in the order
    they finish, from an estimate of 205 MiB on: four fifths of the 256 MiB that TensorFlow takes
    for a CPU's memory.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    if context.context()._config is not None:
        config.CopyFrom(context.context()._config)
    options = config.graph_options.rewrite_options
    options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    context.context()._config = config
    # Makes functions traced from now on read it.
    tf.config.optimizer.set_experimental_options({})


@contextlib.contextmanager
def functions_read_once() -> Iterator[None]:
    """Inside, TensorFlow parses the definition of a traced function once instead of three times.

    Definitions do not change, but it asks for one wherever it needs an attribute or the number of
    arguments. With protobuf in pure Python that was a fifth of the tracing of a large supernet.
    """
    from tensorflow.python.eager import context

    runtime = context.context()
    if "get_function_def" in vars(runtime):
        yield
        return
    runtime.get_function_def = functools.cache(runtime.get_function_def)
    try:
        yield
    finally:
        del runtime.get_function_def


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Inside, Python's cyclic garbage collector rests: it would scan the graph being traced again
    and again, for a sixth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def check_patches() -> dict[str, str | None]:
    """Apply each patch and see whether it acts: its effect → None, or what went wrong.

    A patch that no longer acts means that TensorFlow has renamed what it replaces.
    """

    def outcome(acts: Callable[[], bool]) -> str | None:
        try:
            return None if acts() else "it has no effect"
        except (ImportError, AttributeError, TypeError) as error:
            return one_line(error)

    return {
        "sums in a fixed order": outcome(_adds_in_order),
        "no rewriting of sums, graphs rewritten once": outcome(_rewrites_as_configured),
        "functions parsed once": outcome(_reads_once),
    }


def _adds_in_order() -> bool:
    """Whether both sums and gradients of a graph read `Snapshot`s."""
    _add_in_order()

    @tf.function
    def sums(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.add_n([tf.sin(x), tf.cos(x)])
        return total, tape.gradient(total, x)

    graph = sums.get_concrete_function(tf.TensorSpec([2])).graph
    added = [op for op in graph.get_operations() if op.type == "AddN"]
    terms = [term.op.type for op in added for term in op.inputs]
    return len(added) == 2 and set(terms) == {"Snapshot"}


def _rewrites_as_configured() -> bool:
    """Whether functions are called with Grappler's memory optimizer off, and one pass of it."""
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    _configure_rewriting()
    serialized = context.context().function_call_options.config_proto_serialized
    options = config_pb2.ConfigProto.FromString(serialized).graph_options.rewrite_options
    read = options.memory_optimization, options.meta_optimizer_iterations
    known = rewriter_config_pb2.RewriterConfig
    return read == (known.NO_MEM_OPT, known.ONE)


def _reads_once() -> bool:
    """Whether tracing asks the patched method for definitions."""
    from tensorflow.python.eager import context

    with functions_read_once():
        tf.function(lambda x: x + 1)(tf.constant(1.0))
        return context.context().get_function_def.cache_info().misses > 0
