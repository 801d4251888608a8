"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared folder (fixtures and data), which is not part of the repository."""
    folder = Path(os.environ.get("BNAS_LARQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("the folder ../shared with fixtures and data is absent (set BNAS_LARQ_SHARED)")
    return folder
