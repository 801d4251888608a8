"""Examples that can only be read one after the other, for record files too large for memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.draws import uniforms
from bnas_larq.data.examples import Examples

SHUFFLE_BUFFER = 8192  # undecoded images held for shuffling


class RecordSource(Protocol):
    """What a stream needs of its source (`tfds_records.Records`)."""

    num_examples: int
    name: str
    size: tuple[int, int]

    def encoded(self, start: int, stop: int) -> tf.data.Dataset:
        """(undecoded image, int64 label, int64 position) of a range of positions."""

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """The uint8 image [height, width, 3]."""


class StreamedExamples(Examples):
    """Ranges of a record source, shuffled through a seeded buffer of undecoded images.

    Every image is read and decoded again in every epoch: this is what `memory_limit_mb` of
    `load_dataset` chooses for a part that it cannot hold. The price is the decoding (and resizing)
    in the cores that train, a buffer of `SHUFFLE_BUFFER` undecoded images per stream (0.9 GB of
    ImageNet's files of 110 kB; the two halves of a search hold one each), and a wait at the start
    of an epoch while the buffer fills, which only batches read ahead can hide.

    Labels are unknown before reading. A split cuts ranges, beginning at a seeded place; TFDS has
    shuffled the records when it wrote them, so a range is a fair sample.

    Args:
        records: the source.
        ranges: (start, stop) pairs of positions, ascending, disjoint.
    """

    streamed = True
    labels = None

    def __init__(self, records: RecordSource, ranges: Sequence[tuple[int, int]]):
        self.records = records
        self.ranges = tuple((int(start), int(stop)) for start, stop in ranges)
        self.num_examples = sum(stop - start for start, stop in self.ranges)
        self.image_shape = (*records.size, 3)

    @classmethod
    def whole(cls, records: RecordSource) -> StreamedExamples:
        """All examples of a source."""
        return cls(records, [(0, records.num_examples)])

    def positions(self) -> np.ndarray:
        """The positions in the source of all examples held here, ascending."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.ranges])

    def first(self, limit: int | None, seed: int) -> StreamedExamples:
        """`limit` examples from a seeded place on; all when `limit` is None or not smaller."""
        if limit is None or limit >= self.num_examples:
            return self
        return self._cut(limit, seed)[0]

    def split(self, fraction: float, seed: int) -> tuple[Examples, Examples]:
        """See `Examples.split`."""
        self.check_split(fraction)
        return self._cut(round(fraction * self.num_examples), seed)

    def _cut(self, count: int, seed: int) -> tuple[StreamedExamples, StreamedExamples]:
        start = int(np.random.RandomState(seed % 2**32).randint(self.num_examples))
        end = start + count
        wrapped = end - self.num_examples
        if wrapped <= 0:
            inside, outside = [(start, end)], [(0, start), (end, self.num_examples)]
        else:
            inside, outside = [(0, wrapped), (start, self.num_examples)], [(wrapped, start)]
        return self._at(inside), self._at(outside)

    def _at(self, places: list[tuple[int, int]]) -> StreamedExamples:
        """Places count the examples held here, ranges the positions in the source."""
        ranges = []
        offset = 0
        for start, stop in self.ranges:
            for first, last in places:
                low = max(start, start + first - offset)
                high = min(stop, start + last - offset)
                if low < high:
                    ranges.append((low, high))
            offset += stop - start
        return StreamedExamples(self.records, ranges)

    @functools.cached_property
    def _stored(self) -> tf.data.Dataset:
        # Built eagerly even when first needed inside a pipeline's function, which then captures it.
        with tf.init_scope():
            parts = [self.records.encoded(start, stop) for start, stop in self.ranges]
            return functools.reduce(lambda before, after: before.concatenate(after), parts)

    def epoch(self, seed: int, epoch: int | tf.Tensor, shuffle: bool = True) -> tf.data.Dataset:
        """See `Examples.epoch`."""
        stored = self._stored
        if shuffle:
            size = min(SHUFFLE_BUFFER, self.num_examples)

            def shuffled(number: tf.Tensor) -> tf.data.Dataset:
                # Dataset.shuffle mixes the graph's seed into its own; pinned, the order depends on
                # nothing else.
                tf.compat.v1.set_random_seed(1)
                draw = uniforms(seed, number, tf.constant([self.num_examples], tf.int64), 2)[0]
                draw = tf.cast(draw * 2.0**24, tf.int64)
                key = draw[0] * 2**24 + draw[1]
                return stored.shuffle(size, seed=key, reshuffle_each_iteration=False)

            stored = tf.data.Dataset.from_tensors(tf.cast(epoch, tf.int64)).flat_map(shuffled)
        dataset = stored.map(
            lambda image, label, place: (self.records.decode(image), label, place),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(self.num_examples))

    def fingerprint(self) -> str:
        """See `Examples.fingerprint`: over the source's name and version, and the ranges."""
        return hashlib.sha256(f"{self.records.name} {self.ranges}".encode()).hexdigest()
