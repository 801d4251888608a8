"""Where zoos and downloaded files are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from bnas_larq.resources import zoo_dir

#: Environment variable: folders of entries, separated as in PATH.
SEARCH_PATH = "BNAS_LARQ_ZOO"


def keras_home() -> Path:
    """Where Keras keeps what it downloads: the variable KERAS_HOME, or ~/.keras."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser()


def user_zoo() -> Path:
    """The user's own zoo, where `zoo publish` and `zoo import` put entries; it need not exist."""
    return keras_home() / "bnas_larq" / "zoo"


def cache_dir() -> Path:
    """Where downloaded files are kept, beside Keras' own."""
    return keras_home() / "bnas_larq" / "downloads"


def zoos() -> tuple[Path, ...]:
    """All folders of entries, in the order of search; some may not exist.

    Raises:
        BnasLarqError: bnas_larq is installed without its zoo.
    """
    named = [Path(part).expanduser() for part in os.environ.get(SEARCH_PATH, "").split(os.pathsep)]
    return (*(path for path in named if path != Path()), user_zoo(), zoo_dir())
