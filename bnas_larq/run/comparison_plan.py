"""The plan of a comparison: every method's recipe, all with the same budget.

A budget is a partial recipe. Its sections `data`, `network`, `train` and `export` replace those of
every method, and so do the keys `BUDGET_KEYS` of its `search`; the rest of `search` stays the
method's, scaled by the rules of `bnas_larq.run.budget_scaling`. A supernet gets the template of the
networks that are trained in the end (`TEMPLATE_KEYS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bnas_larq.data_settings import DataSettings
from bnas_larq.errors import RecipeError, nearest
from bnas_larq.recipe import Recipe, load_values, override_recipe, parse_recipe
from bnas_larq.recipe_checks import unread_keys
from bnas_larq.run.budget_scaling import BUDGET_KEYS, NEEDED_KEYS, Adaptation, adapt
from bnas_larq.run.creation import override_texts, resolve_recipe
from bnas_larq.run.random_draws import drawn_space, random_seeds

if TYPE_CHECKING:
    from bnas_larq.data import ImageDataset

#: Sections that the budget gives as a whole, so that all networks are trained alike.
SHARED_SECTIONS = ("data", "network", "train", "export")
#: Keys of `network` that the supernet of every method gets, too.
TEMPLATE_KEYS = ("stem", "shortcut", "scheme")
#: Method of the rows of random genotypes.
RANDOM = "random"
#: Keys that differ between the runs of a comparison.
_RUN_KEYS = ("name", "seed", "genotype", "finetune", "layer_study", "ablation", "faces")
#: Keys of a searcher's own section that plan.json repeats: no budget gives them.
_OWN_KEYS = {
    "tuner": ("oracle", "trials", "epochs"),
    "one_shot": ("population", "generations", "examples"),
}


# -- the budget and the runs -----------------------------------------------------------------------


class PlannedRun(NamedTuple):
    """One run of a comparison; `name` is its folder's."""

    name: str
    method: str
    seed: int
    recipe: Recipe
    adaptations: tuple[Adaptation, ...] = ()
    #: The method's own values in shared sections, unlike the budget's: `network.cells 20`.
    unused: tuple[str, ...] = ()

    def with_seed(self, seed: int) -> PlannedRun:
        """The run with another seed of its training."""
        return self._replace(seed=seed, recipe=self.recipe.model_copy(update={"seed": seed}))

    def describe(self) -> dict[str, Any]:
        """Its entry of plan.json: all but the recipe, which has a file of its own."""
        search = self.recipe.search
        searcher = search.searcher if self.recipe.genotype is None else None
        own = {
            section: {key: getattr(getattr(search, section), key) for key in keys}
            for section, keys in _OWN_KEYS.items()
            if searcher == section.replace("_", "-")
        }
        return {
            "name": self.name,
            "method": self.method,
            "seed": self.seed,
            "searcher": searcher,
            "space": search.space,
            "genotype": self.recipe.genotype,
            "adapted": [adaptation._asdict() for adaptation in self.adaptations],
            "tuner": None,
            **own,
        }


def load_budget(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A budget with overrides `a.b=value` of its keys.

    Raises:
        RecipeError: no such recipe, or keys that are unknown or left to the methods.
    """
    values = load_values(source)
    budget = override_recipe(values, overrides)
    known = ("name", "description", "search", *SHARED_SECTIONS)
    for key in values:
        if key not in known:
            raise RecipeError(
                f"A budget is what all methods share. Received: {key!r}; {nearest(key, known)}"
            )
    search = values.get("search") or {}
    for key in search:
        if key not in BUDGET_KEYS:
            raise RecipeError(
                "A budget leaves it to each method how to search. "
                f"Received: 'search.{key}'; {nearest(key, BUDGET_KEYS)}"
            )
    if not budget.has_genotype:
        raise RecipeError(
            "A comparison trains networks of cells. "
            f"Received: network.kind {budget.network.kind}. Remove it."
        )
    missing = [f"search.{key}" for key in NEEDED_KEYS if key not in search]
    if missing:
        raise RecipeError(
            "A budget says how much every method may search. "
            f"Received: none of {', '.join(missing)}. Add them."
        )
    return budget


def plan(
    methods: Sequence[str | Path],
    budget: str | Path,
    seeds: Sequence[int],
    draws: int,
    overrides: Sequence[str] = (),
    random_ops: tuple[float, float] | None = None,
) -> tuple[Recipe, list[PlannedRun]]:
    """The budget as a recipe, and all runs of a comparison, seed by seed; all recipes resolved.

    Args:
        methods: recipes, shipped names or YAML files.
        budget: a partial recipe, likewise.
        draws: random genotypes from each space that some method searches.
        overrides: `a.b=value`, for every run's recipe; they win over methods and budget.
        random_ops: least and most operations, counted honestly, of the random genotypes' networks.

    Raises:
        RecipeError, GenotypeError: a recipe is wrong, two methods share a name, or random genotypes
            of a space have other operations than `random_ops`.
    """
    for key in map(_key, overrides):
        if key.partition(".")[0] in _RUN_KEYS:
            raise RecipeError(
                "A comparison sets the keys that differ between its runs. "
                f"Received: --set {key}. Use METHODS and --seeds."
            )
    shared = load_budget(budget, [override for override in overrides if _is_shared(_key(override))])
    named: dict[str, dict[str, Any]] = {}
    for method in methods:
        values = load_values(method)
        name = str(values["name"])
        if name in named or name == RANDOM:
            raise RecipeError(
                f"Each method needs a name of its own, other than {RANDOM!r}. "
                f"Received: {name!r}{' twice' if name in named else ''}. Set its key `name`."
            )
        named[name] = values
    # With any number of images, to refuse a wrong recipe or override before they are counted.
    for name, values in named.items():
        resolve_recipe(_method_run(name, values, shared, seeds[0], overrides, 10**6).recipe)
    data = _described(shared.data)
    images = data.train.num_examples
    drawn: dict[str, list[int]] = {}
    runs: list[PlannedRun] = []
    for index, seed in enumerate(seeds):
        runs += [_method_run(name, named[name], shared, seed, overrides, images) for name in named]
        spaces = dict.fromkeys(drawn_space(run.recipe) for run in runs if not run.recipe.genotype)
        spaces = spaces or ["bnas"]
        last = draws if index == len(seeds) - 1 else min(index + 1, draws)
        for space in spaces:
            drawn.setdefault(space, random_seeds(space, draws, random_ops, shared, data))
        runs += [
            _random_run(space, drawn[space][place], shared, seeds[place % len(seeds)], overrides)
            for place in range(index, last)
            for space in spaces
        ]
    runs = [run._replace(recipe=resolve_recipe(run.recipe)) for run in runs]
    return resolve_recipe(shared), runs


def _described(settings: DataSettings) -> ImageDataset:
    """The data set without a limit; its images are not read."""
    from bnas_larq.data import load_described

    unlimited = {"limit": None, "validation_fraction": 0.0, "memory_limit_mb": 1}
    return load_described(settings.model_copy(update=unlimited), seed=0)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _is_shared(key: str) -> bool:
    """Whether a key is one that a budget gives."""
    section, _, rest = key.partition(".")
    return section in SHARED_SECTIONS or (section == "search" and rest in BUDGET_KEYS)


def _method_run(
    name: str,
    values: Mapping[str, Any],
    budget: Recipe,
    seed: int,
    overrides: Sequence[str],
    images: int,
) -> PlannedRun:
    own = parse_recipe(values)
    for key in ("finetune", "layer_study", "ablation", "faces"):
        if getattr(own, key) is not None:
            raise RecipeError(
                "A comparison takes searches and given genotypes. "
                f"Received: {name!r}, whose recipe has {key}. Remove it."
            )
    if own.genotype is None and own.search.searcher == "progressive":
        raise RecipeError(
            "A comparison searches in supernets of the same cells. "
            f"Received: {name!r}, whose stages have {list(own.search.progressive.cells)} cells. "
            "Leave it out, or set its search.searcher to gradient."
        )
    adaptations = adapt(own, budget, images) if own.genotype is None else []
    search = own.search.model_dump(mode="json")
    search |= {key: getattr(budget.search, key) for key in BUDGET_KEYS}
    search |= {key: getattr(budget.network, key) for key in TEMPLATE_KEYS}
    for adaptation in adaptations:
        section, _, key = adaptation.key.rpartition(".")
        (search[section] if section else search)[key] = adaptation.used
    merged = {
        **_shared(budget),
        "name": f"{name}-seed{seed}",
        "description": own.description,
        "seed": seed,
        "genotype": own.genotype,
        "search": search,
    }
    recipe = _overridden(merged, overrides)
    tuned = recipe.search.tuner.hyperparameters
    if recipe.genotype is None and recipe.search.searcher == "tuner" and tuned:
        raise RecipeError(
            "A comparison trains all networks alike. Received: "
            f"{name!r}, whose search.tuner.hyperparameters has {', '.join(tuned)}. Remove it."
        )
    overridden = set(map(_key, overrides))
    used = tuple(entry for entry in adaptations if f"search.{entry.key}" not in overridden)
    unused = _differing(
        {key: values[key] for key in SHARED_SECTIONS if key in values},
        own.model_dump(mode="json"),
        budget.model_dump(mode="json"),
    )
    return PlannedRun(recipe.name, name, seed, recipe, used, tuple(unused))


def _overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """A run's recipe. An override for some of the methods is nothing to the others."""
    recipe = override_recipe(values, overrides)
    return override_recipe(recipe.model_dump(), override_texts(unread_keys(recipe)))


def _differing(
    values: Mapping[str, Any], own: Mapping[str, Any], budget: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Keys that a recipe's YAML `values` set, with the recipe's value, where the budget differs."""
    differing = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            differing += _differing(value, own[key], budget[key], f"{prefix}{key}.")
        elif own[key] != budget[key]:
            differing.append(f"{prefix}{key} {own[key]}")
    return differing


def _random_run(
    space: str, draw: int, budget: Recipe, seed: int, overrides: Sequence[str]
) -> PlannedRun:
    """A random genotype of a space, trained like those that are searched."""
    merged = {
        **_shared(budget),
        "name": f"{RANDOM}-{space}-{draw}",
        "seed": seed,
        "genotype": f"random:{space}:{draw}",
        "search": {"space": space},
    }
    recipe = _overridden(merged, overrides)
    return PlannedRun(recipe.name, f"{RANDOM} ({space})", seed, recipe)


def _shared(budget: Recipe) -> dict[str, Any]:
    return {key: getattr(budget, key).model_dump(mode="json") for key in SHARED_SECTIONS}


# -- as text ---------------------------------------------------------------------------------------


def plan_text(budget: Recipe, runs: Sequence[PlannedRun]) -> str:
    """What will be run, and how each method's own settings are scaled to the budget."""
    keys = ", ".join(f"{key} {getattr(budget.search, key)}" for key in BUDGET_KEYS)
    network, (epochs, batches) = budget.network, stage_numbers(budget)
    lines = [
        f"budget {budget.name}: search: {keys}",
        f"  network: cells {network.cells}, channels {network.channels}, scheme {network.scheme}; "
        f"train: epochs {epochs}, batch_size {batches}",
        "",
    ]
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        search = own[0].recipe.search
        source = f"searcher {search.searcher}, space {search.space}"
        if own[0].recipe.genotype is not None:
            source = "no search; genotype " + ", ".join(str(run.recipe.genotype) for run in own)
        lines.append(f"{method}: {source}; runs: {', '.join(run.name for run in own)}")
        lines += [
            f"  search.{entry.key} {entry.own:g} -> {entry.used:g} ({entry.rule})"
            for entry in own[0].adaptations
        ]
        if own[0].unused:
            lines.append(f"  not used, the budget's count: {', '.join(own[0].unused)}")
        lines += [f"  {note}" for note in searcher_notes([own[0].describe()])]
    return "\n".join([*lines, "", f"{len(runs)} runs"])


def stage_numbers(budget: Recipe) -> tuple[str, str]:
    """Epochs of all stages of a budget's training, and their batch sizes, as text."""
    epochs = [str(stage.epochs) for stage in budget.plan]
    batches = [str(stage.batch_size) for stage in budget.plan]
    return " + ".join(epochs), " + ".join(batches if len(set(batches)) > 1 else batches[:1])


def searcher_notes(planned: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each method in the entries of a plan.json that keras-tuner searches, or one-shot, how
    much it trains and measures: the budget does not say."""
    notes = {}
    for run in planned:
        if tuner := run.get("tuner"):
            most, upto = ("at most ", "up to ") if tuner["oracle"] == "hyperband" else ("", "")
            notes[run["method"]] = (
                f"{run['method']} is searched by keras-tuner ({tuner['oracle']}): it trains "
                f"{most}{tuner['trials']} networks for {upto}{tuner['epochs']} epochs each, its "
                "own numbers, on the whole training part, and measures them on the validation "
                "part; search.limit and the budget's other keys of search do not apply to it."
            )
        if shot := run.get("one_shot"):
            examples = shot["examples"]
            images = "all images" if examples is None else f"at most {examples:,} images"
            notes[run["method"]] = (
                f"{run['method']} is a one-shot search: an epoch trains its weights on all images "
                "of the search, so that it has twice the steps, and its genotype is the best of up "
                f"to {shot['population'] * shot['generations']:,} that were measured on {images} "
                "of the validation part."
            )
    return list(notes.values())
