"""Peak memory of a training step, from its traced graph: nothing is computed for it."""

from __future__ import annotations

import math

from bnas_larq.backend import tf
from bnas_larq.costs.peak_memory import peak_bytes

#: Operations that hand on the buffer of their first input.
_ALIASES = (
    *("Identity", "Reshape", "Squeeze", "ExpandDims"),
    *("StopGradient", "PreventGradient", "EnsureShape"),
)


def traced_peak(graph: tf.Graph) -> int:
    """The largest sum of tensors alive at one time in bytes, while the operations of a step's graph
    run in the order in which they were traced.

    Inputs and constants count, variables do not. No operation works in place, and what happens
    inside of operations and functions is not counted, nor are tensors of open size.

    Example:
        >>> from bnas_larq.backend import tf
        >>> step = tf.function(lambda x: tf.reduce_sum(tf.sin(tf.cos(x))))
        >>> traced_peak(step.get_concrete_function(tf.TensorSpec([1000])).graph)  # x, cos, sin
        12000
    """
    buffers: dict[str, str] = {}
    sizes: dict[str, int] = {}
    steps = []
    for operation in graph.get_operations():
        read = [buffers[tensor.name] for tensor in operation.inputs]
        written = []
        for number, tensor in enumerate(operation.outputs):
            if operation.type in _ALIASES and not number:
                buffers[tensor.name] = read[0]
                continue
            buffers[tensor.name] = tensor.name
            sizes[tensor.name] = _size(tensor)
            written.append(tensor.name)
        steps.append((read, written))
    inputs = [buffers[tensor.name] for tensor in graph.inputs]
    outputs = [buffers[tensor.name] for tensor in graph.outputs]
    return peak_bytes(steps, sizes, inputs=set(inputs), outputs=set(outputs))


def _size(tensor: tf.Tensor) -> int:
    shapeless = tensor.dtype in (tf.resource, tf.variant, tf.string)
    # A variable that is read is not copied.
    if shapeless or not tensor.shape.is_fully_defined() or tensor.op.type == "ReadVariableOp":
        return 0
    return tensor.dtype.size * math.prod(tensor.shape)
