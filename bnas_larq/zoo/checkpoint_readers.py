"""Checkpoints of every format as named float32 arrays.

Nothing is run, and nothing is allocated on a file's word: claimed sizes are compared with the bytes
that are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.errors import WeightsError, one_line

#: Three times the checkpoint of the largest variant, BNAS-H, with its optimizer's momentum.
MAX_BYTES = 4 * 2**30
#: Bytes of an array for each byte of its archive: signs kept as float32 pack 32 to 1.
_MOST_UNPACKED = 100
#: Older releases ran code in spite of `weights_only` (CVE-2025-32434).
MIN_TORCH = (2, 6)
#: Useless for prediction: BatchNorm's counters, and the second classifier of training.
_COUNTER, _AUXILIARY = ".num_batches_tracked", "auxiliary_head"
#: What Python raises for damaged zips and arrays.
_FORMAT_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted; also NotImplementedError: an unknown compression
    ValueError,
    OverflowError,
    MemoryError,
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, all finite float32, in the order of the file."""

    tensors: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()  # what was left out, one sentence each


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read `.npz`, `.safetensors`, or PyTorch's `.pth.tar`, `.pth`, `.pt`.

    A dictionary `state_dict` is found inside. Prefixes of `DataParallel` (`module.`) and of this
    project's fixtures (`w/`) are removed; counters and auxiliary heads are left out.

    Raises:
        WeightsError: no such file, another format, damaged, with code or anything but numbers,
            names that collide, values that are not finite, or PyTorch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"A checkpoint must be a file. Received: {path}. Check the path.")
    name = path.name.lower()
    reader = next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)
    if reader is None:
        raise WeightsError(
            f"Checkpoints are read as {', '.join(_READERS)}. Received: {path}. "
            "Convert it to one of them."
        )
    _check_size(path, path.stat().st_size)
    named = reader(path)
    if any(name.startswith("w/") for name, _ in named):
        named = [(name.removeprefix("w/"), a) for name, a in named if name.startswith("w/")]
    named = [(name.removeprefix("module."), array) for name, array in named]
    auxiliary = sum(name.split(".")[0] == _AUXILIARY for name, _ in named)
    tensors: dict[str, np.ndarray] = {}
    for name, array in named:
        if name.endswith(_COUNTER) or name.split(".")[0] == _AUXILIARY:
            continue
        if name in tensors:
            raise _damaged(path, f"two tensors named {_shown(name)}")
        tensors[name] = array
    if not tensors:
        raise _damaged(path, "no tensors")
    _check_size(path, sum(4 * array.size for array in tensors.values()))
    note = f"The auxiliary head ({auxiliary} tensors) serves training only: left out."
    return Checkpoint(
        {name: _finite(path, name, array) for name, array in tensors.items()},
        (note,) if auxiliary else (),
    )


def _finite(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """The array as finite float32."""
    # bfloat16, which NumPy lacks, comes from another package and is no kind of its `floating`.
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        received = f"{_shown(name)} of type {array.dtype} in place of floating-point numbers"
        raise _damaged(path, received)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    if not np.isfinite(array).all():
        raise WeightsError(
            "Weights must be finite numbers of float32's range. "
            f"Received: {path} with others in {_shown(name)}. Take an earlier checkpoint."
        )
    return array


Named = list[tuple[Any, np.ndarray]]


def _read_npz(path: Path) -> Named:
    """Each member's header is compared with the zip's directory before its array is allocated."""
    _check_zip(path)
    named = []
    with _damage_of(path, *_FORMAT_ERRORS), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise _damaged(path, f"a member {_shown(member.filename)} that is no array")
            with archive.open(member) as stream:
                _check_npy_header(path, stream, member)
            with archive.open(member) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
            named.append((member.filename.removesuffix(".npy"), array))
    return named


def _check_npy_header(path: Path, stream: Any, member: zipfile.ZipInfo) -> None:
    name, version = _shown(member.filename), np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise _damaged(path, f"{name} in version {version} of the npy format")
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise WeightsError(
            "A checkpoint must hold numbers only, because objects are stored as code. "
            f"Received: {path} with objects in {name}. Nothing of it was run."
        )
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if member.file_size != expected:
        raise _damaged(path, f"{name} of {member.file_size} bytes for a shape of {expected}")


def _read_safetensors(path: Path) -> Named:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    with _damage_of(path, SafetensorError, AttributeError, KeyError, TypeError, *_FORMAT_ERRORS):
        tensors = load_file(path)
        with open(path, "rb") as stream:  # of two equal names the library silently keeps one
            header = stream.read(int.from_bytes(stream.read(8), "little"))
        names = [name for name, _ in json.loads(header, object_pairs_hook=list)]
    if len(set(names)) != len(names):
        raise _damaged(path, "two tensors of the same name")
    return list(tensors.items())


def _read_torch(path: Path) -> Named:
    """A state_dict, or one named `state_dict` in a checkpoint."""
    torch = _torch(path)
    if zipfile.is_zipfile(path):
        _check_zip(path)
        _check_sums(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it better
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged or hostile file can make PyTorch raise anything
        text = one_line(error)
        if type(error).__name__ == "UnpicklingError" and "nsupported" in text:
            refused = re.search(r"(?:^| )GLOBAL (\S+)", text)  # out of PyTorch's long advice
            held = f"code or objects ({refused[1][:80]})" if refused else "something else"
            raise WeightsError(
                f"A checkpoint must hold tensors only. Received: {path}, which holds {held}. "
                "Nothing of it was run; save the state_dict alone."
            ) from error
        raise _damaged(path, _reason(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise _damaged(path, f"a {type(content).__name__} in place of a state_dict")
    return [(name, _from_torch(path, name, tensor, torch)) for name, tensor in content.items()]


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"Reading {path.name} needs PyTorch. Received: no PyTorch ({one_line(error)}). "
            "Run: pip install 'bnas-larq[torch]', or convert the file to .safetensors or .npz."
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
        kind = type(tensor).__name__
        raise _damaged(path, f"{_shown(name)}, which is a {kind}, among its tensors")
    # An expanded tensor can claim any shape with one number stored: checked before it is copied.
    _check_size(path, 4 * tensor.numel())
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
        raise _damaged(path, f"{_shown(name)}, which is no plain tensor")
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()  # NumPy has no such type
        return tensor.numpy()
    except (TypeError, RuntimeError, ValueError) as error:
        raise _damaged(path, f"{_shown(name)}, which is no plain tensor") from error


def _check_sums(path: Path) -> None:
    """PyTorch writes checksums but never compares them; 0 means that none was written."""
    with _damage_of(path, *_FORMAT_ERRORS), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.CRC:
                with archive.open(member) as stream:
                    while stream.read(1 << 20):
                        pass


_READERS: dict[str, Callable[[Path], Named]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pth.tar", ".pth", ".pt"), _read_torch),
}


def _check_zip(path: Path) -> None:
    """Refuse, by its directory alone, a zip that unpacks to too much or holds a name twice."""
    with _damage_of(path, *_FORMAT_ERRORS), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    unpacked, packed = sum(member.file_size for member in members), path.stat().st_size
    _check_size(path, unpacked)
    if unpacked > _MOST_UNPACKED * packed + 2**24:
        raise _damaged(path, f"{unpacked:,} bytes packed into {packed:,}")
    if len({member.filename for member in members}) != len(members):
        raise _damaged(path, "two members of the same name")


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise WeightsError(
            f"A checkpoint holds at most {MAX_BYTES:,} bytes once unpacked. "
            f"Received: {path} with {size:,}. Give a final network's checkpoint."
        )


@contextlib.contextmanager
def _damage_of(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn these errors into the one that `path` is damaged."""
    try:
        yield
    except errors as error:
        raise _damaged(path, _reason(error)) from error


def _damaged(path: Path, received: str) -> WeightsError:
    return WeightsError(
        f"A checkpoint must be an intact file of named tensors. Received: {path} with {received}. "
        "Fetch or save it again."
    )


def _reason(error: Exception) -> str:
    """The first sentence of a foreign error, with its kind."""
    return f"{type(error).__name__}: {one_line(error).split('. ')[0][:120]}".rstrip(": ")


def _shown(name: Any) -> str:
    """A name from the file, fit for a message."""
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:80]}…"
