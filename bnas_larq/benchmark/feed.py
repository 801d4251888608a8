"""What a measured step reads: the real pipeline of a real data set, or one batch of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data import (
    Augmentation,
    ImageDataset,
    bilevel_pipeline,
    load_dataset,
    training_pipeline,
)
from bnas_larq.errors import DataError

#: Not a data set: one batch of noise, repeated.
SYNTHETIC = "synthetic"
SYNTHETIC_CLASSES = 10
#: What CIFAR networks are trained with, so that pipelines are measured at their real work.
AUGMENTATION = Augmentation(crop_padding=4, flip=True)


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches for a step.

    Attributes:
        name: of the data set, or `"synthetic"`.
        input_shape: (height, width, channels) of its images.
        num_classes: number of labels.
        data: the data set; None for noise.
    """

    name: str
    input_shape: tuple[int, int, int]
    num_classes: int
    data: ImageDataset | None = None

    @classmethod
    def open(cls, name: str, data_dir: str | None, image_size: tuple[int, int]) -> Feed:
        """Load a data set as `bnas_larq.data.load_dataset` does, with images of this size.

        Raises:
            DataError: it cannot be read, or a folder is given for data that have none.
        """
        if data_dir is not None and name in (SYNTHETIC, "digits"):
            raise DataError(
                "Noise and the embedded digits are not read from a folder. "
                f"Received: {name!r} with a data folder. Name a TFDS data set, or `folder`."
            )
        if name == SYNTHETIC:
            return cls(name, (*image_size, 3), SYNTHETIC_CLASSES)
        data = load_dataset(name, data_dir=data_dir, image_size=image_size)
        return cls(name, data.image_shape, data.num_classes, data)

    def batches(self, batch_size: int) -> tf.data.Dataset:
        """Endless (images, labels), as training reads them."""
        if self.data is None:
            return self._noise(batch_size, lambda batch: batch)
        return self._pipeline(self.data.train, batch_size, 0).dataset()

    def bilevel_batches(self, batch_size: int) -> tf.data.Dataset:
        """Endless ((images, labels), (images, labels)) of both halves, as a search reads them."""
        if self.data is None:
            return self._noise(batch_size, lambda batch: (batch, batch))
        halves = enumerate(self.data.search_halves(0))
        return bilevel_pipeline(
            *(self._pipeline(half, batch_size, seed) for seed, half in halves)
        ).dataset()

    def _pipeline(self, examples: Any, batch_size: int, seed: int) -> Any:
        return training_pipeline(
            examples,
            batch_size=batch_size,
            seed=seed,
            normalization=self.data.normalization(),
            augmentation=AUGMENTATION,
        )

    def _noise(self, batch_size: int, arrange: Callable[[tuple], tuple]) -> tf.data.Dataset:
        random = np.random.RandomState(0)
        images = random.normal(size=(batch_size, *self.input_shape)).astype(np.float32)
        labels = random.randint(self.num_classes, size=batch_size).astype(np.int64)
        batch = (tf.constant(images), tf.constant(labels))
        return tf.data.Dataset.from_tensors(arrange(batch)).cache().repeat()
