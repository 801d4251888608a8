"""Pairs of face images for verification: LFW's `pairs.txt`, or generated from people's images."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas_larq.data.examples import first_permuted
from bnas_larq.errors import DataError, one_line
from bnas_larq.text_files import read_text

_NUMBER = "([1-9][0-9]{0,3})"
# A folder's name: hidden or with separators, it could lead out of the data set.
_NAME = r"([^.\t/\\\0][^\t/\\\0]*)"
_FOLDS = re.compile(f"{_NUMBER}\t{_NUMBER}")
_SAME = re.compile(f"{_NAME}\t{_NUMBER}\t{_NUMBER}")
_DIFFERENT = re.compile(f"{_NAME}\t{_NUMBER}\t{_NAME}\t{_NUMBER}")


@dataclasses.dataclass(frozen=True)
class FacePairs:
    """Pairs of images, in folds of which each has its own people.

    Attributes:
        images: the file of each image, in the data set's folder.
        first, second: int64 [pairs], the numbers of the images of each pair.
        same: bool [pairs], whether both show the same person.
        folds: int64 [pairs], from 0.
    """

    images: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.same)


def read_pairs(path: str | Path) -> FacePairs:
    """Read a `pairs.txt` as the data set LFW has it (Huang et al. 2007, "Labeled Faces in the
    Wild").

    Its first line holds the number of folds and that of a fold's pairs of each kind. Each fold has
    first its pairs of one person, `NAME<TAB>1<TAB>4`, then those of two,
    `NAME<TAB>1<TAB>OTHER<TAB>2`. Image 4 of NAME is the file `NAME/NAME_0004.jpg`.

    Raises:
        DataError: the file cannot be read, or a line, which is named, has another form.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "pairs.txt")
        ...     _ = path.write_text("1\\t1\\nAda\\t1\\t2\\nAda\\t1\\tBob\\t1\\n")
        ...     pairs = read_pairs(path)
        >>> pairs.images
        ('Ada/Ada_0001.jpg', 'Ada/Ada_0002.jpg', 'Bob/Bob_0001.jpg')
        >>> pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()
        ([0, 0], [1, 2], [True, False])
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"A file of pairs must be readable text. Received: {path} ({one_line(error)})."
        ) from error

    def line(number: int) -> str:
        return lines[number - 1] if number <= len(lines) else ""

    def damaged(number: int, rule: str) -> DataError:
        received = f"{one_line(repr(line(number)))[:80]} in line {number} of {path}"
        return DataError(f"{rule}. Received: {received}. Restore the file.")

    header = _FOLDS.fullmatch(line(1))
    if header is None:
        raise damaged(1, "A file of pairs begins with FOLDS<TAB>PAIRS, such as 10<TAB>300")
    folds, count = map(int, header.groups())
    numbers: dict[str, int] = {}
    pairs = []
    for row in range(2 * folds * count):
        same = row // count % 2 == 0
        match = (_SAME if same else _DIFFERENT).fullmatch(line(row + 2))
        if match is None:
            form = "NAME<TAB>1<TAB>2" if same else "NAME<TAB>1<TAB>OTHER<TAB>2"
            raise damaged(
                row + 2, f"A pair {'of one person' if same else 'of two people'} is {form}"
            )
        name, number, *other, other_number = match.groups()
        if name in other or (same and number == other_number):
            raise damaged(row + 2, "A pair has two images, of one person or of two")
        files = _file(name, number), _file(*other or [name], other_number)
        pair = [numbers.setdefault(file, len(numbers)) for file in files]
        pairs.append((*pair, same, row // (2 * count)))
    if len(lines) > len(pairs) + 1:
        raise damaged(len(pairs) + 2, f"{folds} folds of {count} pairs of each kind are all")
    first, second, same, folds = np.array(pairs, np.int64).T
    return FacePairs(tuple(numbers), first, second, same.astype(bool), folds)


def _file(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}.jpg"


def generate_pairs(
    files: Sequence[str], people: np.ndarray, *, folds: int = 10, seed: int = 0
) -> FacePairs:
    """Pairs of people's images, in folds of which each has its own people, drawn by `seed`.

    A fold holds all pairs of one person and as many of two, drawn from all there are in it; if
    there are fewer, as many of one person are drawn.

    Args:
        files: the file of each image.
        people: int [images], the number of the person it shows.

    Raises:
        DataError: a fold would have fewer than two people, or no pair of one of the kinds.

    Example:
        >>> pairs = generate_pairs([f"{n}.pgm" for n in range(12)], np.arange(12) // 3, folds=2)
        >>> len(pairs), int(pairs.same.sum())  # 2 folds of 2 people, of 3 pairs each
        (24, 12)
    """
    people = np.asarray(people)
    present = np.unique(people)
    if folds < 1 or len(present) < 2 * folds:
        raise DataError(
            "Each fold of pairs has its own two people at least. "
            f"Received: {len(present)} people for {folds} folds. Use fewer folds or more people."
        )
    present = np.random.RandomState(seed % 2**32).permutation(present)
    parts = []
    for fold, members in enumerate(np.array_split(present, folds)):
        images = np.flatnonzero(np.isin(people, members))
        candidates = images[np.stack(np.triu_indices(len(images), 1))]
        same = people[candidates[0]] == people[candidates[1]]
        count = min(same.sum(), (~same).sum())
        if not count:
            raise DataError(
                "A fold of pairs needs a person with two images. "
                f"Received: {len(images)} images of {len(members)} people in one. Add images."
            )
        for kind in (same, ~same):
            chosen = np.flatnonzero(kind)[first_permuted(kind.sum(), count, seed + fold)]
            parts.append((*candidates[:, chosen], same[chosen], np.full(count, fold)))
    return FacePairs(tuple(files), *map(np.concatenate, zip(*parts, strict=True)))
