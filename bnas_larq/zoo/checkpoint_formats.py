"""Arrays out of `.npz` and `.safetensors` files, and what all readers of checkpoints refuse.

Nothing is allocated on a file's word: claims about sizes are held against the bytes that are there.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterable
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
