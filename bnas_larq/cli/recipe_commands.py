"""`bnas-larq recipes`: the shipped recipes, and each with every default filled in."""

from __future__ import annotations

import click

from bnas_larq.cli.groups import HintingGroup
from bnas_larq.cli.options import NAME_OR_PATH
from bnas_larq.console import print_result
from bnas_larq.errors import RecipeError, one_line
from bnas_larq.resources import recipe_names, recipe_path
from bnas_larq.text_files import read_yaml


@click.group(cls=HintingGroup)
def command() -> None:
    """List the shipped recipes, or show one."""


@command.command("list")
def list_recipes() -> None:
    """Names and descriptions of the shipped recipes."""
    names = recipe_names()
    width = max(map(len, names), default=0)
    for name in names:
        print_result(f"{name:{width}}  {_description(name)}")


@command.command("show", short_help="Print a recipe as it would run.")
@click.argument("recipe", type=NAME_OR_PATH)
def show(recipe: str) -> None:
    """Print RECIPE as it would run, every default filled in.

    RECIPE is a shipped name or the path of a YAML file.
    """
    # It loads pydantic, which is slow to import.
    from bnas_larq.recipe import load_recipe

    print_result(load_recipe(recipe).to_yaml().rstrip())


def _description(name: str) -> str:
    """The recipe's own `description`, without resolving the recipe."""
    path = recipe_path(name)
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise RecipeError(
            "A recipe must be readable YAML. "
            f"Received: {path} ({one_line(error)}). Install bnas-larq again."
        ) from error
    description = content.get("description") if isinstance(content, dict) else None
    return one_line(description or "(no description)")
