"""What tests of search cells share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cell_comparison import EXACT, cache_of

from bnas_larq.layers.quantizers import register_scheme


@pytest.fixture(scope="module")
def exact_scheme() -> Iterator[None]:
    """The scheme `test-exact`, whose scales are powers of two."""
    register_scheme("test-exact", EXACT)
    yield
    cache_of.cache_clear()
