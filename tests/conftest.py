"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As the command line does.
gc.set_threshold(10_000)


def pytest_configure(config: pytest.Config) -> None:
    """Files in their order: pytest-xdist would leave those of few tests, which are the command
    line's slow ones, to the end, where one worker has nothing else to do."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared folder (fixtures and data), which is not part of the repository."""
    folder = Path(os.environ.get("BNAS_LARQ_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("the folder ../shared with fixtures and data is absent (set BNAS_LARQ_SHARED)")
    return folder


@pytest.fixture
def full_disk() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with full_disk(100):` the system lets no file grow beyond 100 bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="only POSIX systems limit file sizes")

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def with_statistics():
    """Gives a model weights as after training: no BatchNorm, slope or shift is the identity."""

    def randomise(model):
        generator = np.random.default_rng(1)
        for weight in model.weights:
            if any(part in weight.name for part in ("gamma", "variance")):
                weight.assign(generator.uniform(0.5, 1.5, weight.shape))
            elif any(part in weight.name for part in ("beta", "mean", "bias", "alpha", "shift")):
                weight.assign(generator.normal(0, 0.3, weight.shape))
        return model

    return randomise


@pytest.fixture(scope="session")
def edge_by_edge() -> Callable:
    """The reference form of the mixed cell."""
    from reference_cell import edge_by_edge

    return edge_by_edge


@pytest.fixture(scope="session")
def authors(shared: Path) -> Callable:
    """Opens a fixture of the authors' program by name; skips where ../shared is absent."""
    from authors_file import AuthorsFile

    def open_file(name: str):
        path = shared / "fixtures" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"the fixture {path} is absent")
        return AuthorsFile(path)

    return open_file


@pytest.fixture(scope="session")
def varied_pictures(tmp_path_factory):
    """A small ImageNet: `load_dataset(**varied_pictures.source(kind))` with the kind "tfds" or
    "folder"."""
    from varied_pictures import VariedPictures

    return VariedPictures(tmp_path_factory.mktemp("varied"))


@pytest.fixture
def registry() -> Iterator[None]:
    """Forgets what a test registers."""
    from bnas_larq import spaces
    from bnas_larq.layers import operations

    books = (spaces._OPERATIONS, operations._FACTORIES, operations._SHARING)
    kept = [dict(book) for book in books]
    yield
    for book, content in zip(books, kept, strict=True):
        book.clear()
        book.update(content)


@pytest.fixture(scope="session")
def small_spaces() -> None:
    """From here on recipes may name the spaces of small_spaces.py."""
    importlib.import_module("small_spaces")
