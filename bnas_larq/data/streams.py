"""Examples with sequential access, for record files too large for memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.draws import uniforms
from bnas_larq.data.examples import Examples
from bnas_larq.data.tfds_records import Records

SHUFFLE_BUFFER = 8192  # undecoded images


class StreamedExamples(Examples):
    """Ranges of a record source, shuffled through a seeded buffer of undecoded images.

    `load_dataset` chooses it for parts that exceed `memory_limit_mb`. Images are read, decoded and
    resized in every epoch, on the cores that train. Each stream (the two halves of a search have
    one each) holds `SHUFFLE_BUFFER` undecoded images, 0.9 GB of ImageNet's 110 kB files, and an
    epoch starts with a wait while that buffer fills, unless batches were prefetched.

    Labels are unknown before reading. Splits are ranges from a seeded position on; TFDS shuffles
    records when it writes them, so a range is a fair sample.

    Args:
        records: the source, with a size.
        ranges: (start, stop) pairs of positions, ascending, disjoint.
    """

    streamed = True
    labels = None

    def __init__(self, records: Records, ranges: Sequence[tuple[int, int]]):
        self.records = records
        self.ranges = tuple((int(start), int(stop)) for start, stop in ranges)
        self.num_examples = sum(stop - start for start, stop in self.ranges)
        self.image_shape = (*records.size, 3)

    @classmethod
    def whole(cls, records: Records) -> StreamedExamples:
        """All examples of a source."""
        return cls(records, [(0, records.num_examples)])

    def positions(self) -> np.ndarray:
        """The positions in the source of all examples held here, ascending."""
        return np.concatenate([np.arange(start, stop) for start, stop in self.ranges])

    def first(self, limit: int | None, seed: int) -> StreamedExamples:
        """`limit` examples from a seeded position on; all if `limit` is None or not smaller."""
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

    def _at(self, slices: list[tuple[int, int]]) -> StreamedExamples:
        """Slices count the examples held here, ranges the positions in the source."""
        ranges = []
        offset = 0
        for start, stop in self.ranges:
            for first, last in slices:
                low = max(start, start + first - offset)
                high = min(stop, start + last - offset)
                if low < high:
                    ranges.append((low, high))
            offset += stop - start
        return StreamedExamples(self.records, ranges)

    @functools.cached_property
    def _stored(self) -> tf.data.Dataset:
        # Built eagerly even if first needed inside a pipeline's function, which then captures it.
        with tf.init_scope():
            parts = [self.records.encoded(start, stop) for start, stop in self.ranges]
            return functools.reduce(lambda before, after: before.concatenate(after), parts)

    def epoch(self, seed: int, epoch: int | tf.Tensor, shuffle: bool = True) -> tf.data.Dataset:
        """See `Examples.epoch`."""
        stored = self._stored
        if shuffle:
            size = min(SHUFFLE_BUFFER, self.num_examples)

            def shuffled(number: tf.Tensor) -> tf.data.Dataset:
                # Dataset.shuffle mixes the graph's seed into its own.
                tf.compat.v1.set_random_seed(1)
                draw = uniforms(seed, number, tf.constant([self.num_examples], tf.int64), 2)[0]
                draw = tf.cast(draw * 2.0**24, tf.int64)
                key = draw[0] * 2**24 + draw[1]
                return stored.shuffle(size, seed=key, reshuffle_each_iteration=False)

            stored = tf.data.Dataset.from_tensors(tf.cast(epoch, tf.int64)).flat_map(shuffled)
        dataset = stored.map(
            lambda image, label, index: (
                self.records.decode(image),
                self.records.checked(label),
                index,
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return dataset.apply(tf.data.experimental.assert_cardinality(self.num_examples))

    def fingerprint(self) -> str:
        """See `Examples.fingerprint`: over the source's name and version, and the ranges."""
        return hashlib.sha256(f"{self.records.name} {self.ranges}".encode()).hexdigest()
