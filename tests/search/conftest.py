"""Made-up data to search in."""

from __future__ import annotations

import pytest

from bnas_larq.backend import tf
from bnas_larq.data import EpochPipeline
from bnas_larq.search import SearchData

STEPS, BATCH = 3, 4


def half(offset: int) -> EpochPipeline:
    """Three batches of four images 8×8 of two classes, each a function of its number."""

    def batch(number):
        labels = tf.random.stateless_uniform([BATCH], [number, offset], maxval=2, dtype=tf.int64)
        noise = tf.random.stateless_normal([BATCH, 8, 8, 3], [number, offset + 2])
        return noise + tf.cast(labels, tf.float32)[:, None, None, None], labels

    def epoch(number, first):
        return tf.data.Dataset.range(number * STEPS + first, (number + 1) * STEPS).map(batch)

    return EpochPipeline(epoch, STEPS)


@pytest.fixture
def search_data() -> SearchData:
    """Both halves, and held-out images that also give credit."""
    held_out = half(9).epoch(99)
    return SearchData(half(0), half(1), held_out, held_out)
