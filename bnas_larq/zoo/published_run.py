"""A finished run as it is published: what its folder says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.errors import RecipeError, ZooError
from bnas_larq.files import read_json, read_lines, sha256
from bnas_larq.networks.network_files import WEIGHTS, StoredNetwork
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.run_folder import RunFolder
from bnas_larq.settings import FineTuneSettings, NetworkSettings
from bnas_larq.zoo.registry import resolve_entry

RECIPE = "recipe.yaml"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run folder says of itself.

    Attributes:
        folder: the run's.
        recipe: resolved.
        network: trained.
        facts: stage → what `state.json` recorded.
        environment: versions and machine.
        epochs: rows of the training's metrics.
        began_with: weights of others, the nearest first.
    """

    folder: Path
    recipe: Recipe
    network: StoredNetwork
    facts: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]
    began_with: tuple[Origin, ...]

    @classmethod
    def load(cls, folder: str | Path) -> FinishedRun:
        """Read a run folder.

        Raises:
            RunError, RecipeError: it is none, or damaged.
            ZooError: the run is not finished, or its files contradict each other.
        """
        run = RunFolder.open(folder)
        facts = {stage: run.facts(stage) for stage in ("search", "train", "evaluate")}
        for stage in ("train", "evaluate"):
            if not facts[stage].get("done"):
                raise ZooError(
                    "Only a trained and evaluated run is published. "
                    f"Received: {folder}, whose stage {stage!r} is not done. "
                    "Finish it with `bnas-larq run --resume` or `bnas-larq evaluate`."
                )
        recipe = load_recipe(run / RECIPE)
        place = run / "environment.json"
        environment = read_json(place) if place.is_file() else {}
        if not isinstance(environment, dict) or not isinstance(
            environment.get("packages") or {}, dict
        ):
            raise ZooError(
                "A run's environment.json must hold an object, with another one for packages. "
                f"Received: {place}. Restore it, or delete it."
            )
        finished = cls(
            Path(folder),
            recipe,
            StoredNetwork.load(folder),
            facts,
            environment,
            read_lines(run / "train" / "metrics.jsonl"),
            origins(recipe),
        )
        for problem in finished._contradictions():
            raise ZooError(
                "A run is published as what it is: its files must tell the same. "
                f"Received: {folder} with {problem}. Restore the file, or train again."
            )
        return finished

    def _contradictions(self) -> Iterator[str]:
        """What one file of the run says and another does not."""
        recipe, config = self.recipe, self.network.config
        if not self.network.weights.is_file():
            yield f"no {self.network.weights.name}"
        tuning = recipe.finetune
        epochs = recipe.train.epochs + (0 if tuning is None else tuning.head_epochs)
        if [row.get("epoch") for row in self.epochs] != list(range(epochs)):
            yield (
                f"metrics of {len(self.epochs)} epochs in train/metrics.jsonl, "
                f"not of the {epochs} that {RECIPE} asks for"
            )
        for key in NetworkSettings.model_fields:
            wanted, own = getattr(recipe.network, key), getattr(config, key)
            if wanted not in (own, "auto"):  # a stem that follows the images
                yield f"a network of {key} {own!r}, and {wanted!r} in its {RECIPE}"
        if self.environment.get("seed", recipe.seed) != recipe.seed:
            yield f"seed {recipe.seed} in its {RECIPE}, and another in environment.json"
        last = self.epochs[-1].get("val_accuracy") if self.epochs else None
        if (recorded := self.facts["train"].get("validation_accuracy")) != last:
            yield f"validation accuracy {recorded} in state.json, and {last} of its last epoch"

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The test metrics that the run wrote down when it was evaluated."""
        test = self.facts["evaluate"].get("test")
        return test if isinstance(test, Mapping) else {}

    @property
    def dataset(self) -> str:
        """A name for its data set: TFDS' without configuration, or the folder's."""
        name = self.recipe.data.name.split("/")[0].split(":")[0]
        if name == "folder":
            name = Path(self.recipe.data.data_dir or "folder").name
        return "-".join(
            "".join(c if c.isalnum() or c == "_" else " " for c in name).split()
        ).lower()


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
