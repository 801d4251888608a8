"""A folder of class folders as a data set."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bnas_larq.backend import close_iterators_at_exit, tf
from bnas_larq.data.dataset import TEST_FRACTION, TEST_SEED, Splits
from bnas_larq.data.examples import cut, first_permuted, outside_graphs
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import image_file_size, is_image_name, read_image_file
from bnas_larq.data.streams import StreamedExamples
from bnas_larq.errors import DataError

THREADS = 8
VALIDATION_NAMES = ("validation", "val")


class FileExamples(StreamedExamples):
    """Image files, decoded by Pillow in Python, on the cores that train: small files (32×32) come
    about thirty times slower than from memory.

    Args:
        paths: all files of the store.
        labels, geometry: see `StreamedExamples`.
        sizes: (height, width) of each file.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: np.ndarray,
        sizes: Sequence[tuple[int, int]],
        geometry: Geometry,
    ):
        resized = set(sizes) != {geometry.size}
        super().__init__(labels, geometry, origin=_origin(paths), resized=resized)
        close_iterators_at_exit()
        self._paths = paths
        with outside_graphs():
            self._sizes = tf.constant(sizes, tf.int32)

    def _read(self, index: tf.Tensor) -> tf.Tensor:
        def read(number: np.int64, box: np.ndarray | None = None) -> np.ndarray:
            return read_image_file(self._paths[int(number)], self.geometry, box)

        inputs = [index, *self._box(index, tf.gather(self._sizes, index))]
        image = tf.numpy_function(read, inputs, tf.uint8, stateful=False)
        return tf.ensure_shape(image, self.image_shape)


def load_folder(
    data_dir: str | None,
    *,
    geometry: Geometry,
    limit: int | None,
    seed: int,
) -> Splits:
    """Read a folder of class folders.

    `data_dir` holds `train/` and `test/`, each with one folder per class, and optionally
    `validation/` or `val/`, which is the test part if there is no `test/`. Or it holds the class
    folders itself, and a fixed stratified fifth becomes the test part. Hidden files and files that
    are not images are skipped.

    Raises:
        DataError: the folder is missing or lacks classes, a class folder has no image, an image
            cannot be read, or images differ in size and `geometry` has none.
    """
    root = _existing(data_dir)
    train_dir = root / "train"
    separate = train_dir.is_dir() and bool(_class_folders(train_dir))
    class_dirs = _class_folders(train_dir if separate else root)
    names = tuple(folder.name for folder in class_dirs)
    # Folders named like splits, but without class folders, would pass for two classes.
    if len(names) < 2 or {"train"} < set(names) <= {"train", "test", *VALIDATION_NAMES}:
        raise DataError(
            "A folder data set needs at least two class folders with images in them. "
            f"Received: {', '.join(names) or 'none'} in {train_dir if separate else root}. "
            "Put the images into one folder per class."
        )
    paths, labels = _files(class_dirs, names)
    held_out = [
        root / name for name in ("test", *VALIDATION_NAMES) if separate and (root / name).is_dir()
    ]
    parts = {}
    if held_out:
        parts["test"] = _files(_class_folders(held_out[0]), names)
        if held_out[0].name == "test" and len(held_out) > 1:
            parts["validation"] = _files(_class_folders(held_out[1]), names)
        kept = np.arange(len(paths))
    else:
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
            f"The test part needs images. Received: no class folders in {held_out[0]}. Add images "
            "or remove it."
        )
    sizes = _sizes([path for part in parts.values() for path in part[0]], geometry.size)
    if geometry.size is None:
        geometry = dataclasses.replace(geometry, size=next(iter(sizes.values())))
    examples = {
        name: FileExamples(paths, labels, [sizes[path] for path in paths], geometry)
        for name, (paths, labels) in parts.items()
    }
    return Splits(names, examples["train"], examples.get("validation"), examples["test"])


def _origin(paths: Sequence[Path]) -> str:
    """A digest of class folders and file names, independent of the data folder's location."""
    names = "\n".join(f"{path.parent.name}/{path.name}" for path in paths)
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


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


def _class_folders(folder: Path) -> list[Path]:
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: entry.name,
    )


def _files(class_dirs: list[Path], names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """The image files of class folders, sorted, and their labels by `names`."""
    paths: list[Path] = []
    labels: list[int] = []
    for folder in class_dirs:
        if folder.name not in names:
            raise DataError(
                f"Held-out images need classes that training has. Received: {folder}. Known: "
                f"{', '.join(names)}."
            )
        images = sorted(
            (
                path
                for path in folder.rglob("*")
                if is_image_name(path.relative_to(folder)) and path.is_file()
            ),
            key=lambda path: path.relative_to(folder).as_posix(),
        )
        if not images:
            raise DataError(
                f"Every class folder needs images. Received: {folder}, which has none. Add images "
                "or remove it."
            )
        paths += images
        labels += [names.index(folder.name)] * len(images)
    return paths, np.array(labels, np.int64)


def _sizes(paths: list[Path], image_size: tuple[int, int] | None) -> dict[Path, tuple[int, int]]:
    """(height, width) of each image; DataError if they differ and `image_size` is None.

    Reads every header, to report bad files before training.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = dict(zip(paths, pool.map(image_file_size, paths), strict=True))
    for path, size in sizes.items():
        if image_size is None and size != sizes[paths[0]]:
            raise DataError(
                f"Images of one data set must have one size. Received: {sizes[paths[0]]} in "
                f"{paths[0]} and {size} in {path}. Set image_size to resize all of them."
            )
    return sizes
