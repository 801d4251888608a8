"""A folder of class folders as a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas_larq.backend import close_iterators_at_exit, tf
from bnas_larq.data.dataset import TEST_FRACTION, TEST_SEED, Splits
from bnas_larq.data.decoding import Header
from bnas_larq.data.examples import cut, first_permuted, outside_graphs
from bnas_larq.data.folder_scan import FolderScan
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import read_image_file, read_jpeg_crop
from bnas_larq.data.streams import StreamedExamples
from bnas_larq.errors import DataError
from bnas_larq.files import expand_home


class FileExamples(StreamedExamples):
    """Image files, decoded on the cores that train: small ones (32×32) about thirty times slower
    than reading them from memory. Pillow decodes them; TensorFlow decodes crops of JPEGs, to the
    same pixels.

    Args:
        paths: all files of the store.
        labels, geometry: see `StreamedExamples`.
        headers: of each file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: np.ndarray,
        headers: Sequence[Header],
        geometry: Geometry,
    ):
        sizes = [header.size for header in headers]
        resized = set(sizes) != {geometry.size}
        super().__init__(labels, geometry, origin=_origin(paths), resized=resized)
        close_iterators_at_exit()
        self._paths = paths
        self._jpegs = np.array([header.plain_jpeg for header in headers])
        with outside_graphs():
            self._sizes = tf.constant(sizes, tf.int32)

    def _read(self, index: tf.Tensor) -> tf.Tensor:
        def read(number: np.int64, size: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
            path = self._paths[number]
            if box is not None and self._jpegs[number]:
                return read_jpeg_crop(path, self.geometry, box, tuple(size.tolist()))
            return read_image_file(path, self.geometry, box)

        size = tf.gather(self._sizes, index)
        inputs = [index, size, *self._box(index, size)]
        image = tf.numpy_function(read, inputs, tf.uint8, stateful=False)
        return tf.ensure_shape(image, self.image_shape)


def load_folder(
    data_dir: str | None, *, geometry: Geometry, limit: int | None, seed: int
) -> Splits:
    """Read a folder of class folders.

    `data_dir` holds a folder for training and one for test (`PART_NAMES`), each with one folder per
    class, and optionally one for validation, which is the test part if there is no other. Or it
    holds the class folders itself, and a fixed stratified fifth becomes the test part. A file is an
    image if Pillow decodes it, whatever its suffix; a warning counts the others.

    Raises:
        DataError: the folder is missing or lacks classes, a class folder has no image or a name
            that cannot be printed, an image cannot be read, or images differ in size and
            `geometry` has none.
    """
    root = existing_folder(data_dir)
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
    if geometry.size is None:
        size = scan.common_size([path for part in parts.values() for path in part[0]])
        geometry = dataclasses.replace(geometry, size=size)
    scan.report(geometry.background)
    scan.keep_index()
    examples = {
        name: FileExamples(paths, labels, scan.headers(paths), geometry)
        for name, (paths, labels) in parts.items()
    }
    test_files = tuple(_escaped(path.relative_to(root)) for path in parts["test"][0])
    return Splits(
        scan.names, examples["train"], examples.get("validation"), examples["test"], test_files
    )


def existing_folder(data_dir: str | None) -> Path:
    if data_dir is None:
        raise DataError(
            "A folder data set needs a folder. Received: no data_dir. Set --data-dir to the folder "
            "of class folders."
        )
    root = Path(expand_home(data_dir))
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
