"""The recipes and the zoo are found from here, a checkout; test_wheel.py finds them installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.resources import (
    keras_home,
    recipe_names,
    recipe_path,
    recipes_dir,
    zoo_dir,
    zoos,
)


def test_folders_exist_and_hold_no_python():
    for folder in (recipes_dir(), zoo_dir()):
        assert isinstance(folder, Path) and folder.is_dir()
        assert not list(folder.rglob("*.py"))


def test_every_recipe_is_found_by_its_name():
    assert "quickstart" in recipe_names()
    for name in recipe_names():
        assert recipe_path(name).is_file() and recipe_path(name).stem == name


@pytest.mark.parametrize("name", ["quickstrat", "../setup", "", "quickstart.yaml"])
def test_an_unknown_recipe_is_answered_with_the_nearest(name):
    with pytest.raises(RecipeError, match=r"shipped one or the path .* Received: ") as error:
        recipe_path(name)
    if name == "quickstrat":
        assert "did you mean 'quickstart'?" in str(error.value)


@pytest.mark.parametrize(("name", "asked"), [("KERAS_HOME", keras_home), ("BNAS_LARQ_ZOO", zoos)])
def test_a_variable_may_name_a_home_folder_that_exists(monkeypatch, name, asked):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv(name, "~/other")
    assert "/home/me/other" in str(asked())
    monkeypatch.setenv(name, "~nobody-here/other")
    with pytest.raises(BnasLarqError, match="home folder that exists. Received: '~nobody-here/o"):
        asked()
