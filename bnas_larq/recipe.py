"""Recipes: everything a run depends on, as YAML with a fixed schema."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import pydantic
import yaml

from bnas_larq.data_settings import DataSettings
from bnas_larq.errors import RecipeError, first_problem, nearest, one_line
from bnas_larq.files import expand_home
from bnas_larq.resources import recipe_names, recipe_path
from bnas_larq.setting_types import PlainName, Section, UserPath
from bnas_larq.settings import (
    ExportSettings,
    NetworkSettings,
    SearchSettings,
)
from bnas_larq.study_settings import AblationSettings, FacesSettings, LayerStudySettings
from bnas_larq.text_files import parse_yaml, read_yaml
from bnas_larq.train_settings import (
    FineTuneSettings,
    TrainSettings,
    TrainStage,
    training_plan,
)

#: Recipes that extend one another, and sections inside one another: more than any recipe needs.
_MAX_PARENTS, _MAX_SECTIONS = 20, 10


class Recipe(Section):
    """Everything a run depends on: data, search, network, training, export.

    Attributes:
        description: one line for `bnas-larq recipes list`.
        genotype: skip the search and use this one: a file, a published name or `random:SEED`.
        finetune: start from another network's weights, genotype and size; None for new weights.
        layer_study, ablation, faces: a study instead of a single network; None for a plain run.
    """

    name: PlainName = "recipe"
    description: str = ""
    # NumPy's limit.
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    genotype: UserPath | None = None
    data: DataSettings = DataSettings()
    search: SearchSettings = SearchSettings()
    network: NetworkSettings = NetworkSettings()
    train: TrainSettings = TrainSettings()
    finetune: FineTuneSettings | None = None
    layer_study: LayerStudySettings | None = None
    ablation: AblationSettings | None = None
    faces: FacesSettings | None = None
    export: ExportSettings = ExportSettings()

    @property
    def study(self) -> str | None:
        """The section that makes it a study; None for a plain run."""
        kinds = ("layer_study", "ablation", "faces")
        return next((kind for kind in kinds if getattr(self, kind) is not None), None)

    @property
    def plan(self) -> tuple[TrainStage, ...]:
        """The stages of the training, each with all its keys."""
        return training_plan(self.train, self.finetune)

    @property
    def crops_originals(self) -> bool:
        """Whether some training cuts random crops from pictures in their own size: of the recipe,
        one of its stages, or a row of its ablation."""

        def crops(value: Any) -> bool:
            if isinstance(value, Mapping):
                return bool(value.get("random_resized_crop")) or any(map(crops, value.values()))
            return isinstance(value, list | tuple) and any(map(crops, value))

        return crops(self.model_dump())

    @property
    def has_genotype(self) -> bool:
        """Whether its network is made of a genotype's cells."""
        return self.network.kind == "cells"

    def to_yaml(self) -> str:
        """The resolved recipe as YAML; the inverse of `load_recipe`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def known_keys(model: type[pydantic.BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """All dotted keys of a recipe, such as `search.epochs`, with those of sections in a list, such
    as `train.stages.epochs`."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        # An optional section is a union with None, and there are lists of sections.
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                keys += known_keys(kind, f"{prefix}{name}.")
    return keys


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a shipped name or a YAML file, with `extends: NAME` and overrides `a.b=value`.

    Raises:
        RecipeError: no such recipe, damaged YAML, an unknown key or an impossible value.
    """
    return override_recipe(load_values(source), overrides)


def load_values(source: str | Path) -> dict[str, Any]:
    """The values of a recipe and of those it extends, without defaults and not yet validated."""
    values = _with_parents(source, seen=[])
    values.setdefault("name", Path(str(source)).stem)
    return values


def override_recipe(values: Mapping[str, Any], overrides: Iterable[str]) -> Recipe:
    """Apply overrides `a.b=value` to a recipe's values and validate it; see `load_recipe`."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _override(changed, override)
    return parse_recipe(changed)


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """Validate a recipe's values; RecipeError names the first invalid one."""
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as error:
        first = first_problem(error)
        if first["type"] == "extra_forbidden":
            *section, last = first["loc"]
            section, start = _known_key(section), ""
            if section:
                start = f"{re.sub(r'[.][0-9]+', '', section)}."
                section = f"{section}."
            siblings = [k[len(start) :] for k in known_keys() if k.startswith(start)]
            raise RecipeError(
                f"A recipe has fixed keys. Received: {section + str(last)!r}; "
                f"{nearest(str(last), [k for k in siblings if '.' not in k])}"
            ) from error
        key = re.sub(r"([.][0-9]+)+$", "", _known_key(first["loc"]))
        raise RecipeError(
            f"A recipe's {key!r} must be valid: {first['msg']}. "
            f"Received: {first['input']!r}. Correct the value."
        ) from error


def _known_key(location: Iterable[str | int]) -> str:
    """The known key nearest to a problem's location, with the numbers of a list's items: pydantic
    also names members of a union, as in `data.image_size.int`."""
    known, path, parts = set(known_keys()), [], []
    for part in location:
        if isinstance(part, int) or ".".join([*path, part]) in known:
            path += [part] if isinstance(part, str) else []
            parts.append(str(part))
    return ".".join(parts)


def _read(source: str | Path) -> tuple[dict[str, Any], Path]:
    """The YAML mapping of a shipped recipe or a file, and its path."""
    text = expand_home(str(source))
    looks_like_path = text.endswith((".yaml", ".yml")) or "/" in text or Path(text).is_file()
    path = Path(text) if looks_like_path else recipe_path(text)
    try:
        values = read_yaml(path)
    except FileNotFoundError as error:
        raise RecipeError(
            f"A recipe is a YAML file or a shipped name. Received: {text!r}, which does not exist; "
            f"{nearest(text, recipe_names())}"
        ) from error
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"A recipe must be readable YAML. Received: {path} ({one_line(error)}). "
            "Repair the file."
        ) from error
    if not isinstance(values, dict):
        raise RecipeError(
            f"A recipe must be a YAML mapping of sections. Received: {path}, which holds "
            f"{type(values).__name__}. See `bnas-larq recipes show quickstart`."
        )
    return values, path


def _with_parents(source: str | Path, seen: list[str]) -> dict[str, Any]:
    values, path = _read(source)
    resolved = str(path.resolve())
    if resolved in seen:
        raise RecipeError(
            f"A recipe cannot extend itself. Received: a cycle through {path}. "
            "Remove one `extends`."
        )
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str) or len(seen) == _MAX_PARENTS:
        raise RecipeError(
            f"A recipe extends one other by its name or path, at most {_MAX_PARENTS} in a row. "
            f"Received: {one_line(repr(parent))[:80]} in {path}. Correct `extends`."
        )
    sibling = path.parent / parent
    inherited = _with_parents(sibling if sibling.is_file() else parent, [*seen, resolved])
    inherited.pop("name", None)
    return merge_values(inherited, values)


def merge_values(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; values of `over` win, and lists are replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_values(merged[key], value) if nested else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not key.strip() or len(path) > _MAX_SECTIONS:
        raise RecipeError(
            "An override is KEY=VALUE, such as search.epochs=3. "
            f"Received: {one_line(repr(override))[:80]}."
        )
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise RecipeError(
            f"An override's value must be YAML. Received: {override!r} ({one_line(error)})."
        ) from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string, because it has no decimal point.
        try:
            value = float(value)
        except ValueError:
            pass
    section = values
    for part in path:
        if isinstance(section, dict):
            section = section.setdefault(part, {})
        else:  # a list's items have numbers: train.stages.0.epochs
            section = dict(enumerate(section)).get(int(part)) if part.isdecimal() else None
        if not isinstance(section, dict if part == path[-1] else dict | list | tuple):
            raise RecipeError(
                f"An override must name a key inside a section. Received: {override!r}; "
                f"{part!r} is a value."
            )
    section[last] = value
