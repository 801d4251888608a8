"""Functions that TensorFlow traces once for each shape, and such as read their tensors only once.

Around a binary convolution memory traffic costs more than arithmetic, and TensorFlow writes the
result of every operation to memory. XLA compiles a chain of element-wise operations into one loop.
Its reductions and convolutions are slow on CPUs, so nothing else is given to it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from bnas_larq.backend import tf


def traced_by_shape(function: Callable, inline: bool = True, compiled: bool = False) -> Callable:
    """`function` as a graph that is traced once for each set of shapes; if `inline`, TensorFlow may
    inline it into its callers, and optimise it there; if `compiled`, XLA compiles it."""
    traced = tf.function(
        function,
        autograph=False,
        jit_compile=compiled or None,
        experimental_attributes=None if inline else {"_noinline": True},
    )
    # Many shapes are intended; TensorFlow would warn of frequent retracing.
    traced._omit_frequent_tracing_warning = True
    return traced


def in_one_pass(function: Callable) -> Callable:
    """An element-wise function of tensors that broadcast, which computes in float32 and returns
    what it says. On CPUs it becomes one loop; accelerators run its operations."""

    @functools.cache
    def traced() -> Callable:
        return traced_by_shape(function, inline=False, compiled=not has_accelerator())

    @functools.wraps(function)
    def call(*tensors: tf.Tensor):
        return traced()(*tensors)

    return call


@functools.cache
def has_accelerator() -> bool:
    """Whether TensorFlow sees a device other than CPUs."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())
