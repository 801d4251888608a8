"""One split of a TFDS data set in stored order, streamed or read into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from bnas_larq.backend import tf
from bnas_larq.data.decoding import WHITE
from bnas_larq.data.examples import InMemoryExamples, data_errors
from bnas_larq.data.images import composite, resize
from bnas_larq.errors import DataError, one_line

PEEK = 64  # images to look at if a data set does not declare their size


@dataclasses.dataclass(frozen=True)
class Records:
    """One TFDS split as (uint8 image, int64 label) in stored order, read lazily."""

    builder: Any
    split: str
    image_key: str
    label_key: str
    size: tuple[int, int] | None = None
    resizes: bool = False
    background: tuple[int, int, int] = WHITE

    @property
    def num_examples(self) -> int:
        """Number of examples of the split."""
        return self.builder.info.splits[self.split].num_examples

    @property
    def name(self) -> str:
        """Name, configuration, version and split."""
        return f"{self.builder.info.full_name}/{self.split}"

    def encoded(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        """(undecoded image, label, int64 position in the split) from `start` to `stop`."""
        import tensorflow_datasets as tfds

        stop = self.num_examples if stop is None else stop
        with _quiet():
            dataset = self.builder.as_dataset(
                split=tfds.core.ReadInstruction(self.split, from_=start, to=stop, unit="abs"),
                decoders=tfds.decode.PartialDecoding(
                    {self.image_key: True, self.label_key: True},
                    decoders={self.image_key: tfds.decode.SkipDecoding()},
                ),
                # One file after the other: the stored order is the same on every machine.
                read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
                shuffle_files=False,
            )
        return dataset.enumerate(start).map(
            lambda position, record: (
                record[self.image_key],
                tf.cast(record[self.label_key], tf.int64),
                position,
            )
        )

    def checked(self, label: tf.Tensor) -> tf.Tensor:
        """The label, or an error of TensorFlow's that `data_errors` knows."""
        classes = self.builder.info.features[self.label_key].num_classes
        message = (
            f"DataError: Every image needs a label from 0 to {classes - 1}. Received: another one "
            f"in {self.name}. Prepare the data set again, or choose a labelled one."
        )
        with tf.control_dependencies(
            [tf.debugging.Assert((label >= 0) & (label < classes), [message])]
        ):
            return tf.identity(label)

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """An undecoded image as uint8 RGB [height, width, 3], stretched to `size` if `resizes`."""
        image = self.builder.info.features[self.image_key].decode_example(encoded)
        channels = image.shape[-1]
        if channels == 1:
            image = tf.image.grayscale_to_rgb(image)
        elif channels == 4:
            image = composite(image, self.background)
        if self.size is None:
            return image
        if self.resizes and image.shape[:2] != self.size:
            image = resize(image, self.size)
        return tf.ensure_shape(image, (*self.size, 3))


def read_into_memory(records: Records, positions: np.ndarray) -> InMemoryExamples:
    """Decode the examples at ascending positions of a split.

    Raises:
        DataError: a record is damaged, an image has another size, or a label is missing.
    """
    wanted = np.zeros(records.num_examples, bool)
    wanted[positions] = True
    keep = tf.constant(wanted)
    dataset = records.encoded()
    if len(positions) < records.num_examples:
        dataset = dataset.filter(lambda image, label, index: keep[index]).take(len(positions))
    dataset = dataset.map(
        lambda image, label, index: (records.decode(image), records.checked(label)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    images = np.empty((len(positions), *records.size, 3), np.uint8)
    labels = np.empty(len(positions), np.int64)
    row = 0
    try:
        with data_errors():
            for batch, batch_labels in dataset.batch(256).prefetch(2):
                rows = slice(row, row + len(batch_labels))
                images[rows], labels[rows] = batch.numpy(), batch_labels.numpy()
                row += len(batch_labels)
    except tf.errors.InvalidArgumentError as error:
        raise DataError(
            "Every image must be readable and have one size. Received: an image of "
            f"{records.name} near number {positions[row]} ({one_line(error.message)[:200]}). "
            "Set image_size, or prepare the data set again."
        ) from error
    if row != len(positions):
        raise DataError(
            "A split must hold as many examples as its description says. Received: "
            f"{row} instead of {len(positions)} from {records.name}. Prepare the data set again."
        )
    digest = hashlib.sha256(np.asarray(positions, "<i8").tobytes()).hexdigest()
    return InMemoryExamples(images, labels, origin=f"{records.name}:{digest}")


def is_labelled(records: Records) -> bool:
    """Whether the first example has a label; TFDS writes -1 for secret ones (ImageNet's test)."""
    return all(int(label) >= 0 for _, label, _ in records.encoded(0, 1))


def peeked_size(records: Records) -> tuple[int, int]:
    """The common size of the first images, for data sets that declare none."""
    sizes = {
        tuple(records.decode(encoded).shape[:2])
        for encoded, _, _ in records.encoded(0, min(PEEK, records.num_examples))
    }
    if len(sizes) > 1:
        raise DataError(
            "Images of one data set must have one size. Received: "
            f"{' and '.join(map(str, sorted(sizes)[:2]))} in {records.name}. "
            "Set image_size to resize all of them."
        )
    return next(iter(sizes))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFDS' warnings about its own deprecated calls."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
