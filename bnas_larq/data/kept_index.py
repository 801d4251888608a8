"""What is known of a large data set's files, kept from one start to the next.

Reading the headers of a million pictures, or all records of ImageNet, takes many minutes.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from bnas_larq.data.decoding import Header
from bnas_larq.data.images import image_header
from bnas_larq.files import write_atomic
from bnas_larq.resources import index_dir

#: Examples from which an index is kept; fewer are read again in seconds.
INDEXED_FROM = 10_000
_FORMAT = "1"


def kept_arrays(source: str) -> dict[str, np.ndarray]:
    """The arrays that were kept for a source; none without an intact file."""
    try:
        with np.load(_path(source), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def keep_arrays(source: str, **arrays: np.ndarray) -> None:
    """Keep arrays for the next start, unless the disk refuses."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    try:
        write_atomic(_path(source), content.getvalue())
    except OSError:
        return


def _path(source: str) -> Path:
    return index_dir() / f"{hashlib.sha256((_FORMAT + source).encode()).hexdigest()[:32]}.npz"


def joined_names(names: list[str]) -> np.ndarray:
    """Names of files as bytes, which `np.load` reads without pickle."""
    return np.frombuffer(os.fsencode("\0".join(names)), np.uint8)


def split_names(joined: np.ndarray) -> list[str]:
    """The inverse of `joined_names`."""
    return os.fsdecode(joined.tobytes()).split("\0")


class HeaderIndex:
    """Headers of the images below a folder, read again only where name, size or time of change
    differ from those of the last start.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._kept: dict[str, tuple[tuple[int, int], Header]] = {}
        self._seen: dict[str, tuple[tuple[int, int], Header]] = {}
        kept = kept_arrays(f"headers {self._root}")
        if not kept:
            return
        stats, sizes, flags = (kept[key].tolist() for key in ("stats", "sizes", "flags"))
        for name, stat, size, flag in zip(
            split_names(kept["names"]), stats, sizes, flags, strict=True
        ):
            self._kept[name] = tuple(stat), Header(tuple(size), *map(bool, flag))

    def header(self, path: Path) -> Header | None:
        """As `image_header`."""
        name = os.path.relpath(path, self._root)
        found = os.stat(path)
        stat = found.st_size, found.st_mtime_ns
        known = self._kept.get(name)
        header = known[1] if known and known[0] == stat else image_header(path)
        if header is not None:
            self._seen[name] = stat, header
        return header

    def keep(self) -> None:
        """Write what `header` has found, if it is much and not known yet."""
        if len(self._seen) < INDEXED_FROM or self._seen == self._kept:
            return
        stats, headers = zip(*self._seen.values(), strict=True)
        keep_arrays(
            f"headers {self._root}",
            names=joined_names(list(self._seen)),
            stats=np.array(stats, np.int64),
            sizes=np.array([header.size for header in headers], np.int64),
            flags=np.array([header[1:] for header in headers], bool),
        )
