"""What a comparison is going to run: every method's recipe, with one budget for all of them.

A budget is a recipe too. Its sections `data`, `network`, `train` and `export` count for every
method, and of `search` the keys in `BUDGET_KEYS`; everything else in `search` stays the method's.
What the method says for its own number of epochs and its own batch is scaled, see
`bnas_larq.run.comparison_scaling`. Its own sections that the budget gives are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bnas_larq.errors import RecipeError, nearest
from bnas_larq.recipe import Recipe, load_values, merge_values, override_recipe, parse_recipe
from bnas_larq.run.comparison_scaling import Adaptation, adapt
from bnas_larq.spaces import SearchSpace

#: Sections that the budget gives as a whole, so that all networks are trained equally.
SHARED_SECTIONS = ("data", "network", "train", "export")
#: Keys of `search` that the budget may give, and those that it must.
BUDGET_KEYS = ("cells", "channels", "epochs", "batch_size", "limit", "mixed_precision")
NEEDED_KEYS = BUDGET_KEYS[:4]
#: Method of the rows of random genotypes.
RANDOM = "random"
#: Keys that tell the runs of a comparison from each other.
_OWN_KEYS = ("name", "seed", "genotype", "finetune", "layer_study")
#: What plan.json says of `search.tuner`, which no budget gives.
_TUNER_KEYS = ("oracle", "trials", "epochs")


class PlannedRun(NamedTuple):
    """One run of a comparison; `name` is its folder's."""

    name: str
    method: str
    seed: int
    recipe: Recipe
    adaptations: tuple[Adaptation, ...] = ()
    #: What the method says of the shared sections, other than the budget: `network.cells 20`.
    unused: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """For plan.json, without the recipe, which has a file of its own."""
        searched = self.recipe.genotype is None
        tuned = searched and self.recipe.search.searcher == "tuner"
        tuner = {key: getattr(self.recipe.search.tuner, key) for key in _TUNER_KEYS}
        return {
            "name": self.name,
            "method": self.method,
            "seed": self.seed,
            "searcher": self.recipe.search.searcher if searched else None,
            "space": self.recipe.search.space,
            "genotype": self.recipe.genotype,
            "adapted": [one._asdict() for one in self.adaptations],
            "tuner": tuner if tuned else None,
        }


def tuner_notes(planned: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each method that keras-tuner searches, how much it trains: not what the budget says.

    Args:
        planned: runs as `PlannedRun.describe` gives them.
    """
    found = {}
    for one in planned:
        if tuner := one.get("tuner"):
            most, upto = ("at most ", "up to ") if tuner["oracle"] == "hyperband" else ("", "")
            found[one["method"]] = (
                f"{one['method']} is searched by keras-tuner ({tuner['oracle']}): it trains "
                f"{most}{tuner['trials']} networks for {upto}{tuner['epochs']} epochs each, its "
                "own numbers, on the whole training part, and measures them on the validation "
                "part; search.limit and the budget's other keys of search do not count for it."
            )
    return list(found.values())


def load_budget(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A budget with overrides `a.b=value`, which may only be such as a budget gives.

    Raises:
        RecipeError: no such recipe, or keys that are a method's or not known.
    """
    values = load_values(source)
    recipe = override_recipe(values, overrides)
    _check_budget(values)
    return recipe


def _check_budget(values: Mapping[str, Any]) -> None:
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
                "A budget leaves to the method how it searches. "
                f"Received: 'search.{key}'; {nearest(key, BUDGET_KEYS)}"
            )
    missing = [key for key in NEEDED_KEYS if key not in search]
    if missing:
        raise RecipeError(
            "A budget says how much every method may search. Received: none of "
            f"{', '.join(f'search.{key}' for key in missing)}. Add them."
        )


def plan(
    methods: Sequence[str],
    budget: str,
    seeds: Sequence[int],
    draws: int,
    overrides: Sequence[str] = (),
) -> tuple[Recipe, list[PlannedRun]]:
    """The budget as a recipe, and all runs of a comparison, seed by seed.

    Args:
        methods: recipes, shipped names or YAML files.
        budget: a recipe too.
        draws: random genotypes from each space that some method searches.
        overrides: `a.b=value`, of every run's recipe, whatever methods and budget say.

    Raises:
        RecipeError: of a recipe; two methods have one name.
        GenotypeError: an unknown space.
    """
    given = [override.partition("=")[0].strip() for override in overrides]
    for key in given:
        if key.partition(".")[0] in _OWN_KEYS:
            raise RecipeError(
                "A comparison sets by itself what tells its runs from each other. "
                f"Received: --set {key}. Use METHODS and --seeds."
            )
    shared = load_budget(
        budget, [one for one, key in zip(overrides, given, strict=True) if _is_shared(key)]
    )
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
    runs, spaces = [], []
    for index, seed in enumerate(seeds):
        for name, values in named.items():
            run = _method_run(name, values, shared, seed, overrides)
            runs.append(run)
            space = run.recipe.search.space
            if run.recipe.genotype is None and space not in spaces:
                SearchSpace.named(space)
                spaces.append(space)
        last = draws if index == len(seeds) - 1 else min(index + 1, draws)
        runs += [
            _random_run(space, draw, shared, seeds[draw % len(seeds)], overrides)
            for draw in range(index, last)
            for space in spaces or ["bnas"]
        ]
    return shared, runs


def _is_shared(key: str) -> bool:
    """Whether a key is one that a budget gives."""
    section, _, rest = key.partition(".")
    return section in SHARED_SECTIONS or (section == "search" and rest in BUDGET_KEYS)


def _method_run(
    name: str, values: Mapping[str, Any], budget: Recipe, seed: int, overrides: Sequence[str]
) -> PlannedRun:
    own = parse_recipe(values)
    for key in ("finetune", "layer_study"):
        if getattr(own, key) is not None:
            raise RecipeError(
                "A comparison is of searches and given genotypes. "
                f"Received: {name!r}, whose recipe has {key}. Leave it out."
            )
    adaptations = [] if own.genotype is not None else adapt(own.search, budget.search)
    search = {key: getattr(budget.search, key) for key in BUDGET_KEYS}
    for one in adaptations:
        section, _, key = one.key.rpartition(".")
        search = merge_values(search, {section: {key: one.used}} if section else {key: one.used})
    merged = {
        **_shared(budget),
        "name": f"{name}-seed{seed}",
        "description": own.description,
        "seed": seed,
        "genotype": own.genotype,
        "search": merge_values(own.search.model_dump(mode="json"), search),
    }
    recipe = override_recipe(merged, overrides)
    tuned = recipe.search.tuner.hyperparameters
    if recipe.genotype is None and recipe.search.searcher == "tuner" and tuned:
        raise RecipeError(
            "Every network of a comparison is trained equally. Received: "
            f"{name!r}, whose search.tuner.hyperparameters has {', '.join(tuned)}. Leave it out."
        )
    given = {override.partition("=")[0].strip() for override in overrides}
    kept = tuple(one for one in adaptations if f"search.{one.key}" not in given)
    unused = _differing(
        {key: values[key] for key in SHARED_SECTIONS if key in values},
        own.model_dump(mode="json"),
        budget.model_dump(mode="json"),
    )
    return PlannedRun(recipe.name, name, seed, recipe, kept, tuple(unused))


def _differing(
    said: Mapping[str, Any], own: Mapping[str, Any], budget: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """Keys that a recipe says, with its values, where the budget has others."""
    found = []
    for key, value in said.items():
        if isinstance(value, Mapping):
            found += _differing(value, own[key], budget[key], f"{prefix}{key}.")
        elif own[key] != budget[key]:
            found.append(f"{prefix}{key} {own[key]}")
    return found


def _random_run(
    space: str, draw: int, budget: Recipe, seed: int, overrides: Sequence[str]
) -> PlannedRun:
    """A random genotype of a space, trained as the found ones are."""
    merged = {
        **_shared(budget),
        "name": f"{RANDOM}-{space}-{draw}",
        "seed": seed,
        "genotype": f"random:{space}:{draw}",
        "search": {"space": space},
    }
    recipe = override_recipe(merged, overrides)
    return PlannedRun(recipe.name, f"{RANDOM} ({space})", seed, recipe)


def _shared(budget: Recipe) -> dict[str, Any]:
    return {key: getattr(budget, key).model_dump(mode="json") for key in SHARED_SECTIONS}


def plan_text(budget: Recipe, runs: Sequence[PlannedRun]) -> str:
    """What is going to be run, and how each method's own settings follow the budget."""
    search = ", ".join(f"{key} {getattr(budget.search, key)}" for key in BUDGET_KEYS)
    lines = [f"budget {budget.name}: search: {search}"]
    network, train = budget.network, budget.train
    lines += [
        f"  network: cells {network.cells}, channels {network.channels}, scheme {network.scheme}; "
        f"train: epochs {train.epochs}, batch_size {train.batch_size}",
        "",
    ]
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        search = own[0].recipe.search
        what = f"searcher {search.searcher}, space {search.space}"
        if own[0].recipe.genotype is not None:
            what = "no search; genotype " + ", ".join(str(run.recipe.genotype) for run in own)
        lines.append(f"{method}: {what}; runs: {', '.join(run.name for run in own)}")
        lines += [
            f"  search.{one.key} {one.own:g} -> {one.used:g} ({one.rule})"
            for one in own[0].adaptations
        ]
        if own[0].unused:
            lines.append(f"  not used, the budget's count: {', '.join(own[0].unused)}")
        lines += [f"  {note}" for note in tuner_notes([own[0].describe()])]
    return "\n".join([*lines, "", f"{len(runs)} runs"])
