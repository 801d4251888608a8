"""A finished run as it is published: what its folder says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.errors import ZooError
from bnas_larq.models.stored import StoredNetwork
from bnas_larq.recipe import Recipe, load_recipe
from bnas_larq.runs import RunFolder, read_json, read_lines
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
            ZooError: the run is not finished.
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
        environment = run / "environment.json"
        return cls(
            Path(folder),
            recipe,
            StoredNetwork.load(folder),
            facts,
            read_json(environment) if environment.is_file() else {},
            read_lines(run / "train" / "metrics.jsonl"),
            origins(recipe),
        )

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The test metrics that the run wrote down when it was evaluated."""
        return self.facts["evaluate"].get("test") or {}

    @property
    def dataset(self) -> str:
        """A name for its data set: TFDS' without configuration, or the folder's."""
        name = self.recipe.data.name.split("/")[0].split(":")[0]
        if name == "folder":
            name = Path(self.recipe.data.data_dir or "folder").name
        return "-".join(
            "".join(c if c.isalnum() or c == "_" else " " for c in name).split()
        ).lower()
