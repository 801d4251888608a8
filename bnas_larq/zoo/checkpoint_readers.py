"""Arrays out of `.npz` and `.safetensors` files, and what all readers of checkpoints refuse.

Nothing is allocated on a file's word: claims about sizes are held against the bytes that are there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.errors import WeightsError, one_line

#: Three times the checkpoint of the largest variant, BNAS-H, with its optimizer's momentum.
MAX_BYTES = 4 * 2**30

#: What Python raises for damaged zips and arrays.
FORMAT_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted; also NotImplementedError: an unknown compression
    ValueError,
    OverflowError,
    MemoryError,
)


def read_npz(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    """Names and arrays of a `.npz` file.

    Each member's header is held against the zip's directory before its array is allocated.

    Raises:
        WeightsError: damaged, objects, or no arrays.
    """
    check_zip(path)
    named = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise damaged(path, f"a member {shown(member.filename)} that is no array")
                with archive.open(member) as stream:
                    _check_npy_header(path, stream, member)
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                named.append((member.filename.removesuffix(".npy"), array))
    except FORMAT_ERRORS as error:
        raise damaged(path, reason(error)) from error
    return named


def read_safetensors(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    """Names and arrays of a `.safetensors` file.

    Raises:
        WeightsError: damaged, of a type that NumPy lacks, or a name twice.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        with open(path, "rb") as stream:  # the library keeps one of two equal names, unasked
            header = stream.read(int.from_bytes(stream.read(8), "little"))
        names = [name for name, _ in json.loads(header, object_pairs_hook=list)]
    except (SafetensorError, AttributeError, KeyError, TypeError, *FORMAT_ERRORS) as error:
        raise damaged(path, reason(error)) from error
    if len(set(names)) != len(names):
        raise damaged(path, "two tensors of the same name")
    return tensors.items()


def _check_npy_header(path: Path, stream, member: zipfile.ZipInfo) -> None:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise damaged(path, f"{shown(member.filename)} in version {version} of the npy format")
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise WeightsError(
            "A checkpoint must hold numbers only, because objects are stored as code. "
            f"Received: {path} with objects in {shown(member.filename)}. Nothing of it was run."
        )
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if member.file_size != expected:
        raise damaged(
            path, f"{shown(member.filename)} of {member.file_size} bytes for a shape of {expected}"
        )


# -- for all formats -------------------------------------------------------------------------------


def check_zip(path: Path) -> None:
    """Raise WeightsError for a zip that unpacks to too much, judged by its directory alone, that
    holds a name twice, or that is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except FORMAT_ERRORS as error:
        raise damaged(path, reason(error)) from error
    check_size(path, sum(member.file_size for member in members))
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise damaged(path, "two members of the same name")


def damaged(path: Path, received: str) -> WeightsError:
    """The error that `path` holds `received`, which no checkpoint does."""
    return WeightsError(
        f"A checkpoint must be an intact file of named tensors. Received: {path} with {received}. "
        "Fetch or save it again."
    )


def check_size(path: Path, size: int) -> None:
    """Raise WeightsError if `size` bytes are more than any checkpoint needs."""
    if size > MAX_BYTES:
        raise WeightsError(
            f"A checkpoint holds at most {MAX_BYTES:,} bytes once unpacked. "
            f"Received: {path} with {size:,}. Give a final network's checkpoint."
        )


def reason(error: Exception) -> str:
    """The first sentence of a foreign error, with its kind."""
    return f"{type(error).__name__}: {one_line(error).split('. ')[0][:120]}".rstrip(": ")


def shown(name: Any) -> str:
    """A name from the file, fit for a message."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:80]}…"


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
