"""Faces: folders with one folder per person, of whom some train a network and others verify it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bnas_larq.data.examples import Examples
from bnas_larq.data.folder import FileExamples, existing_folder
from bnas_larq.data.folder_scan import FolderScan
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import THREADS, image_header
from bnas_larq.data.sources import image_sides
from bnas_larq.data.streams import Memory
from bnas_larq.errors import DataError


@dataclasses.dataclass(frozen=True)
class People:
    """Images of people.

    Attributes:
        names: of the people, in natural order: s2 before s10.
        examples: their images, person by person; a label is a person's place in `names`.
        files: the file of each image, in the data set's folder.
    """

    names: tuple[str, ...]
    examples: Examples
    files: tuple[str, ...]


def split_people(
    data_dir: str | Path,
    train: int,
    *,
    image_size: int | tuple[int, int] | None = None,
    memory_limit_mb: int = 2000,
) -> tuple[People, People]:
    """Read a folder with one folder per person, and split it by person.

    Args:
        train: number of people to train on, the first in natural order of the folders' names;
            the others are held out.
        image_size: side, or (height, width), of all images; required if pictures differ in size.
        memory_limit_mb: see `bnas_larq.data.load_dataset`.

    Returns:
        The people to train on and the others; none is in both.

    Raises:
        DataError: as of `bnas_larq.data.folder.load_folder`, or nobody is left in a part.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("s1", "s2", "s10"):
        ...         Path(folder, name).mkdir()
        ...         Image.new("L", (46, 56)).save(Path(folder, name, "1.pgm"))
        ...     train, test = split_people(folder, 2)
        >>> train.names, test.names, test.files, test.examples.image_shape
        (('s1', 's2'), ('s10',), ('s10/1.pgm',), (56, 46, 3))
    """
    root = existing_folder(str(data_dir))
    scan = FolderScan(root)
    if scan.part_dirs["train"] != root:
        raise DataError(
            "People are split by person, not by folders of parts. "
            f"Received: {scan.part_dirs['train']}. Give the folder of the people's folders."
        )
    names = sorted(scan.names, key=natural_key)
    if not 0 < train < len(names):
        raise DataError(
            "Some people train and others are held out. "
            f"Received: train={train} of {len(names)} people in {root}. Use half of them."
        )
    paths, found = scan.read(root)
    labels = [names.index(scan.names[label]) for label in found]
    images = sorted(zip(labels, paths, strict=True), key=lambda x: (x[0], natural_key(str(x[1]))))
    geometry = Geometry(image_sides(image_size) or scan.common_size(paths))
    scan.report(geometry.background)
    memory = Memory(memory_limit_mb)

    def part(start: int, stop: int) -> People:
        own = [(label - start, path) for label, path in images if start <= label < stop]
        labels, paths = zip(*own, strict=True)
        examples = FileExamples(paths, np.array(labels), scan.headers(paths), geometry)
        files = tuple(path.relative_to(root).as_posix() for path in paths)
        return People(tuple(names[start:stop]), memory.hold(examples), files)

    return part(0, train), part(train, len(names))


def load_images(
    data_dir: str | Path,
    files: Sequence[str],
    *,
    image_size: tuple[int, int],
    memory_limit_mb: int = 2000,
) -> Examples:
    """The images of `FacePairs` in their order, with labels that say nothing.

    Args:
        data_dir: the folder that `files` are in.
        image_size: (height, width) of all images.
        memory_limit_mb: see `bnas_larq.data.load_dataset`.

    Raises:
        DataError: a file is missing or no image.
    """
    paths = [existing_folder(str(data_dir)) / file for file in files]
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(image_header, paths))
    if None in headers:
        raise DataError(
            "Every image must be readable. "
            f"Received: {paths[headers.index(None)]}. Repair or remove it from the pairs."
        )
    examples = FileExamples(paths, np.zeros(len(paths)), headers, Geometry(image_size))
    return Memory(memory_limit_mb).hold(examples)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """A key for sorting names as people do, by the numbers in them.

    Example:
        >>> sorted(["s10", "s2", "s1"], key=natural_key)
        ['s1', 's2', 's10']
    """
    parts = re.split("([0-9]+)", name)
    return [int(part) if part.isdecimal() else part for part in parts], name
