"""Tensors of a checkpoint file, whatever its format: read as data, never run.

`.npz` and `.safetensors` need nothing else; `.pth.tar`, `.pth` and `.pt` are read by PyTorch with
`weights_only=True`, which refuses everything but tensors and plain containers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from bnas_larq.errors import WeightsError
from bnas_larq.zoo.checkpoint_formats import (
    check_size,
    damaged,
    read_npz,
    read_safetensors,
    shown,
)
from bnas_larq.zoo.checkpoint_torch import read_torch

_READERS: dict[str, Callable[[Path], Iterable[tuple[str, np.ndarray]]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".pth.tar": read_torch,
    ".pth": read_torch,
    ".pt": read_torch,
}

#: Of no use for a network that only predicts: BatchNorm's counters, and the second classifier that
#: only helps in training.
_COUNTER, _AUXILIARY = ".num_batches_tracked", "auxiliary_head"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, all finite float32.

    Attributes:
        tensors: name → array, in the order of the file.
        notes: what was passed over, one sentence each.
    """

    tensors: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read `.npz`, `.safetensors`, or PyTorch's `.pth.tar`, `.pth`, `.pt`.

    A dictionary `state_dict` is found inside, prefixes of `DataParallel` (`module.`) and of this
    project's fixtures (`w/`) are taken off, counters and auxiliary heads are left out.

    Raises:
        WeightsError: no such file, another format, damaged, holding code or anything but numbers,
            names that collide, values that are not finite, or PyTorch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"A checkpoint must be a file. Received: {path}, which is none. Check the path."
        )
    reader = next((read for end, read in _READERS.items() if path.name.lower().endswith(end)), None)
    if reader is None:
        raise WeightsError(
            f"Checkpoints are read as {', '.join(_READERS)}. Received: {path}. "
            "Convert it to one of them."
        )
    check_size(path, path.stat().st_size)
    named = list(reader(path))
    notes = []
    if any(name.startswith("w/") for name, _ in named):
        named = [(name.removeprefix("w/"), a) for name, a in named if name.startswith("w/")]
    tensors: dict[str, np.ndarray] = {}
    auxiliary = 0
    for name, array in named:
        name = name.removeprefix("module.")
        if name.endswith(_COUNTER):
            continue
        if name.split(".")[0] == _AUXILIARY:
            auxiliary += 1
            continue
        if name in tensors:
            raise damaged(path, f"two tensors named {shown(name)}")
        tensors[name] = array
    if not tensors:
        raise damaged(path, "no tensors")
    check_size(path, sum(4 * array.size for array in tensors.values()))
    if auxiliary:
        notes.append(f"The auxiliary head ({auxiliary} tensors) serves training only: left out.")
    return Checkpoint(
        {name: _numbers(path, name, array) for name, array in tensors.items()}, tuple(notes)
    )


def _numbers(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array as finite float32."""
    # bfloat16, which NumPy lacks, comes from another package and is no kind of its `floating`.
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise damaged(
            path, f"{shown(name)} of type {array.dtype} in place of floating-point numbers"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    if not np.isfinite(array).all():
        raise WeightsError(
            "Weights must be finite numbers of float32's range. "
            f"Received: {path} with others in {shown(name)}. Take an earlier checkpoint."
        )
    return array
