"""Recipes with the section `faces`: networks that verify faces, and what they say of two images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bnas_larq.console import say
from bnas_larq.data import Normalization, data_errors
from bnas_larq.data.face_pairs import generate_pairs
from bnas_larq.data.people import load_images
from bnas_larq.errors import RecipeError, RunError
from bnas_larq.files import read_record
from bnas_larq.genotype import Genotype
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.embedding_network import build_embedding_network
from bnas_larq.networks.network import config_of_kind
from bnas_larq.networks.network_files import WEIGHTS
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.precision import recorded_precision
from bnas_larq.recipe import Recipe
from bnas_larq.run.creation import needs_search
from bnas_larq.run.face_verification import NETWORKS, VERIFICATION, compare_precisions
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.recipe_run import Run
from bnas_larq.run.stages import stage_errors
from bnas_larq.run.team import Team
from bnas_larq.run_folder import RunFolder, recipe_of
from bnas_larq.run_records import Verified
from bnas_larq.tables import align
from bnas_larq.training.verification import embed_images


def check_faces(recipe: Recipe) -> None:
    """Raise RecipeError for a recipe whose section `faces` cannot be done."""
    if recipe.data.name != "folder":
        raise RecipeError(
            "Faces are in a folder with one folder per person. "
            f"Received: data.name {recipe.data.name}. Set it to folder, with --data-dir."
        )
    if needs_search(recipe):
        raise RecipeError(
            "Networks of faces are not searched. Received: no genotype. Set genotype, or "
            "network.kind to residual."
        )
    train = recipe.train
    refused = {
        "finetune": recipe.finetune,
        "train.stages": train.stages,
        "train.teacher": train.teacher,
        "train.mixup": train.mixup,
        "train.reestimate_batch_norm": train.reestimate_batch_norm,
        "data.augmentation.random_resized_crop": recipe.data.augmentation.random_resized_crop,
    }
    for key, value in refused.items():
        if value:
            raise RecipeError(
                "Networks of faces train in one stage, from labels of whole images. "
                f"Received: {key}. Remove it."
            )


class FaceStudy:
    """The networks of the section `faces`, in `networks/<name>` of the folder; killed, it resumes.

    Args:
        study: the run that holds the recipe.
    """

    def __init__(self, study: Run) -> None:
        self.inputs, self.recipe, self.folder = study.inputs, study.recipe, study.folder
        self.close, self.team = study.close, study.team

    @classmethod
    def create(cls, recipe: Recipe, out: str | Path | None = None, **settings: Any) -> FaceStudy:
        """A new study, or with `resume` the one in `out`; arguments and errors as of `Run.create`,
        and of `check_faces`."""
        check_faces(recipe)
        for key in ("tensorboard", "callbacks"):
            if settings.get(key):
                raise RecipeError(
                    "Networks of faces write no TensorBoard logs, and call no callbacks. "
                    f"Received: {key}. Omit it."
                )
        return cls(Run.create(recipe, out, stages=("study",), check=_check_networks, **settings))

    def run(self) -> tuple[str, Path] | None:
        """Train, verify and export both networks.

        Returns:
            The table, and the path of verification.json; roc.png lies beside it. None as another
            worker than the chief.
        """
        folder = self.folder / "networks"
        if (folder / VERIFICATION).is_file():
            say("networks: already done")
        else:
            with stage_errors():
                self._compare(folder)
        self.team.wait()
        if not self.team.is_chief:
            return None
        networks = read_record(folder / VERIFICATION, Verified)["networks"]
        rows = [("network", "accuracy", "±", "TAR at FAR 0.001", "threshold")]
        for name, facts in networks.items():
            shares = [f"{facts[key]:.4f}" for key in ("accuracy", "accuracy_std", "tar")]
            rows.append((name, *shares, f"{facts['threshold']:.2f}"))
        return "\n".join(align(rows, 1)), folder / VERIFICATION

    def _compare(self, folder: Path) -> None:
        recipe, people = self.recipe, self.inputs.people
        record = partial(recorded_precision, self.folder.path, recipe.train.mixed_precision)
        precision = self.team.with_record(self.folder.path, record).name
        compare_precisions(
            people,
            _config(recipe, people[0].examples.image_shape),
            recipe.plan[0].model_copy(update={"mixed_precision": precision}),
            recipe.faces,
            folder,
            genotype=_genotype(recipe),
            augmentation=self.inputs.augmentation,
            parity_images=recipe.export.parity_images,
            float_storage=recipe.export.float_storage,
            seed=recipe.seed,
            team=self.team,
        )


class Verdict(NamedTuple):
    """What a network says of two images: squared distance of their embeddings, 0 to 4, and the
    threshold below which they show the same person."""

    distance: float
    threshold: float

    @property
    def same(self) -> bool:
        """Whether both images show the same person."""
        return self.distance < self.threshold


def compare_images(run: str | Path, first: str | Path, second: str | Path) -> dict[str, Verdict]:
    """What the networks of a run with the section `faces` say of two images, by name.

    Raises:
        RunError: the run has no such networks, or is damaged.
        DataError: an image cannot be read.
    """
    folder = RunFolder.open(run, lock=False)
    recipe, networks = recipe_of(folder), folder / "networks"
    if recipe.faces is None or not (networks / VERIFICATION).is_file():
        raise RunError(
            "Faces are compared by the networks of a finished run with the section faces. "
            f"Received: {run}. Make one: bnas-larq run faces-orl."
        )
    record = read_record(networks / VERIFICATION, Verified)
    normalization = Normalization.from_dict(record["normalization"])
    shape = tuple(record["image_shape"])
    images = load_images(".", [str(first), str(second)], image_size=shape[:2])
    verdicts = {}
    for name, facts in record["networks"].items():
        config = _config(recipe, shape).replace(**NETWORKS[name])
        network = build_embedding_network(_genotype(recipe), config, features=recipe.faces.features)
        load_weights(network, networks / name / WEIGHTS)
        one, other = embed_images(network, images, normalization, flip=recipe.faces.flip)
        distance = float(np.sum(np.square(one - other)))
        verdicts[name] = Verdict(distance, facts["threshold"])
    return verdicts


def _check_networks(inputs: RunInputs, _: Team) -> None:
    """Raise BnasLarqError unless both networks can be trained on some people and verified on the
    others."""
    recipe = inputs.recipe
    with data_errors():
        train, test = inputs.people
        generate_pairs(test.files, test.examples.labels, folds=recipe.faces.folds, seed=recipe.seed)
        # Only sizes matter here: a neutral normalisation saves a pass over all images.
        batch_size = recipe.train.batch_size
        inputs.training_batches(train.examples, batch_size, normalization=Normalization())
    config = _config(recipe, train.examples.image_shape)
    for changes in NETWORKS.values():
        form = {"features": recipe.faces.features, "drop_path": recipe.train.drop_path > 0}
        build_embedding_network(_genotype(recipe), config.replace(**changes), **form)


def _genotype(recipe: Recipe) -> Genotype | None:
    return Genotype.load(recipe.genotype) if recipe.has_genotype else None


def _config(recipe: Recipe, shape: tuple[int, ...]) -> BaseConfig:
    settings = {**recipe.network.model_dump(), "input_shape": shape}
    return config_of_kind(recipe.network.kind, settings)
