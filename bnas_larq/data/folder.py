"""A folder of class folders as a data set, in memory if it fits, else read on the fly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.dataset import TEST_FRACTION, TEST_SEED, Splits
from bnas_larq.data.decoding import WHITE
from bnas_larq.data.examples import IndexedExamples, InMemoryExamples, cut, first_permuted
from bnas_larq.data.folder_scan import FolderScan
from bnas_larq.data.images import THREADS, read_image_file
from bnas_larq.errors import DataError


class FileExamples(IndexedExamples):
    """Image files that are decoded in every epoch, for folders too large for memory.

    Pillow decodes them in Python, on the cores that train: small files (32×32) come about thirty
    times slower than from memory. Raise `memory_limit_mb` of `load_dataset` if memory allows.

    Args:
        paths: all files of the store.
        size: (height, width) of the decoded images.
        labels, indices, origin: see `IndexedExamples`.
        background: see `read_image_file`.
    """

    streamed = True

    def __init__(
        self,
        paths: Sequence[Path],
        labels: np.ndarray,
        size: tuple[int, int],
        indices: np.ndarray | None = None,
        origin: str = "",
        background: tuple[int, int, int] = WHITE,
    ):
        super().__init__(labels, indices, origin)
        self._paths = paths
        self._background = background
        self.image_shape = (*size, 3)

    def subset(self, positions: np.ndarray) -> FileExamples:
        """See `IndexedExamples.subset`."""
        size, indices = self.image_shape[:2], self.indices[positions]
        return FileExamples(
            self._paths, self._all_labels, size, indices, self._origin, self._background
        )

    def _read(self, index: tf.Tensor) -> tf.Tensor:
        def read(number: np.int64) -> np.ndarray:
            path = self._paths[int(number)]
            return read_image_file(path, self.image_shape[:2], self._background)

        image = tf.numpy_function(read, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(image, self.image_shape)


def load_folder(
    data_dir: str | None,
    *,
    image_size: tuple[int, int] | None,
    limit: int | None,
    seed: int,
    memory_limit_mb: int,
    background: tuple[int, int, int] = WHITE,
) -> Splits:
    """Read a folder of class folders.

    `data_dir` holds a folder for training and one for test (`PART_NAMES`), each with one folder per
    class, and optionally one for validation, which is the test part if there is no other. Or it
    holds the class folders itself, and a fixed stratified fifth becomes the test part. A file is an
    image if Pillow decodes it, whatever its suffix; a warning counts the others.

    Raises:
        DataError: the folder is missing or lacks classes, a class folder has no image or a name
            that cannot be printed, an image cannot be read, or images differ in size and
            `image_size` is None.
    """
    root = _existing(data_dir)
    scan = FolderScan(root)
    parts = {part: scan.read(folder) for part, folder in scan.part_dirs.items()}
    paths, labels = parts["train"]
    kept = np.arange(len(paths))
    if "test" not in parts:
        chosen = cut(len(paths), TEST_FRACTION, TEST_SEED, labels)
        if not chosen.any():
            raise DataError(
                f"A fifth of the images becomes the test part. Received: only {len(paths)} images "
                f"in {root}. Add images, or put test images into a folder `test` next to `train`."
            )
        parts["test"] = ([paths[i] for i in np.flatnonzero(chosen)], labels[chosen])
        kept = np.flatnonzero(~chosen)
    kept = kept[first_permuted(len(kept), limit, seed)]
    parts["train"] = ([paths[i] for i in kept], labels[kept])

    if not len(parts["test"][0]):
        raise DataError(
            "The test part needs images. "
            f"Received: no class folders in {scan.part_dirs['test']}. Add images or remove it."
        )
    size = image_size or scan.common_size([path for part in parts.values() for path in part[0]])
    scan.report(background)
    budget = memory_limit_mb * 1_000_000
    examples = {"validation": None}
    for name in sorted(parts, key=("train", "validation", "test").index):
        part_paths, part_labels = parts[name]
        origin = _origin(part_paths)
        needed = len(part_paths) * size[0] * size[1] * 3
        if needed <= budget:
            budget -= needed
            images = _decode(part_paths, size, background)
            examples[name] = InMemoryExamples(images, part_labels, origin=origin)
        else:
            examples[name] = FileExamples(
                part_paths, part_labels, size, origin=origin, background=background
            )
    test_files = tuple(_escaped(path.relative_to(root)) for path in parts["test"][0])
    return Splits(
        scan.names, examples["train"], examples["validation"], examples["test"], test_files
    )


def _existing(data_dir: str | None) -> Path:
    if data_dir is None:
        raise DataError(
            "A folder data set needs a folder. Received: no data_dir. Set --data-dir to the folder "
            "of class folders."
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data_dir must be an existing folder. Received: {data_dir}. Check the spelling of "
            "--data-dir."
        )
    return root


def _origin(paths: list[Path]) -> str:
    """A digest of class folders and file names, independent of the data folder's location."""
    names = "\n".join(f"{path.parent.name}/{path.name}" for path in paths)
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def _escaped(path: Path) -> str:
    """A relative path as text; bytes that are not UTF-8 as in Python, `caf\\xe9.png`."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _decode(
    paths: list[Path], size: tuple[int, int], background: tuple[int, int, int]
) -> np.ndarray:
    images = np.empty((len(paths), *size, 3), np.uint8)

    def fill(row: int) -> None:
        images[row] = read_image_file(paths[row], size, background)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(len(paths))))
    return images
