"""A finished run as it is published: what its folder says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.errors import ZooError
from bnas_larq.models.stored import StoredNetwork
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.runs import RunFolder, read_json, read_lines
from bnas_larq.settings import NetworkSettings
from bnas_larq.zoo.lineage import Origin, origins

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
