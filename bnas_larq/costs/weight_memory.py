"""Bits of weights by kind, as deployed, for each type that full-precision kernels may be
stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.costs.float_kernels import FLOAT_STORAGES, kernel_bytes
from bnas_larq.costs.multiplications import FULL_PRECISION, size, weight_bits
from bnas_larq.layers.abc_convolution import ABCConv2D
from bnas_larq.layers.quantizers import number_of_scales
from bnas_larq.layers.scaling import LearnedScale
from bnas_larq.layers.template import CLASSIFIER
from bnas_larq.tables import align

#: Kinds of weights, as tables list them. `binary_kernels` are those of fewer than 32 bits; `other`
#: are vectors such as PReLU's slopes.
KINDS = (
    *("binary_kernels", "scales", "stem", "shortcut", "classifier", "other_kernels"),
    *("batch_norm", "bias", "other"),
)
_FLOAT_KERNELS = ("stem", "shortcut", "classifier", "other_kernels")
#: Storage of full-precision kernels → kind → bits.
Memory = Mapping[str, Counter[str]]


def weight_memory(layer: keras.layers.Layer, weights: Sequence[tf.Variable]) -> Memory:
    """Bits of a layer's weights; those of its kernel quantizers exist in training only."""
    if isinstance(layer, LearnedScale) and weights:
        bits = FULL_PRECISION * layer.deployed_scales
        return {storage: Counter(other=bits) for storage in FLOAT_STORAGES}
    of_quantizers = {
        id(weight)
        for kernel in weights
        for weight in getattr(getattr(kernel, "quantizer", None), "weights", ())
    }
    memory: dict[str, Counter[str]] = {storage: Counter() for storage in FLOAT_STORAGES}
    for weight in (weight for weight in weights if id(weight) not in of_quantizers):
        bits, kind = weight_bits(weight), _kind(layer, weight)
        kernel = kind in _FLOAT_KERNELS
        scales = number_of_scales(getattr(weight, "quantizer", None), weight.shape)
        if _has_bases(layer, weight):
            # One bit and one scale for each.
            bits = scales = layer.bases[0]
        for storage, kinds in memory.items():
            if kernel:
                channels = np.prod([weight.shape[axis] for axis in output_axes(weight)])
                kinds[kind] += 8 * kernel_bytes(size(weight), int(channels), storage)
            else:
                kinds[kind] += bits * size(weight)
            if scales:
                kinds["scales"] += FULL_PRECISION * scales
    return memory


def total(memories: Sequence[Memory]) -> Memory:
    """The sum of several layers' memory."""
    return {s: sum((memory[s] for memory in memories), Counter()) for s in FLOAT_STORAGES}


def bytes_by_kind(memory: Memory) -> dict[str, dict[str, int]]:
    """Storage → kind → bytes, rounded up, of the kinds that there are."""
    return {
        storage: {kind: -(-kinds[kind] // 8) for kind in KINDS if kinds[kind]}
        for storage, kinds in memory.items()
    }


def kinds_table(kinds: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The result of `bytes_by_kind` as aligned lines, one for each kind, and their sums."""
    rows = [("bytes", *(f"{storage} kernels" for storage in kinds))]
    for kind in KINDS:
        if any(kind in row for row in kinds.values()):
            numbers = [f"{row.get(kind, 0):,}" for row in kinds.values()]
            rows.append((kind.replace("_", " "), *numbers))
    rows.append(("all", *(f"{sum(row.values()):,}" for row in kinds.values())))
    return align(rows, left=1)


def _kind(layer: keras.layers.Layer, weight: tf.Variable) -> str:
    name = weight.name.rpartition("/")[2].partition(":")[0]
    if weight_bits(weight) < FULL_PRECISION or _has_bases(layer, weight):
        return "binary_kernels"
    if isinstance(layer, keras.layers.BatchNormalization):
        return "batch_norm"
    if name == "bias":
        return "bias"
    if not name.endswith("kernel"):
        return "other"
    if layer.name.startswith("stem"):
        return "stem"
    if "shortcut" in layer.name:
        return "shortcut"
    dense = isinstance(layer, keras.layers.Dense)
    return "classifier" if dense or layer.name == CLASSIFIER else "other_kernels"


def _has_bases(layer: keras.layers.Layer, weight: tf.Variable) -> bool:
    """Whether it is a kernel that is deployed as several binary ones."""
    return isinstance(layer, ABCConv2D) and weight is layer.kernel and not layer.real_kernel


def is_float_kernel(layer: keras.layers.Layer, weight: tf.Variable) -> bool:
    """Whether a weight of a layer is a kernel that is deployed in full precision."""
    return _kind(layer, weight) in _FLOAT_KERNELS


def output_axes(kernel: tf.Variable) -> tuple[int, ...]:
    """The axes of a full-precision kernel's output channels, each of which int8 storage gives a
    scale."""
    return (-2, -1) if "depthwise_kernel" in kernel.name else (-1,)
