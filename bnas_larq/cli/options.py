"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_OPTIONS = (
    click.argument("recipe"),
    click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a recipe's key, such as search.epochs=3. Repeatable."),
    click.option("--out", type=click.Path(path_type=Path), help="The run's folder. Default: runs/RECIPE."),
    click.option("--data-dir", help="Where the data set is: a TFDS directory or a folder of images."),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out where it stopped."),
    click.option("--overwrite", is_flag=True, help="Replace an earlier run in --out."),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs."),
)


def recipe_options(function: Callable) -> Callable:
    """Add the argument RECIPE and the options of every command that starts a run."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def start(
    recipe: str,
    overrides: tuple[str, ...],
    out: Path | None,
    data_dir: str | None,
    seed: int | None,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    genotype: str | None = None,
) -> Any:
    """Load the recipe with all overrides and open its run folder: a `Workflow`."""
    import json

    from bnas_larq.errors import RunError
    from bnas_larq.recipe import load_recipe

    extra = list(overrides)
    if data_dir is not None:
        # JSON is YAML: quotes keep a folder's name from being read as a number.
        extra.append(f"data.data_dir={json.dumps(str(Path(data_dir).expanduser().resolve()))}")
    if seed is not None:
        extra.append(f"seed={seed}")
    if genotype is not None:
        file = Path(genotype)
        extra.append(f"genotype={json.dumps(str(file.resolve()) if file.is_file() else genotype)}")
    resolved = load_recipe(recipe, extra)
    if resume and overwrite:
        raise RunError("A run is either resumed or replaced. Received: --resume and --overwrite. Give one of them.")
    path = out or Path("runs") / resolved.name

    # TensorFlow is loaded only now, when the recipe is known to be sound.
    from bnas_larq.cli.workflow import start_workflow

    return start_workflow(resolved, path, resume=resume, overwrite=overwrite, tensorboard=tensorboard)
