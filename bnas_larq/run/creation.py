"""Opens run folders for the commands: a new one only after everything that goes into it is sound.

Nothing is written or replaced for a recipe that cannot be run: names are checked first, which
takes no TensorFlow, then the data and what depends on them.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bnas_larq.errors import RunError
from bnas_larq.files import write_json
from bnas_larq.genotype import Genotype
from bnas_larq.run_folder import RunFolder
from bnas_larq.spaces import SearchSpace

if TYPE_CHECKING:
    from bnas_larq.recipe import Recipe
    from bnas_larq.run.recipe_run import Run


PACKAGES = (
    "bnas-larq",
    "tensorflow",
    "tf-keras",
    "larq",
    "larq-compute-engine",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
)


def open_workflow(path: Path, *, lock: bool = True, tensorboard: bool = False) -> Run:
    """The workflow of an existing run folder, with the recipe it began with.

    Raises:
        RunError: no run folder, its recipe cannot be read, or (with `lock`) another process is at
            work in it.
    """
    folder = RunFolder.open(path, lock=lock)
    recipe = recipe_of(folder)
    from bnas_larq.run.recipe_run import Run

    return Run(folder, recipe, tensorboard)


def start_workflow(
    recipe: Recipe,
    path: Path,
    *,
    stages: Collection[str],
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
) -> Run:
    """The workflow of a new run folder, or with `resume` of the one that is there.

    Args:
        stages: what is going to be done, of `search` and `train`: decides what must fit the data.

    Raises:
        RunError: the folder exists (without `resume` or `overwrite`), or belongs to another recipe.
        BnasLarqError: the recipe names what does not exist, or does not fit the data.
    """
    recipe = _pinned(recipe, path)
    if resume and (path / "recipe.yaml").is_file():
        return _resumed(recipe, path, tensorboard)
    if recipe.data.name == "folder":
        RunFolder.check_outside(path, recipe.data.data_dir)
    RunFolder.check_new(path, overwrite=overwrite)
    if recipe.genotype is None:
        SearchSpace.named(recipe.search.space)
    else:
        Genotype.load(recipe.genotype)
    from bnas_larq.console import say
    from bnas_larq.run.recipe_run import Run

    if resume:
        say(f"nothing to resume in {path}: a new run begins")
    workflow = Run(RunFolder(path), recipe, tensorboard)
    workflow.check(stages)
    workflow.folder = RunFolder.create(path, recipe.to_yaml(), overwrite=overwrite)
    write_json(workflow.folder / "environment.json", environment(recipe.seed))
    return workflow


def _resumed(recipe: Recipe, path: Path, tensorboard: bool) -> Run:
    folder = RunFolder.open(path, lock=True)
    begun = recipe_of(folder)
    if recipe.finetune and begun.finetune and recipe.finetune.sha256 != begun.finetune.sha256:
        raise RunError(
            "A fine-tuning goes on with the weights it began with. "
            f"Received: {recipe.finetune.entry}, whose weights are not those that "
            f"{path / 'recipe.yaml'} names. Restore them, or choose another --out."
        )
    # Alarms change no weight: a search that one of them stopped may go on with others.
    alarms = {"alarms": recipe.search.alarms}
    begun = begun.model_copy(update={"search": begun.search.model_copy(update=alarms)})
    check_recipe(recipe, begun, path)
    if not (folder / "environment.json").is_file():  # killed before it was written
        write_json(folder / "environment.json", environment(recipe.seed))
    from bnas_larq.run.recipe_run import Run

    return Run(folder, begun, tensorboard)


def check_recipe(recipe: Recipe, begun: Recipe, path: Path) -> None:
    """Raise RunError unless `recipe` is the one that the run in the folder `path` began with."""
    differing = [
        key for key in type(recipe).model_fields if getattr(recipe, key) != getattr(begun, key)
    ]
    if differing:
        raise RunError(
            "A run is resumed with the recipe it began with. "
            f"Received: another {', '.join(differing)} than in {path / 'recipe.yaml'}. "
            "Leave the change away, or choose another --out."
        )


def _pinned(recipe: Recipe, path: Path) -> Recipe:
    """A fine-tuning's recipe with the sum of the weights it begins with."""
    if recipe.finetune is None:
        return recipe
    from bnas_larq.run.finetuning import check_out, pinned

    check_out(recipe, path)
    return recipe.model_copy(update={"finetune": pinned(recipe.finetune)})


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe that a run began with; RunError or RecipeError when it cannot be read."""
    from bnas_larq.recipe import parse_recipe

    path = folder / "recipe.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(
            f"A run's recipe.yaml must be readable. Received: {path}. "
            "Restore it or start a new run."
        ) from error
    return parse_recipe(values)


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine, for a run's environment.json."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": _cores(),
        "seed": seed,
        "command": ["bnas-larq", *sys.argv[1:]],
        "packages": versions,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
