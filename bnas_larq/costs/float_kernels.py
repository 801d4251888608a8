"""How full-precision kernels may be stored in a deployed file, and how many bytes that takes."""

from __future__ import annotations

from typing import get_args

from bnas_larq.setting_types import FloatStorage

#: Types of full-precision kernels in a file; computations are float32 with each of them.
FLOAT_STORAGES: tuple[str, ...] = get_args(FloatStorage)
FLOAT32 = "float32"
#: Largest code of int8 storage, which is symmetric.
INT8_LIMIT = 127
#: Kernels of fewer weights stay float32: the operation that restores a smaller one would take as
#: many bytes as it saves.
MIN_WEIGHTS = 256


def is_stored_smaller(weights: int) -> bool:
    """Whether a kernel of this many weights is stored as float16 or int8 where that is chosen."""
    return weights >= MIN_WEIGHTS


def kernel_bytes(weights: int, channels: int, storage: str) -> int:
    """Bytes of a full-precision kernel: 4 or 2 per weight; or 1 per weight and 4 per scale, one for
    each output channel.

    Example:
        >>> kernel_bytes(3 * 3 * 3 * 16, 16, "int8")
        496
    """
    if storage == FLOAT32 or not is_stored_smaller(weights):
        return 4 * weights
    return 2 * weights if storage == "float16" else weights + 4 * channels
