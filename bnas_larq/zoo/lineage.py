"""Whose weights a run began with: licences of entries hold for what is fine-tuned from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bnas_larq.errors import RecipeError, ZooError
from bnas_larq.models.stored import WEIGHTS
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.runs import sha256
from bnas_larq.settings import FineTuneSettings
from bnas_larq.zoo.registry import resolve_entry

UNKNOWN = "unknown, the weights it began with are not there to tell"
#: A run of a run of a run …; what is longer is a circle of folders.
_LONGEST = 20


@dataclasses.dataclass(frozen=True)
class Origin:
    """The weights that a fine-tuning began with.

    Attributes:
        name: an entry's name, or the name of a run's folder.
        source: the entry's `source`, "run" or "unknown".
        sha256: of the weights.
        license: which the entry named; None for the user's own run.
        redistributable: whether that licence lets them be given to others.
        variant: the entry's.
    """

    name: str
    source: str
    sha256: str | None
    license: str | None
    redistributable: bool
    variant: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For an entry's provenance."""
        return dataclasses.asdict(self)


def origins(recipe: Recipe) -> tuple[Origin, ...]:
    """All weights that a run began with, the nearest first; empty if it began with random ones.

    A source that is not there any more, or holds other weights than those the recipe names, is of
    unknown licence, and so not redistributable.
    """
    found: list[Origin] = []
    settings = recipe.finetune
    while settings is not None:
        origin, settings = _origin(settings)
        if len(found) == _LONGEST:
            return (*found, dataclasses.replace(origin, license=UNKNOWN, redistributable=False))
        found.append(origin)
    return tuple(found)


def _origin(settings: FineTuneSettings) -> tuple[Origin, FineTuneSettings | None]:
    """The weights that `settings` name, and what those began with if they are a run's."""
    name = Path(settings.entry).name
    unknown = Origin(name, "unknown", settings.sha256, UNKNOWN, False)
    try:
        entry = resolve_entry(settings.entry)
        if entry is not None:
            held = entry.files[WEIGHTS]["sha256"]
            if settings.sha256 not in (None, held):
                return unknown, None
            facts = (entry.license, entry.redistributable, entry.variant)
            return Origin(entry.name, entry.source, held, *facts), None
        folder = Path(settings.entry)
        held = sha256(folder / WEIGHTS)
        recipe = load_recipe(folder / "recipe.yaml")
    except (ZooError, RecipeError, OSError):
        return unknown, None
    if settings.sha256 not in (None, held):
        return unknown, None
    return Origin(name, "run", held, None, True), recipe.finetune


def check_may_be_given_away(began_with: tuple[Origin, ...], place: Path, own: Path) -> None:
    """Refuse to publish what is fine-tuned from weights that may not be given to others, except in
    the user's own zoo.

    Raises:
        ZooError: `place` is another zoo than the user's `own`.
    """
    bound = [origin for origin in began_with if not origin.redistributable]
    if bound and place.resolve() != own.resolve():
        raise ZooError(
            "What began with weights that may not be redistributed is published in your own zoo "
            f"only. Received: weights from {bound[0].name!r} (licence: {bound[0].license}) "
            f"and the zoo {place}. Leave --out away."
        )


def license_of(began_with: tuple[Origin, ...], wanted: str) -> tuple[str, bool]:
    """The licence of a run's weights, and whether they may be given to others.

    Args:
        wanted: for weights that nobody else has a say in.
    """
    for origin in began_with:
        if not origin.redistributable:
            return f"As of {origin.name}, from which it was fine-tuned: {origin.license}", False
    return wanted, True
