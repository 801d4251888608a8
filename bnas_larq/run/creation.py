"""What a run is created with: its recipe, resolved and pinned once, and a record of the machine.

Nothing here loads TensorFlow, but for a fine-tuning's source and a precision to measure: a mistake
in a recipe is answered at once.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from bnas_larq.errors import RecipeError, RunError
from bnas_larq.genotype import Genotype, genotype_file
from bnas_larq.machine import installed_version, usable_cores
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import Recipe, load_recipe, override_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.run.targets import STAGE, WEIGHT_KINDS, find_source, find_target
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.setting_types import Section
from bnas_larq.spaces import SearchSpace
from bnas_larq.train_settings import with_sources

PACKAGES = (
    *("bnas-larq", "tensorflow", "tf-keras", "larq", "larq-compute-engine"),
    *("tensorflow-datasets", "numpy", "scikit-learn"),
)


def override_texts(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """Overrides `{"a.b": value}` or texts `a.b=value`, as texts."""
    if not isinstance(overrides, Mapping):
        return list(overrides)

    def plain(value: Path | Section) -> Any:
        return os.fspath(value) if isinstance(value, Path) else value.model_dump(mode="json")

    # JSON is YAML: quotes keep a folder's name from being read as a number.
    return [f"{key}={json.dumps(value, default=plain)}" for key, value in overrides.items()]


def resolve_recipe(
    recipe: str | Path | Recipe, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> Recipe:
    """A recipe that means the same from any folder: paths absolute, names checked.

    Args:
        recipe: a shipped name, a YAML file, or a recipe.
        overrides: `{"a.b": value}`, or texts `a.b=value`.

    Raises:
        RecipeError: no such recipe, an unknown key, an impossible value, or stages in a recipe that
            trains otherwise.
        BnasLarqError: an unknown search space, genotype or network.
    """
    overrides = override_texts(overrides)
    if isinstance(recipe, Recipe):
        recipe = override_recipe(recipe.model_dump(), overrides) if overrides else recipe
    else:
        recipe = load_recipe(recipe, overrides)
    if needs_search(recipe):
        SearchSpace.named(recipe.search.space)
    elif recipe.genotype is not None:
        Genotype.load(recipe.genotype)
    check_plan(recipe)
    return _with_absolute_paths(recipe)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    changes = {}
    if recipe.data.data_dir is not None:
        folder = str(Path(recipe.data.data_dir).resolve())
        changes["data"] = recipe.data.model_copy(update={"data_dir": folder})
    if recipe.genotype is not None:
        file, name = genotype_file(recipe.genotype)
        if file.is_file():
            changes["genotype"] = ":".join(filter(None, (str(file.resolve()), name)))
    if recipe.finetune is not None and Path(recipe.finetune.entry).is_dir():
        entry = find_source(recipe.finetune.entry).reference
        changes["finetune"] = recipe.finetune.model_copy(update={"entry": entry})
    changes["train"] = with_sources(recipe.train, _with_absolute_path, os.path.abspath)
    cost = recipe.search.cost
    if cost is not None and cost.table is not None:
        pinned = cost.model_copy(update={"table": str(Path(cost.table).resolve())})
        changes["search"] = recipe.search.model_copy(update={"cost": pinned})
    return recipe.model_copy(update=changes)


def _with_absolute_path(text: str, digest: str | None) -> tuple[str, str | None]:
    if Path(text).exists():
        text = find_target(text, WEIGHT_KINDS, STAGE).reference
    return text, digest


def needs_search(recipe: Recipe) -> bool:
    """Whether the genotype is still to be found."""
    return recipe.has_genotype and recipe.genotype is None and recipe.finetune is None


def check_request(
    recipe: Recipe, path: Path, stages: Collection[str], *, resume: bool, overwrite: bool
) -> None:
    """Refuse what no run can do, whatever its data are; see `Run.create` for the arguments.

    Raises:
        RunError: contradicting flags, or a training without a genotype.
        RecipeError: a single step of a study.
    """
    if resume and overwrite:
        raise RunError(
            "A run is either resumed or replaced. Received: --resume and --overwrite. "
            "Give one of them."
        )
    if recipe.study is not None and "study" not in stages:
        raise RecipeError(
            f"A study is run as a whole. Received: a recipe with {recipe.study} for one step. "
            "Use `bnas-larq run`."
        )
    if not recipe.has_genotype and set(stages) == {"search"}:
        raise RecipeError(
            "Only networks of cells are searched. "
            f"Received: network.kind {recipe.network.kind}. Use `bnas-larq train` or `run`."
        )
    if needs_search(recipe) and set(stages) == {"train"}:
        if not (resume and RunFolder(path).stage_done("search")):
            raise RunError(
                "Training needs a genotype. Received: none. "
                "Give --genotype, or --resume and as --out a folder with a finished search."
            )


def check_new(recipe: Recipe, path: Path, *, overwrite: bool) -> None:
    """Raise RunError unless a new run may be written to `path`, and RecipeError if it sets a key
    that would change nothing (which runs of earlier releases may do); nothing is touched."""
    check_keys_are_read(recipe)
    if recipe.data.name == "folder":
        RunFolder.check_outside(path, recipe.data.data_dir)
    RunFolder.check_new(path, overwrite=overwrite)


def pin_source(recipe: Recipe, path: Path, resumed: bool = False) -> Recipe:
    """The recipe with the SHA-256 of all weights that its training starts or learns from: of those
    that are there now, or that the run `resumed` in `path` began with, once it is trained. A
    study's networks check theirs themselves.

    Raises:
        ZooError, RunError: there is no such network, or the run's folder `path` would replace it.
    """
    named = any(stage.starts_elsewhere or stage.learns_elsewhere for stage in recipe.plan)
    if recipe.finetune is None and not named:
        return recipe
    if resumed and (recipe.study or RunFolder(path).stage_done("train")):
        return _pinned_as(recipe, recipe_of(RunFolder(path)))
    from bnas_larq.run.finetune_source import check_out, pin_weights
    from bnas_larq.run.stage_sources import pinned

    check_out(recipe, path)
    train = with_sources(recipe.train, pinned, str)
    finetune = recipe.finetune and pin_weights(recipe.finetune)
    return recipe.model_copy(update={"train": train, "finetune": finetune})


def _pinned_as(recipe: Recipe, begun: Recipe) -> Recipe:
    """The recipe with each SHA-256 that `begun` has."""
    known: dict[str, str | None] = {}
    with_sources(begun.train, lambda *source: (source[0], known.setdefault(*source)), str)
    if begun.finetune is not None:
        known[begun.finetune.entry] = begun.finetune.sha256

    def pin(text: str, digest: str | None) -> tuple[str, str | None]:
        # A path to what is gone was not recognised as one.
        text = text if text in known else os.path.abspath(text)
        return text, digest or known.get(text)

    changes: dict[str, Any] = {"train": with_sources(recipe.train, pin, str)}
    if tuning := recipe.finetune:
        entry, digest = pin(tuning.entry, tuning.sha256)
        changes["finetune"] = tuning.model_copy(update={"entry": entry, "sha256": digest})
    return recipe.model_copy(update=changes)


def one_precision(recipe: Recipe, folder: Path) -> dict[str, str]:
    """What every precision `auto` of a recipe means in a study or comparison, as overrides: it is
    measured once, and then read from the folder's precision.json. On a busy machine each network
    would find another answer, and a difference of precision would look like one of networks."""
    train = recipe.train
    asked = {"train.mixed_precision": train.mixed_precision}
    if recipe.genotype is None and recipe.network.kind == "cells":
        asked["search.mixed_precision"] = recipe.search.mixed_precision
    for number, stage in enumerate(train.stages):
        if "mixed_precision" in stage.own_keys:
            asked[f"train.stages.{number}.mixed_precision"] = stage.mixed_precision
    keys = [key for key, precision in asked.items() if precision == "auto"]
    if not keys:
        return {}
    from bnas_larq.precision import recorded_precision

    return dict.fromkeys(keys, recorded_precision(folder, "auto").name)


def check_same_recipe(recipe: Recipe, begun: Recipe, path: Path) -> None:
    """Raise RunError unless `recipe` is the one that the run in the folder `path` began with."""
    if recipe.finetune and begun.finetune and recipe.finetune.sha256 != begun.finetune.sha256:
        raise RunError(
            "A fine-tuning resumes with the weights it began with. "
            f"Received: {recipe.finetune.entry}, whose weights are not those that "
            f"{path / 'recipe.yaml'} names. Restore them, or choose another --out."
        )
    differing = [
        key for key in type(recipe).model_fields if getattr(recipe, key) != getattr(begun, key)
    ]
    if differing:
        raise RunError(
            "A run is resumed with the recipe it began with. "
            f"Received: another {', '.join(differing)} than in {path / 'recipe.yaml'}. "
            "Undo the change, or choose another --out."
        )


def environment(seed: int) -> dict[str, Any]:
    """Versions and machine, for a run's environment.json."""
    context = click.get_current_context(silent=True)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "seed": seed,
        "command": ["python"] if context is None else ["bnas-larq", *sys.argv[1:]],
        "packages": {package: installed_version(package) for package in PACKAGES},
    }
