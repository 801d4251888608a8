"""Which files of a folder of class folders are images, and of which part and class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas_larq.console import say
from bnas_larq.data.dataset import check_class_names
from bnas_larq.data.decoding import SUFFIXES, WHITE, Header
from bnas_larq.data.images import list_files, shown_entries
from bnas_larq.data.kept_index import HeaderIndex
from bnas_larq.errors import DataError

#: How the folders of the parts are called, in any case.
PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


class FolderScan:
    """The images in the class folders of a data set, told by their headers.

    Args:
        root: the data set's folder.

    Attributes:
        part_dirs: the folder of class folders of each part.
        names: the training part's classes.

    Raises:
        DataError: fewer than two classes, a name that cannot be printed, two folders for a part.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.part_dirs = _part_dirs(root)
        train_dir = self.part_dirs["train"]
        self.names = tuple(folder.name for folder in _subfolders(train_dir))
        parts = [_part_named(name) for name in self.names]
        # Folders named like parts, but without class folders, would pass for classes.
        if len(parts) < 2 or ("train" in parts and None not in parts):
            raise DataError(
                "A folder data set needs at least two class folders with images in them. "
                f"Received: {', '.join(self.names) or 'none'} in {train_dir}. "
                "Put the images into one folder per class."
            )
        check_class_names(self.names, str(train_dir))
        self._index = HeaderIndex(root)
        self._headers: dict[Path, Header] = {}
        self._others: Counter[str] = Counter()
        if train_dir != root:
            self._count_outside(root, [folder.name for folder in self.part_dirs.values()])

    def read(self, part_dir: Path) -> tuple[list[Path], np.ndarray]:
        """The image files of a part's class folders, sorted, and their labels."""
        paths: list[Path] = []
        labels: list[int] = []
        class_dirs = _subfolders(part_dir)
        self._count_outside(part_dir, [folder.name for folder in class_dirs])
        for folder in class_dirs:
            if folder.name not in self.names:
                raise DataError(
                    f"Held-out images need classes that training has. Received: {folder}. Known: "
                    f"{', '.join(self.names)}."
                )
            images, others = self._images(folder)
            self._others += others
            if not images:
                listed = f" ({_listed(others)})" if others else ""
                raise DataError(
                    f"Every class folder needs images. Received: {folder}, which has none{listed}. "
                    "Add images or remove it."
                )
            paths += images
            labels += [self.names.index(folder.name)] * len(images)
        return paths, np.array(labels, np.int64)

    def _images(self, folder: Path) -> tuple[list[Path], Counter[str]]:
        """The images below a class folder, and how many other files it has of each kind."""
        files, others = list_files(folder)
        headers = self._index.headers(files)
        images = {path: header for path, header in headers.items() if header is not None}
        self._headers |= images
        others += Counter(
            f"{path.suffix.lower() or 'without suffix'} (unreadable by Pillow)"
            for path in files
            if path not in images
        )
        return list(images), others

    def _count_outside(self, folder: Path, used: Sequence[str]) -> None:
        """Count images and folders of images that belong to no class."""
        self._others["outside the class folders"] += sum(
            path.name not in used and (path.is_dir() or path.suffix.lower() in SUFFIXES)
            for path in shown_entries(folder)
        )

    def headers(self, paths: Sequence[Path]) -> list[Header]:
        """Those of these images."""
        return [self._headers[path] for path in paths]

    def keep_index(self) -> None:
        """Keep the headers of a large folder for the next start."""
        self._index.keep()

    def common_size(self, paths: list[Path]) -> tuple[int, int]:
        """(height, width) of all images; DataError if they differ."""
        size = self._headers[paths[0]].size
        for path in paths:
            if self._headers[path].size != size:
                raise DataError(
                    f"Images of one data set must have one size. Received: {size} in {paths[0]} "
                    f"and {self._headers[path].size} in {path}. Set image_size to resize all."
                )
        return size

    def report(self, background: tuple[int, int, int]) -> None:
        """Say what is used, what is changed and what is left out."""
        if self.part_dirs["train"] != self.root:
            dirs = {part: folder.name for part, folder in self.part_dirs.items()}
            listed = ", ".join(f"{part} from {name}/" for part, name in dirs.items())
            say(f"data: {listed}" + ("" if "test" in dirs else ", test a fifth of it"))
        if transparent := sum(header.transparent for header in self._headers.values()):
            colour = "white" if background == WHITE else "the colour {} {} {}".format(*background)
            say(f"data: {transparent} images with transparency are composited on {colour}")
        if others := +self._others:
            text = f"data: not used from {self.root}: {_listed(others)}"
            if set(others) == {"hidden"}:
                say(text)
            else:
                warnings.warn(text, stacklevel=4)  # of whoever calls load_dataset


def _listed(others: Counter[str]) -> str:
    """`30 .heic (unreadable by Pillow), 2 hidden`."""
    return ", ".join(
        f"{others[kind]} {kind}" for kind in sorted(others, key=lambda k: (-others[k], k))
    )


def _part_named(name: str) -> str | None:
    """The part that a folder of this name holds."""
    return next((part for part, names in PART_NAMES.items() if name.casefold() in names), None)


def _part_dirs(root: Path) -> dict[str, Path]:
    """The folder of class folders of each part; the root for training if no folder is one."""
    folders = _subfolders(root)
    named = {part: [f for f in folders if _part_named(f.name) == part] for part in PART_NAMES}
    if not any(_subfolders(folder) for folder in named["train"]):
        return {"train": root}
    for part, candidates in named.items():
        if len(candidates) > 1:
            raise DataError(
                f"Each part of a data set is one folder. Received: for {part} "
                f"{' and '.join(folder.name for folder in candidates)} in {root}. "
                "Rename or remove one of them."
            )
    part_dirs = {part: candidates[0] for part, candidates in named.items() if candidates}
    if "test" not in part_dirs and "validation" in part_dirs:
        part_dirs["test"] = part_dirs.pop("validation")
    return part_dirs


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in shown_entries(folder) if entry.is_dir()]
