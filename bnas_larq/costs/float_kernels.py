"""How full-precision kernels may be stored in a deployed file, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

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


def int8_codes(kernel: np.ndarray, axes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes from −127 to 127 of a kernel, and the scale of each output channel.

    Args:
        axes: of the output channels.

    Returns:
        Codes of the kernel's shape; scales of its rank, 1 along all other axes. Their product is
        the kernel as it is used.

    Example:
        >>> codes, scales = int8_codes(np.array([[0.5, -1.27], [0.0, 0.0]], np.float32), axes=[0])
        >>> codes.tolist(), scales.round(6).tolist()
        ([[50, -127], [0, 0]], [[0.01], [1.0]])
    """
    others = tuple(set(range(kernel.ndim)) - {axis % kernel.ndim for axis in axes})
    largest = np.abs(kernel).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(INT8_LIMIT), np.float32(1))
    codes = np.clip(np.rint(kernel / scales), -INT8_LIMIT, INT8_LIMIT).astype(np.int8)
    return codes, scales.astype(np.float32)


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
