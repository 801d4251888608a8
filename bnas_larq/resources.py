"""Finds the recipes and published networks, so that nobody else builds paths to them.

The wheel holds them as `bnas_larq/_recipes` and `bnas_larq/_zoo` (see `package_dir` in setup.py);
a checkout, also after `pip install -e .`, has `recipes/` and `zoo/` beside the package.
"""

from __future__ import annotations

from pathlib import Path

from bnas_larq.errors import BnasLarqError, RecipeError, nearest

_PACKAGE = Path(__file__).resolve().parent


def recipes_dir() -> Path:
    """The folder of the recipes that ship with bnas_larq.

    Raises:
        BnasLarqError: the installation is incomplete.
    """
    return _data_dir("recipes")


def zoo_dir() -> Path:
    """The folder of the networks published with bnas_larq, one folder each.

    Raises:
        BnasLarqError: the installation is incomplete.
    """
    return _data_dir("zoo")


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes, sorted: what `recipe_path` accepts."""
    return tuple(sorted(path.stem for path in recipes_dir().glob("*.yaml")))


def recipe_path(name: str) -> Path:
    """The YAML file of a shipped recipe.

    Raises:
        RecipeError: no shipped recipe has this name; the message hints at the nearest one.
    """
    names = recipe_names()
    if name not in names:
        raise RecipeError(
            "A recipe is the name of a shipped one or the path of a YAML file. "
            f"Received: {name!r}; {nearest(name, names)}"
        )
    return recipes_dir() / f"{name}.yaml"


def _data_dir(name: str) -> Path:
    installed, checkout = _PACKAGE / f"_{name}", _PACKAGE.parent / name
    for folder in (installed, checkout):
        if folder.is_dir():
            return folder
    raise BnasLarqError(
        f"bnas_larq's folder of {name} must be installed with it. "
        f"Received: neither {installed} nor {checkout} exists. Install bnas-larq again."
    )
