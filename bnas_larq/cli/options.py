"""Options that several commands share, and what they do with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnas_larq.errors import RecipeError
from bnas_larq.files import expand_home

if TYPE_CHECKING:
    from bnas_larq.recipe import Recipe
    from bnas_larq.run.recipe_run import Run


class _FromHome:
    """A click type whose values may begin with `~`."""

    def convert(self, value, param, ctx):
        return super().convert(expand_home(value), param, ctx)


class PathType(_FromHome, click.Path):
    """A path."""


class NameOrPathType(_FromHome, type(click.STRING)):
    """A name or a path: which of the two, the command finds out."""


PATH, NAME_OR_PATH = PathType(path_type=Path), NameOrPathType()


def with_options(*options: Callable) -> Callable:
    """A decorator that adds options and arguments in this order."""
    return lambda command: reduce(lambda inner, option: option(inner), reversed(options), command)


#: Adds the options of every command that starts a run.
run_options = with_options(
    click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a recipe's key, such as search.epochs=3. Repeatable.",
    ),
    click.option("--out", type=PATH, help="The run's folder. Default: runs/ and the run's name."),
    click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random."),
    click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped."),
    click.option("--overwrite", is_flag=True, help="Replace an earlier run in --out."),
    click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs."),
)
gpu_memory_option = click.option(
    "--gpu-memory",
    metavar="growth|MB",
    help="Allocate GPU memory as it is needed, or at most this many megabytes on each GPU. Default: "
    "all of it; growth in a search by keras-tuner.",
)
#: Adds the options of commands that search and train on devices of the user's choice.
device_options = with_options(
    click.option(
        "--strategy",
        type=click.Choice(["mirrored", "multi-worker", "tpu"]),
        help="Search and train on all GPUs of this machine, on the machines that TF_CONFIG names "
        "(the same command on each), or on a TPU. batch_size is that of all together.",
    ),
    gpu_memory_option,
)
#: Adds the argument RECIPE and the options of every command that starts a run from one.
recipe_options = with_options(
    click.argument("recipe", type=NAME_OR_PATH),
    click.option(
        "--data-dir",
        type=NAME_OR_PATH,
        help="Where the data set is: a TFDS directory, or with --set data.name=folder a folder "
        "of class folders.",
    ),
    run_options,
)


def resolve(
    recipe: str,
    overrides: Sequence[str],
    data_dir: str | None = None,
    seed: int | None = None,
    genotype: str | None = None,
) -> Recipe:
    """The recipe that a command's options ask for; RecipeError when they do not fit together.

    TensorFlow is not loaded for it: a misspelt name is answered at once.
    """
    from bnas_larq.run.creation import resolve_recipe

    named = {"data.data_dir": data_dir, "seed": seed, "genotype": genotype}
    resolved = resolve_recipe(recipe, with_named(overrides, named))
    if data_dir is not None and resolved.data.name == "digits":
        raise RecipeError(
            f"The embedded digits are in no folder. Received: --data-dir {data_dir} with "
            "data.name digits. Add --set data.name=folder, or the name of a TFDS data set."
        )
    return resolved


def device_settings(strategy: str | None, gpu_memory: str | None) -> dict[str, str]:
    """What `device_options` mean to `Run.create`; the memory of GPUs is set at once."""
    if gpu_memory is not None:
        from bnas_larq.strategies import set_gpu_memory

        set_gpu_memory(gpu_memory)
    return {} if strategy is None else {"strategy": strategy}


def with_named(overrides: Sequence[str], named: Mapping[str, Any]) -> list[str]:
    """Overrides of --set, and those of options with a name of their own, which win if given."""
    from bnas_larq.run.creation import override_texts

    given = {key: value for key, value in named.items() if value is not None}
    return [*overrides, *override_texts(given)]


def open_run(text: str) -> Run:
    """The run in a folder, which is not locked.

    Raises:
        ZooError: `text` names no run.
        RunError: its recipe cannot be read.
    """
    from bnas_larq.run.targets import Kind, find_target

    command = click.get_current_context().info_name
    target = find_target(text, (Kind.RUN,), f"`bnas-larq {command}`")
    from bnas_larq.run.recipe_run import Run

    return closed_at_the_end(Run.open(target.path, lock=False))


def closed_at_the_end(run: Any) -> Any:
    """`run`, whose folder is unlocked when the command ends."""
    click.get_current_context().call_on_close(run.close)
    return run


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
                self.fail(
                    f"{value!r} is no number, list such as 8,12 or range such as 8-20, from "
                    f"{self.minimum} to 9999."
                )
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
