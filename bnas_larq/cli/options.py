"""Options that several commands share, and what they do with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.errors import RecipeError, RunError

if TYPE_CHECKING:
    from bnas_larq.recipe import Recipe
    from bnas_larq.run.recipe_run import Run


_RUN_OPTIONS = (
    click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a recipe's key, such as search.epochs=3. Repeatable.",
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="The run's folder. Default: runs/ and the run's name.",
    ),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out where it stopped."),
    click.option("--overwrite", is_flag=True, help="Replace an earlier run in --out."),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs."),
)


_RECIPE_OPTIONS = (
    click.argument("recipe"),
    click.option(
        "--data-dir",
        help="Where the data set is: a TFDS directory, or with --set data.name=folder a folder "
        "of class folders.",
    ),
)


def run_options(function: Callable) -> Callable:
    """Add the options of every command that starts a run."""
    for option in reversed(_RUN_OPTIONS):
        function = option(function)
    return function


def recipe_options(function: Callable) -> Callable:
    """Add the argument RECIPE and the options of every command that starts a run from one."""
    function = run_options(function)
    for option in reversed(_RECIPE_OPTIONS):
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
    *,
    stages: Collection[str],
) -> Run:
    """Load the recipe with all overrides and open its run folder, locked until the command ends.

    Args:
        stages: what the command is going to do, of `search` and `train`.

    Raises:
        BnasLarqError: the recipe, the data or the folder are not fit for it; nothing was written.
        click.UsageError: a training without a genotype.
    """
    check_flags(resume, overwrite)
    resolved = _resolve(recipe, overrides, data_dir, seed, genotype)
    path = out or Path("runs") / resolved.name
    if resolved.layer_study is not None:
        stages = _stages_of_study(resolved, stages)

    from bnas_larq.run_folder import RunFolder

    given = resolved.genotype is not None or resolved.finetune is not None
    if not given and resolved.layer_study is None and "search" not in stages:
        if not (resume and RunFolder(path).stage_done("search")):
            raise click.UsageError(
                "Training needs a genotype. Received: none. "
                "Give --genotype, or --resume and as --out a folder with a finished search."
            )
    return begin(
        resolved,
        path,
        stages=stages,
        resume=resume,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )


def _stages_of_study(recipe: Recipe, stages: Collection[str]) -> Collection[str]:
    """What of a layer study must fit the data; RecipeError unless it can be run, and as a whole."""
    from bnas_larq.run.layer_study import check_study

    if not {"search", "train"} <= set(stages):
        raise RecipeError(
            "A layer study is run as a whole. Received: a recipe with layer_study for one step. "
            "Use `bnas-larq run`."
        )
    check_study(recipe)
    return ("train",)


def check_flags(resume: bool, overwrite: bool) -> None:
    """Raise RunError for --resume with --overwrite."""
    if resume and overwrite:
        raise RunError(
            "A run is either resumed or replaced. Received: --resume and --overwrite. "
            "Give one of them."
        )


def begin(recipe: Recipe, path: Path, **settings: Any) -> Run:
    """Open the run folder `path` for a resolved recipe, locked until the command ends.

    Args:
        settings: as of `bnas_larq.run.creation.start_workflow`, which also says what it raises.
    """
    from bnas_larq.run.creation import start_workflow

    return _locked_until_the_end(start_workflow(recipe, path, **settings))


def opened(path: Path, *, lock: bool = True) -> Run:
    """The workflow of the run folder `path`, locked until the command ends unless `lock` is False.

    Raises:
        RunError: `path` is no run folder, or another process is at work in it.
    """
    from bnas_larq.run.creation import open_workflow

    return _locked_until_the_end(open_workflow(path, lock=lock))


def _resolve(
    recipe: str,
    overrides: tuple[str, ...],
    data_dir: str | None,
    seed: int | None,
    genotype: str | None,
) -> Recipe:
    """The recipe with all overrides and absolute paths."""
    import json

    from bnas_larq.recipe import load_recipe

    extra = list(overrides)
    if data_dir is not None:
        # JSON is YAML: quotes keep a folder's name from being read as a number.
        extra.append(f"data.data_dir={json.dumps(data_dir)}")
    if seed is not None:
        extra.append(f"seed={seed}")
    if genotype is not None:
        extra.append(f"genotype={json.dumps(genotype)}")
    resolved = load_recipe(recipe, extra)
    if data_dir is not None and resolved.data.name == "digits":
        raise RecipeError(
            f"The embedded digits are in no folder. Received: --data-dir {data_dir} with "
            "data.name digits. Add --set data.name=folder, or the name of a TFDS data set."
        )
    return absolute(resolved)


def absolute(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths: a run is opened from any folder."""
    changes = {}
    if recipe.data.data_dir is not None:
        folder = str(Path(recipe.data.data_dir).expanduser().resolve())
        changes["data"] = recipe.data.model_copy(update={"data_dir": folder})
    if recipe.genotype is not None and Path(recipe.genotype).is_file():
        changes["genotype"] = str(Path(recipe.genotype).resolve())
    if recipe.finetune is not None and Path(recipe.finetune.entry).is_dir():
        from bnas_larq.run.finetuning import reference

        entry = reference(recipe.finetune.entry)
        changes["finetune"] = recipe.finetune.model_copy(update={"entry": entry})
    cost = recipe.search.cost
    if cost is not None and cost.table is not None:
        table = str(Path(cost.table).expanduser().resolve())
        pinned = cost.model_copy(update={"table": table})
        changes["search"] = recipe.search.model_copy(update={"cost": pinned})
    return recipe.model_copy(update=changes)


def _locked_until_the_end(workflow: Run) -> Run:
    click.get_current_context().call_on_close(workflow.folder.unlock)
    return workflow


class Numbers(click.ParamType):
    """Whole numbers from `minimum` on, `12`, `8,12` or `8-20`, as a list."""

    name = "numbers"

    def __init__(self, minimum: int = 1) -> None:
        self.minimum = minimum

    def convert(self, value, param, ctx):
        """The numbers in `value`, sorted."""
        found: set[int] = set()
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
            numbers = match and range(int(match[1]), int(match[2] or match[1]) + 1)
            if not numbers or numbers[0] < self.minimum:
                self.fail(f"{value!r} is no number, list such as 8,12 or range such as 8-20.")
            found.update(numbers)
        return sorted(found)


class ImageSize(click.ParamType):
    """Height and width of images, `224` or `96x128`."""

    name = "size"

    def convert(self, value, param, ctx):
        """(height, width)."""
        match = re.fullmatch(r"([1-9]\d{0,4})(?:[x×]([1-9]\d{0,4}))?", str(value))
        if not match:
            self.fail(f"{value!r} is no size such as 224 or 96x128.")
        return int(match[1]), int(match[2] or match[1])
