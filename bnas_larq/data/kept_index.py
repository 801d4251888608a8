"""What is known of a large data set's files, kept from one start to the next.

Reading the headers of a million pictures, or all records of ImageNet, takes many minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bnas_larq.data.decoding import Header
from bnas_larq.data.images import THREADS, image_header
from bnas_larq.errors import RunError
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
    with contextlib.suppress(RunError):
        write_atomic(_path(source), content.getvalue())


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
        # Of the files' own spelling; `Path.relative_to` takes longer than to look at a file.
        self._prefix = 0 if os.fspath(root) == "." else len(os.fspath(root)) + 1
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

    def headers(self, files: Sequence[Path]) -> dict[Path, Header | None]:
        """The header of each of these files below the folder; None for one that is no image.

        DataError as of `image_header`.
        """
        stats = {path: os.stat(path) for path in files}
        changes = {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
        names = {path: os.fspath(path)[self._prefix :] for path in files}
        found: dict[Path, Header | None] = {}
        for path in files:
            known = self._kept.get(names[path])
            if known and known[0] == changes[path]:
                found[path] = known[1]
        unknown = [path for path in files if path not in found]
        with ThreadPoolExecutor(THREADS) as pool:
            found |= zip(unknown, pool.map(image_header, unknown), strict=True)
        for path in files:
            if (header := found[path]) is not None:
                self._seen[names[path]] = changes[path], header
        return {path: found[path] for path in files}

    def keep(self) -> None:
        """Write what `headers` has found, if it is much and not known yet."""
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
