"""What a measured step is fed with; `tests/cli/test_benchmark.py` runs the measurements."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.benchmark.steps import Feed
from bnas_larq.errors import DataError


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_search_reads_two_different_halves_or_noise(name):
    feed = Feed.open(name, None, (8, 8))
    (first, labels), (second, _) = next(iter(feed.bilevel_batches(16)))
    assert first.shape == second.shape == (16, 8, 8, 3)
    assert labels.shape == (16,) and feed.num_classes == 10
    assert np.array_equal(first, second) == (name == "synthetic")


def test_data_that_cannot_be():
    with pytest.raises(DataError, match="not read from a folder"):
        Feed.open("synthetic", "/tmp", (8, 8))
    with pytest.raises(DataError, match="batch size 5000"):
        Feed.open("digits", None, (8, 8)).batches(5000)
