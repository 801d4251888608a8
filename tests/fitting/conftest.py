"""Trainings that repeat their bits."""

from __future__ import annotations

import pytest

from bnas_larq.determinism import make_deterministic


@pytest.fixture(scope="module")
def deterministic() -> None:
    make_deterministic(0)
