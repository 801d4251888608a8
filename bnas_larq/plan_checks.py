"""Stages of a training that contradict each other, or the rest of their recipe."""

from __future__ import annotations

import itertools

from bnas_larq.errors import RecipeError
from bnas_larq.recipe import Recipe
from bnas_larq.teacher_settings import PREVIOUS
from bnas_larq.train_settings import DECOUPLED, TrainStage


def _check_decoupling(recipe: Recipe, before: TrainStage, stage: TrainStage) -> None:
    """Raise RecipeError unless BinaryDuo's network is decoupled where it is to be, and only
    there."""
    kind = recipe.network.kind
    first, second = (one.activations or recipe.network.activations for one in (before, stage))
    received = f"Received: start {stage.start} in the stage {stage.name!r}, {first} to {second}"
    if stage.start == DECOUPLED and (kind, first, second) != ("binary-duo", "ternary", "sign"):
        raise RecipeError(
            "Only BinaryDuo's network is decoupled, where activations turn from ternary to sign. "
            f"{received} in a network of the kind {kind}. Remove it, or set network.kind to "
            "binary-duo and the activations of the stage before to ternary."
        )
    of_copies = kind == "binary-duo" and (first == "sign") != (second == "sign")
    if stage.start == PREVIOUS and of_copies:
        raise RecipeError(
            "With the activations sign, BinaryDuo's network has two copies of each tensor, and "
            f"weights of its own. {received}. Let a stage with ternary activations come before "
            "it, and set start to decoupled."
        )


def check_plan(recipe: Recipe) -> None:
    """Raise RecipeError for stages in a recipe that trains otherwise, or that contradict
    themselves."""
    searched = recipe.has_genotype and not recipe.genotype and not recipe.finetune
    tuned = searched and recipe.search.searcher == "tuner"
    others = {
        "finetune": (recipe.finetune is not None, "which is a plan of its own"),
        "layer_study": (recipe.layer_study is not None, "whose rows decide what is binary"),
        "search.searcher tuner": (tuned, "whose trials train in one stage without a teacher"),
    }
    for section, (present, reason) in others.items():
        key = "stages" if recipe.train.stages or not tuned else "teacher"
        if present and getattr(recipe.train, key):
            raise RecipeError(
                "A recipe trains in stages, or has a section that trains otherwise. "
                f"Received: train.{key} and {section}, {reason}. Remove one of them."
            )
    for before, stage in itertools.pairwise(recipe.plan):
        _check_decoupling(recipe, before, stage)
    for stage in recipe.plan:
        if stage.teacher and stage.crop_size:
            raise RecipeError(
                "A teacher looks at whole images. "
                f"Received: teacher with crop_size {stage.crop_size}. Remove one of them."
            )
        if stage.teacher and stage.teacher.cache and stage.mixup:
            raise RecipeError(
                "A teacher's outputs are kept for views of single images. "
                f"Received: teacher.cache with mixup {stage.mixup}. Remove one of them."
            )
        # Epoch e is mirrored as its view is, e mod N.
        flip = (stage.augmentation or recipe.data.augmentation).flip
        if flip == "alternating" and stage.teacher and (stage.teacher.views or 0) % 2:
            raise RecipeError(
                "Flips alternate from the last view to the first if there is an even number. "
                f"Received: teacher.views {stage.teacher.views} with flip alternating. "
                "Give an even number, or set flip to true."
            )
