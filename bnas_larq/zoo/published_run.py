"""A finished run as it is published, and the weights that it was fine-tuned from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pydantic

from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.errors import RecipeError, ZooError
from bnas_larq.files import MODEL_SUFFIXES, read_model, read_record, read_rows, sha256
from bnas_larq.networks.network_files import WEIGHTS, StoredNetwork
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.run_folder import RunFolder
from bnas_larq.run_records import Epoch, Export
from bnas_larq.settings import NetworkSettings
from bnas_larq.zoo.registry import resolve_entry

RECIPE = "recipe.yaml"


class _Environment(pydantic.BaseModel):
    """What is published of environment.json."""

    model_config = pydantic.ConfigDict(strict=True)
    python: str | None = None
    machine: str | None = None
    cores: int | None = None
    packages: dict[str, str | None] | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run's folder records."""

    folder: Path
    recipe: Recipe  # resolved
    network: StoredNetwork
    facts: Mapping[str, Mapping[str, Any]]  # stage → what `state.json` recorded
    environment: Mapping[str, Any]  # versions and machine
    epochs: Sequence[Mapping[str, Any]]  # rows of the training's metrics
    began_with: tuple[Origin, ...]  # the weights it was fine-tuned from, the nearest first
    float_storage: str | None = None  # of its model.tflite; None without one

    @classmethod
    def load(cls, folder: str | Path) -> FinishedRun:
        """Read a run folder. RunError or RecipeError if it holds no run or a damaged one, ZooError
        if the run is not finished or its files contradict each other."""
        run = RunFolder.open(folder)
        run.check_single()
        facts = {stage: run.facts(stage) for stage in ("search", "train", "evaluate")}
        for stage in ("train", "evaluate"):
            if not facts[stage].get("done"):
                raise ZooError(
                    "Only a trained and evaluated run is published. "
                    f"Received: {folder}, whose stage {stage!r} is not done. "
                    "Finish it with `bnas-larq run --resume` or `bnas-larq evaluate`."
                )
        recipe = load_recipe(run / RECIPE)
        environment: dict[str, Any] = {}
        if (run / "environment.json").exists():
            environment = read_model(
                run / "environment.json",
                _Environment,
                subject="A run's environment.json",
                remedy="Restore the file, or delete it.",
                error=ZooError,
            ).model_dump(exclude_unset=True)
        float_storage = None
        if run.facts("export").get("done"):
            float_storage = read_record(run / "export.json", Export).get("float_storage", FLOAT32)
        finished = cls(
            Path(folder),
            recipe,
            StoredNetwork.load(folder),
            facts,
            environment,
            read_rows(run / "train" / "metrics.jsonl", Epoch),
            origins(recipe),
            float_storage,
        )
        for problem in finished._contradictions():
            raise ZooError(
                "The files of a published run must agree. "
                f"Received: {folder} with {problem}. Restore the file, or train again."
            )
        return finished

    def _contradictions(self) -> Iterator[str]:
        """What one file of the run says and another contradicts."""
        recipe, config = self.recipe, self.network.config
        if not self.network.weights.is_file():
            yield f"no {self.network.weights.name}"
        epochs = sum(stage.epochs for stage in recipe.plan)
        if [row.get("epoch") for row in self.epochs] != list(range(epochs)):
            yield (
                f"metrics of {len(self.epochs)} epochs in train/metrics.jsonl, "
                f"not of the {epochs} that {RECIPE} asks for"
            )
        for key in filter(partial(hasattr, config), NetworkSettings.model_fields):
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
        """The test metrics recorded when the run was evaluated."""
        test = self.facts["evaluate"].get("test")
        return test if isinstance(test, Mapping) else {}

    @property
    def dataset(self) -> str:
        """A name for its data set: TFDS' name without configuration, or the folder's."""
        name = self.recipe.data.name.split("/")[0].split(":")[0]
        if name == "folder":
            name = Path(self.recipe.data.data_dir or "folder").name
        return "-".join(re.findall(r"\w+", name)).lower()


UNKNOWN = "unknown, because the weights it began with are gone"
#: Fine-tunings in a row; a longer chain is a circle of folders.
_LONGEST = 20


@dataclasses.dataclass(frozen=True)
class Origin:
    """The weights that a fine-tuning or a stage began with."""

    name: str  # of the entry, or of the run's folder
    source: str  # the entry's, "run" or "unknown"
    sha256: str | None  # of the weights
    license: str | None  # the entry's; None for the user's own run
    redistributable: bool
    variant: str | None = None  # the entry's


def origins(recipe: Recipe) -> tuple[Origin, ...]:
    """All weights that a run's stages started from, the nearest first; empty if all are random.

    A source that is gone, or holds other weights than the recipe names, is of unknown licence and
    so not redistributable.
    """
    lineage: list[Origin] = []
    sources = _starts(recipe)
    while sources:
        origin, earlier = _origin(*sources.pop(0))
        if len(lineage) == _LONGEST:
            return (*lineage, dataclasses.replace(origin, license=UNKNOWN, redistributable=False))
        lineage.append(origin)
        sources += [source for source in earlier if source not in sources]
    return tuple(lineage)


_Start = tuple[str, str | None]


def _starts(recipe: Recipe) -> list[_Start]:
    """The networks that a run's stages start from, and the SHA-256 of their weights."""
    starts = [(stage.start, stage.start_sha256) for stage in recipe.plan if stage.starts_elsewhere]
    return list(dict.fromkeys(starts))


def _origin(start: str, digest: str | None) -> tuple[Origin, list[_Start]]:
    """The weights that a stage starts from, and what made them if they are a run's."""
    name = Path(start).name
    unknown = Origin(name, "unknown", digest, UNKNOWN, False)
    earlier: list[_Start] = []
    try:
        saved = Path(start).suffix in MODEL_SUFFIXES
        entry = None if saved else resolve_entry(start)
        if saved:
            origin = Origin(name, "saved model", sha256(start), None, True)
        elif entry is None:
            folder = Path(start)
            origin = Origin(name, "run", sha256(folder / WEIGHTS), None, True)
            earlier = _starts(load_recipe(folder / RECIPE))
        else:
            held, terms = entry.files[WEIGHTS]["sha256"], (entry.license, entry.redistributable)
            origin = Origin(entry.name, entry.source, held, *terms, entry.variant)
    except (ZooError, RecipeError, OSError):
        return unknown, []
    return (origin, earlier) if digest in (None, origin.sha256) else (unknown, [])


def check_redistributable(began_with: tuple[Origin, ...], zoo: Path, own: Path) -> None:
    """ZooError if a network fine-tuned from weights that may not be redistributed would leave the
    user's `own` zoo."""
    bound = [origin for origin in began_with if not origin.redistributable]
    if bound and zoo.resolve() != own.resolve():
        raise ZooError(
            "A network fine-tuned from weights that may not be redistributed is published in your "
            f"own zoo only. Received: weights from {bound[0].name!r} (licence: {bound[0].license}) "
            f"and the zoo {zoo}. Omit --out."
        )


def license_of(began_with: tuple[Origin, ...], wanted: str) -> tuple[str, bool]:
    """The licence of a run's weights, `wanted` unless an origin's binds, and whether they may be
    redistributed."""
    for origin in began_with:
        if not origin.redistributable:
            return f"As of {origin.name}, from which it was fine-tuned: {origin.license}", False
    return wanted, True
