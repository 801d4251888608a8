"""Labelled images that can be split and read epoch by epoch, in memory or not.

The order of an epoch depends on the seed and the epoch's number alone: a resumed run sees the same
batches as an uninterrupted one.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.shards import Shard
from bnas_larq.errors import DataError, one_line

#: Messages of TensorFlow's image decoders and of the check of image sizes.
UNREADABLE = re.compile(
    r"DecodeImage|DecodeJpeg|DecodePng|decode_image|Invalid (JPEG|PNG|GIF|BMP)|EnsureShape",
    re.IGNORECASE,
)


def cut(count: int, fraction: float, seed: int, labels: np.ndarray | None) -> np.ndarray:
    """Choose `round(fraction * count)` of `count` positions, the same share of every label.

    Returns booleans [count]. The numbers of NumPy's `RandomState` are frozen, so that a split stays
    the same under later versions.
    """
    order = np.random.RandomState(seed % 2**32).permutation(count)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    wanted = round(fraction * count)
    rank = np.arange(count, dtype=np.int64)
    chosen = np.zeros(count, dtype=bool)
    # Every (count / wanted)-th example in label-sorted order, exactly `wanted` in all.
    chosen[order] = (rank + 1) * wanted // max(count, 1) > rank * wanted // max(count, 1)
    return chosen


def first_permuted(count: int, limit: int | None, seed: int) -> np.ndarray:
    """The first `limit` of `count` positions after a seeded permutation, in stored order."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.RandomState(seed % 2**32).permutation(count)[:limit]).astype(np.int64)


class Examples(abc.ABC):
    """Labelled images of one size, with random access: an epoch is a full permutation.

    Args:
        labels: int64 [all], the labels of the whole store.
        origin: identifies the store; part of the fingerprint.

    Attributes:
        num_examples: their number.
        image_shape: `(height, width, 3)`.
        indices, labels: int64 [num_examples] in stored order; indices are those in the store.
        streamed: whether images are read from disk and decoded in every epoch.
        resized: whether the pictures had other sizes before they got `image_shape`.
    """

    image_shape: tuple[int, int, int]
    streamed: bool = False
    resized: bool = False

    def __init__(self, labels: np.ndarray, origin: str = ""):
        self._origin = origin
        self._all_labels = np.asarray(labels, np.int64)
        with outside_graphs():
            self._label_tensor = tf.convert_to_tensor(self._all_labels)
        self._select(np.arange(len(self._all_labels)))

    def _select(self, indices: np.ndarray) -> None:
        self.indices = np.asarray(indices, np.int64)
        self.labels = self._all_labels[self.indices]
        self.num_examples = len(self.indices)
        with outside_graphs():
            self._index_tensor = tf.convert_to_tensor(self.indices)

    @abc.abstractmethod
    def _read(self, index: tf.Tensor) -> tf.Tensor:
        """The uint8 image [height, width, 3] of a scalar stable index."""

    def subset(self, positions: np.ndarray) -> Examples:
        """The examples at these positions of the stored order, sharing the images."""
        part = copy.copy(self)
        part._select(self.indices[positions])
        return part

    def split(self, fraction: float, seed: int) -> tuple[Examples, Examples]:
        """Split into two parts with the same share of every class, the first of
        `round(fraction * num_examples)` examples.

        Raises:
            DataError: `fraction` is not between 0 and 1, or a part would be empty.
        """
        count = self.num_examples
        if not (0.0 < fraction < 1.0 and 0 < round(fraction * count) < count):
            raise DataError(
                f"A split needs at least one example in both parts. Received: {count} examples and "
                f"the fraction {fraction}. Give more images, or a fraction nearer to 0.5."
            )
        chosen = cut(count, fraction, seed, self.labels)
        return self.subset(np.flatnonzero(chosen)), self.subset(np.flatnonzero(~chosen))

    def epoch(
        self, seed: int, epoch: int | tf.Tensor, shuffle: bool = True, first: int | tf.Tensor = 0
    ) -> tf.data.Dataset:
        """All examples once: (uint8 image [height, width, 3], int64 label, int64 stable index).

        Args:
            seed, epoch: decide the order; the epoch is an integer or a scalar integer tensor.
            shuffle: False gives the stored order, the order of `labels`.
            first: number of examples to leave out at the beginning.
        """
        order = self.order(seed, epoch, shuffle)[first:]
        return self._load(tf.data.Dataset.from_tensor_slices(order))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int | tf.Tensor = 0,
        shuffle: bool = False,
        drop_remainder: bool = False,
        first: int | tf.Tensor = 0,
        shard: Shard | None = None,
        following: int = 0,
    ) -> tf.data.Dataset:
        """One epoch in batches, from the batch `first` on: (uint8 [batch, height, width, 3], int64
        labels, int64 indices). With `shard`, its parts of the full batches among them, see
        `Shard.order`; no others are read."""
        order = self.order(seed, epoch, shuffle)[first * batch_size :]
        if shard is not None:
            order = shard.order(order, batch_size, following)
            batch_size, drop_remainder = shard.rows(batch_size) + following, True
        return self._batches(tf.data.Dataset.from_tensor_slices(order), batch_size, drop_remainder)

    def _batches(
        self, indices: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        """(images, labels, indices) in batches from a data set of indices."""
        return self._load(indices).batch(batch_size, drop_remainder=drop_remainder)

    def _load(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        """(images, labels, indices) from a data set of indices or of batches of them."""
        return indices.map(
            lambda index: (self._read(index), tf.gather(self._label_tensor, index), index),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def order(self, seed: int, epoch: int | tf.Tensor, shuffle: bool) -> tf.Tensor:
        """The stable indices in the order of this epoch, int64 [num_examples]."""
        if not shuffle:
            return self._index_tensor
        key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
        return tf.random.experimental.stateless_shuffle(self._index_tensor, seed=key)

    def images_at(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """The uint8 images [len(positions), height, width, 3] at positions of the stored order."""
        indices = self.indices[np.asarray(positions, np.int64)]
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        with data_errors():
            for row, index in enumerate(indices):
                images[row] = self._read(tf.constant(index)).numpy()
        return images

    def fingerprint(self) -> str:
        """A hexadecimal SHA-256 over origin, indices and labels, equal for equal splits only."""
        digest = hashlib.sha256(self._origin.encode())
        digest.update(self.indices.astype("<i8").tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.num_examples


class InMemoryExamples(Examples):
    """Examples held as one uint8 tensor, from which whole batches are gathered.

    Args:
        images: uint8 [all, height, width, 3].
        labels, origin, resized: see `Examples`.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, origin: str = "", resized: bool = False
    ):
        super().__init__(labels, origin)
        with outside_graphs():
            self._images = tf.convert_to_tensor(images, tf.uint8)
        self.image_shape = tuple(int(size) for size in self._images.shape[1:])
        self.resized = resized

    def _read(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._images, index)

    def _batches(
        self, indices: tf.data.Dataset, batch_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        # A batch is one gather instead of `batch_size` elements.
        return self._load(indices.batch(batch_size, drop_remainder=drop_remainder))

    def images_at(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """See `Examples.images_at`."""
        return self._read(self.indices[np.asarray(positions, np.int64)]).numpy()


@contextlib.contextmanager
def outside_graphs() -> Iterator[None]:
    """Make eager tensors in main memory, which the functions of pipelines capture as inputs.

    Constants would be copied with every graph, and images would exceed its limit of 2 GB.
    """
    with tf.init_scope(), tf.device("CPU:0"):
        yield


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """Turn TensorFlow's errors about unreadable images into a DataError, which names the file of an
    image folder. Wrap iteration or `fit` over streamed data in it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        message = str(error.message)
        known = re.search(r"DataError: ([^\n]*)", message)
        if known:
            raise DataError(known.group(1).strip()) from error
        if UNREADABLE.search(message) or isinstance(error, tf.errors.DataLossError):
            raise DataError(
                "Records must be intact and images of one size. Received: "
                f"{one_line(message)[:200]}. Prepare the data set again, or set image_size."
            ) from error
        raise
