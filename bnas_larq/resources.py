"""Where recipes and published networks are; no other module builds paths to them.

The wheel holds them as `bnas_larq/_recipes` and `bnas_larq/_zoo` (see `package_dir` in setup.py);
a checkout, also after `pip install -e .`, has `recipes/` and `zoo/` beside the package.
"""

from __future__ import annotations

import os
from pathlib import Path

from bnas_larq.errors import BnasLarqError, RecipeError, nearest
from bnas_larq.files import expand_home

#: Environment variable: folders of zoo entries, separated as in PATH.
SEARCH_PATH = "BNAS_LARQ_ZOO"
_PACKAGE = Path(__file__).resolve().parent


def recipes_dir() -> Path:
    """The folder of the recipes that ship with bnas_larq; BnasLarqError if it is not installed."""
    return _data_dir("recipes")


def zoo_dir() -> Path:
    """The folder of the networks that ship with bnas_larq; BnasLarqError if it is not installed."""
    return _data_dir("zoo")


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted: what `recipe_path` accepts."""
    return tuple(sorted(path.stem for path in recipes_dir().glob("*.yaml")))


def recipe_path(name: str) -> Path:
    """The YAML file of a shipped recipe; RecipeError with the nearest name if there is none."""
    names = recipe_names()
    if name not in names:
        raise RecipeError(
            "A recipe is the name of a shipped one or the path of a YAML file. "
            f"Received: {name!r}; {nearest(name, names)}"
        )
    return recipes_dir() / f"{name}.yaml"


def keras_home() -> Path:
    """Where Keras keeps what it downloads: the variable KERAS_HOME, or ~/.keras."""
    return Path(expand_home(os.environ.get("KERAS_HOME") or "~/.keras"))


def user_zoo() -> Path:
    """The user's own zoo, where `zoo publish` and `zoo import` put entries; it need not exist."""
    return keras_home() / "bnas_larq" / "zoo"


def cache_dir() -> Path:
    """Where downloaded files are kept, beside Keras' own."""
    return keras_home() / "bnas_larq" / "downloads"


def index_dir() -> Path:
    """Where indices of large data sets are kept, see `bnas_larq.data.kept_index`."""
    return keras_home() / "bnas_larq" / "indices"


def zoos() -> tuple[Path, ...]:
    """All folders of entries, in the order of search; some may not exist. Errors: see `zoo_dir`."""
    named = [Path(expand_home(p)) for p in os.environ.get(SEARCH_PATH, "").split(os.pathsep)]
    return (*(path for path in named if path != Path()), user_zoo(), zoo_dir())


def _data_dir(name: str) -> Path:
    installed, checkout = _PACKAGE / f"_{name}", _PACKAGE.parent / name
    for folder in (installed, checkout):
        if folder.is_dir():
            return folder
    raise BnasLarqError(
        f"bnas_larq's folder of {name} must be installed with it. "
        f"Received: neither {installed} nor {checkout} exists. Install bnas-larq again."
    )
