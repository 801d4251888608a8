"""A network to export: its weights, and all that is known about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.errors import ExportError
from bnas_larq.run.targets import Kind, Target
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.text_files import read_text

if TYPE_CHECKING:
    from bnas_larq.backend import keras
    from bnas_larq.networks.network_files import StoredNetwork
    from bnas_larq.recipe import Recipe
    from bnas_larq.zoo.entries import Entry


@dataclasses.dataclass(frozen=True)
class Deployable:
    """A network to export.

    Attributes:
        name: for messages and cards.
        model: its Keras model, with weights.
        class_names, mean, std: None where they are unknown.
        stored: its description, unless it is a saved Keras model.
        entry: the zoo entry it is.
        recipe, test: of a run, and its metrics on the test split, if it was evaluated.
    """

    name: str
    model: keras.Model
    class_names: Sequence[str] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    stored: StoredNetwork | None = None
    entry: Entry | None = None
    recipe: Recipe | None = None
    test: Mapping[str, Any] | None = None

    def check_described(self) -> None:
        """Raise ExportError unless everything is known that a bundle tells."""
        if self.class_names is None or self.mean is None or self.std is None:
            raise ExportError(
                "A bundle names the classes and says how images are prepared, which a saved Keras "
                f"model does not. Received: {self.name} without all of --labels, --mean and --std. "
                "Give them (mean 0 0 0, std 1 1 1 if the model takes pixels / 255)."
            )
        shape, output = tuple(self.model.inputs[0].shape), tuple(self.model.outputs[0].shape)
        if len(output) != 2 or output[1] != len(self.class_names) or shape[-1] != 3:
            raise ExportError(
                "A bundle holds a classifier of colour images with one label for each output. "
                f"Received: {self.name} with {len(self.class_names)} labels, input "
                f"{shape[1:]} and output {output[1:]}. Correct --labels."
            )

    @property
    def float_storage(self) -> str:
        """Type of full-precision kernels in its file, if nobody asks for another."""
        from bnas_larq.costs.float_kernels import FLOAT32

        if self.recipe:
            return self.recipe.export.float_storage
        return (self.entry.deployed if self.entry else {}).get("float_storage", FLOAT32)

    @property
    def restriction(self) -> str | None:
        """The licence of weights that must not be redistributed, also of those that a fine-tuning
        started from; None for all others.
        """
        from bnas_larq.zoo.published_run import license_of, origins

        if self.entry is not None:
            return None if self.entry.redistributable else self.entry.license
        terms, free = license_of(origins(self.recipe), "") if self.recipe else ("", True)
        return None if free else terms


def load_deployable(
    target: Target,
    labels: Path | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Deployable:
    """The network of a target, with its weights; facts and errors as of
    `bnas_larq.run.deployment.export_target`."""
    if target.kind is Kind.SAVED_MODEL:
        from bnas_larq.networks.saved_models import load_saved_model

        model = load_saved_model(target.path)
        return Deployable(target.name, model, labels and _read_labels(labels), mean, std)
    stored = target.trained_network()
    if stored.normalization:
        from bnas_larq.data import Normalization

        normalization = Normalization.from_dict(stored.normalization)
        mean, std = normalization.mean, normalization.std
    origin: dict[str, Any] = {"stored": stored, "entry": target.entry}
    if target.kind is Kind.RUN and (target.path / "recipe.yaml").is_file():
        folder = RunFolder(target.path)
        origin |= {"recipe": recipe_of(folder), "test": folder.facts("evaluate").get("test")}
    return Deployable(target.name, stored.load_model(), stored.class_names, mean, std, **origin)


def _read_labels(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise ExportError(
            f"Labels are a text file with one class on each line. Received: {path} "
            f"({type(error).__name__}). Check the path."
        ) from error
