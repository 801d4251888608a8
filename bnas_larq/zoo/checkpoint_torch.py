"""Tensors out of PyTorch's `.pth.tar`, `.pth` and `.pt` files, which are pickles.

PyTorch reads them with `weights_only=True`, which refuses everything but tensors and plain
containers. It is an optional dependency: pip install 'bnas-larq[torch]'.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.errors import WeightsError, one_line
from bnas_larq.zoo.checkpoint_formats import (
    FORMAT_ERRORS,
    check_size,
    check_zip,
    damaged,
    reason,
    shown,
)

#: Older releases ran code in spite of `weights_only` (CVE-2025-32434).
MIN_TORCH = (2, 6)


def read_torch(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    """Names and tensors of a state_dict, or of one named `state_dict` in a checkpoint.

    Raises:
        WeightsError: code, objects, damage, anything but tensors, or no PyTorch from 2.6 on.
    """
    torch = _torch(path)
    if zipfile.is_zipfile(path):
        check_zip(path)
        _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what the error below says better
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file can make PyTorch raise anything
        text = one_line(error)
        if type(error).__name__ == "UnpicklingError" and "nsupported" in text:
            raise WeightsError(
                f"A checkpoint must hold tensors only. Received: {path}, {_unsupported(text)}. "
                "Nothing of it was run; save the state_dict alone."
            ) from error
        raise damaged(path, reason(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise damaged(path, f"a {type(content).__name__} in place of a state_dict")
    return [(name, _from_torch(path, name, tensor, torch)) for name, tensor in content.items()]


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"Reading {path.name} needs PyTorch. Received: none that can be imported "
            f"({one_line(error)}). Run: pip install 'bnas-larq[torch]', or convert the file to "
            ".safetensors or .npz."
        ) from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        raise WeightsError(
            "PyTorch reads strangers' files safely from 2.6 on (CVE-2025-32434). "
            f"Received: {path} for PyTorch {torch.__version__}. "
            "Run: pip install 'bnas-larq[torch]'."
        )
    return torch


def _from_torch(path: Path, name: Any, tensor: Any, torch: Any) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise damaged(path, f"{shown(name)}, which is a {type(tensor).__name__}, among its tensors")
    # An expanded tensor can claim any shape with one number stored: judged before it is copied.
    check_size(path, 4 * tensor.numel())
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        raise damaged(path, f"{shown(name)}, which is no plain tensor")
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()  # NumPy has no such type
        return tensor.numpy()
    except (TypeError, RuntimeError, ValueError) as error:
        raise damaged(path, f"{shown(name)}, which is no plain tensor") from error


def _check_sums(path: Path) -> None:
    """PyTorch writes checksums but never compares them; 0 means that it was told to write none."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.CRC:
                    with archive.open(member) as stream:
                        while stream.read(1 << 20):
                            pass
    except FORMAT_ERRORS as error:
        raise damaged(path, reason(error)) from error


def _unsupported(text: str) -> str:
    """What PyTorch refused, out of its long advice."""
    words = text.split()
    if "GLOBAL" in words[:-1]:
        return f"which holds code or objects ({words[words.index('GLOBAL') + 1][:80]})"
    return "which holds something else"
