"""A teacher's logits for a fixed set of views of each image, kept on disk.

Beside a description there is one float32 file [images, classes] for each view, in the stored order
of the images. A view is computed whole, by the first run that needs it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydantic

from bnas_larq.backend import keras, tf
from bnas_larq.console import say
from bnas_larq.data import Augmentation, Examples, data_errors, view_images
from bnas_larq.files import read_record, sha256, write_atomic, write_json
from bnas_larq.setting_types import PlainName
from bnas_larq.training.teachers import Teacher

DESCRIPTION = "outputs.json"


class _Description(pydantic.BaseModel):
    """outputs.json."""

    holds: ClassVar[str] = "the SHA-256 of each view's file"
    remedy: ClassVar[str] = "Delete its folder to compute them again."
    sha256: dict[PlainName, str]


class TeacherOutputs:
    """The logits of a teacher for views of one set of images.

    Args:
        folder: of all caches; what depends on other facts lies in another folder in it.
        teacher: computes them.
        examples, augmentation, seed: make the views, of which there may be any number.
        geometry: how pictures of other sizes became the images.
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: Teacher,
        examples: Examples,
        augmentation: Augmentation,
        seed: int,
        geometry: Mapping[str, Any],
    ) -> None:
        self.teacher, self.examples = teacher, examples
        self.augmentation, self.seed = augmentation, seed
        self.facts = {
            "teacher": weights_sha256(teacher.model),
            "normalization": [part.to_dict() for part in (teacher.own, teacher.shared)],
            "images": examples.fingerprint(),
            "image_shape": list(examples.image_shape),
            "geometry": dict(geometry),
            "augmentation": augmentation.to_dict(),
            "seed": seed,
        }
        key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        self.folder = Path(folder) / key[:32]
        self._order = np.argsort(examples.indices)
        self._sorted = examples.indices[self._order]
        self._classes = teacher.model.output_shape[-1]
        self._read: dict[int, np.ndarray] = {}

    def fill(self, views: Iterable[int]) -> None:
        """Compute the views that are not there, or damaged; other processes wait meanwhile.

        Raises:
            RunError: the folder cannot be written, or its description is damaged.
        """
        import filelock  # slow to import

        for view in views:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / ".lock", thread_local=False):
                for leftover in self.folder.glob(".view-*.tmp"):  # of a killed process
                    leftover.unlink()
                if not self._intact(view):
                    self._compute(view)

    def lookup(self, view: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        """Logits [batch, classes] of stable indices in a view that was filled, in a pipeline."""
        logits = tf.numpy_function(self._rows, [view, indices], tf.float32, stateful=False)
        return tf.ensure_shape(logits, [indices.shape[0], self._classes])

    def _rows(self, view: np.ndarray, indices: np.ndarray) -> np.ndarray:
        view = int(view)
        if view not in self._read:
            self._read[view] = np.load(self._path(view), mmap_mode="r", allow_pickle=False)
        return self._read[view][self._order[np.searchsorted(self._sorted, indices)]]

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view:05d}.npy"

    def _described(self) -> dict[str, str]:
        path = self.folder / DESCRIPTION
        return read_record(path, _Description)["sha256"] if path.exists() else {}

    def _intact(self, view: int) -> bool:
        path = self._path(view)
        expected = self._described().get(path.name)
        if expected is None or not path.exists():
            return False
        if sha256(path) == expected:
            return True
        warnings.warn(f"{path} was changed since it was written; computing it again.", stacklevel=3)
        return False

    def _compute(self, view: int) -> None:
        say(f"teacher: view {view + 1} of {self.examples.num_examples:,} images")
        images = view_images(
            self.examples,
            view,
            seed=self.seed,
            normalization=self.teacher.shared,
            augmentation=self.augmentation,
        )
        header, shape = io.BytesIO(), (self.examples.num_examples, self._classes)
        facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, facts)
        rows = (self.teacher.predict(batch).astype("<f4").tobytes() for batch in images)
        with data_errors():
            path = write_atomic(self._path(view), itertools.chain([header.getvalue()], rows))
        known = {**self._described(), path.name: sha256(path)}
        write_json(self.folder / DESCRIPTION, {"facts": self.facts, "sha256": known})


def weights_sha256(model: keras.Model) -> str:
    """Over all weights, in the model's order, with their shapes."""
    digest = hashlib.sha256()
    for weight in model.weights:
        value = weight.numpy()
        digest.update(f"{value.shape} {value.dtype}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
