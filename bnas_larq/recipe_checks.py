"""Keys of a recipe that its run would not read, and sections that exclude each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from bnas_larq.errors import RecipeError
from bnas_larq.recipe import Recipe
from bnas_larq.searcher_settings import OneShotSettings
from bnas_larq.settings import TunerSettings
from bnas_larq.train_settings import UNREAD_IN_STAGE, TrainSettings, TrainStage


def _stages(recipe: Recipe) -> list[TrainStage]:
    """The plan, each stage with the kernels that its network has."""
    default = recipe.network.kernels
    return [stage.model_copy(update={"kernels": stage.kernels or default}) for stage in recipe.plan]


def _no_stage_reads(recipe: Recipe, unread: Callable[[TrainStage], bool]) -> bool:
    return all(map(unread, _stages(recipe)))


def _activations(recipe: Recipe) -> set[str]:
    """Of all stages."""
    return {stage.activations or recipe.network.activations for stage in recipe.plan}


def _trains_networks(recipe: Recipe) -> bool:
    """Final ones, and no supernet."""
    return recipe.search.searcher == "tuner"


def _is_one_shot(recipe: Recipe) -> bool:
    return recipe.search.searcher == "one-shot"


def _has_no_alpha(recipe: Recipe) -> bool:
    return _is_one_shot(recipe) or _trains_networks(recipe)


def _trains_no_alpha(recipe: Recipe) -> bool:
    search = recipe.search
    draws_only = search.searcher == "bandit" and search.bandit.finish_epochs == 0
    return draws_only or _has_no_alpha(recipe)


#: Keys of the section `network` that one kind of network has and the other has not.
_CELL_KEYS = (
    *("cells", "channels", "reductions", "stem_groups", "groups", "padding", "shortcut"),
    "preprocess",
)
_BLOCK_KEYS = (
    *("block_convolutions", "transition", "strided_blocks", "block_order", "nonlinearity"),
    "pad_values",
)

#: Keys of the section `search` that every supernet reads.
_SUPERNET_KEYS = (
    *("cells", "channels", "groups", "kernels", "stem", "shortcut", "epochs", "batch_size"),
    *("optimizer", "learning_rate", "minimum_learning_rate", "momentum", "weight_decay"),
    *("clip_norm", "scheme", "limit", "mixed_precision"),
)
#: Those that train α.
_ALPHA_KEYS = (
    *("relaxation", "order", "alpha_learning_rate", "alpha_betas", "alpha_weight_decay"),
    *("alpha_start_epoch", "entropy_weight", "cost", "alarms"),
)

#: Keys that some recipes do not read: when, and what to do instead.
_UNREAD: dict[str, tuple[Callable[[Recipe], bool], str]] = {
    **{
        f"train.{key}": (partial(_no_stage_reads, unread=unread), remedy)
        for key, (unread, remedy) in UNREAD_IN_STAGE.items()
        if key in TrainSettings.model_fields
    },
    "train.binary_multiplier": (
        lambda recipe: (
            recipe.finetune is not None
            or _no_stage_reads(recipe, UNREAD_IN_STAGE["binary_multiplier"][0])
        ),
        "A fine-tuning has its own, finetune.binary_multiplier, and real kernels have none. "
        "Remove it",
    ),
    **{
        key: (
            lambda recipe: not recipe.has_genotype,
            "A residual network has no cells. Remove it, or set network.kind to cells",
        )
        for key in ("genotype", "layer_study", *map("network.{}".format, _CELL_KEYS))
    },
    **{
        f"network.{key}": (
            lambda recipe: recipe.has_genotype,
            "Cells have no such blocks. Remove it, or set network.kind to residual",
        )
        for key in ("widths", "blocks")
    },
    **{
        f"network.{key}": (
            lambda recipe: recipe.network.kind != "residual",
            "Cells have no such blocks, BinaryDuo's network its own. Remove it, or set "
            "network.kind to residual",
        )
        for key in _BLOCK_KEYS
    },
    "network.scheme": (
        lambda recipe: recipe.network.kind == "binary-duo",
        "BinaryDuo's network has its own. Remove it, or set network.kind to residual",
    ),
    "network.last_width": (
        lambda recipe: recipe.network.kind != "binary-duo",
        "Only BinaryDuo's network has one. Remove it, or set network.kind to binary-duo",
    ),
    "network.activation_gradient": (
        lambda recipe: "sign" not in _activations(recipe) or recipe.network.kind == "binary-duo",
        "Only the sign has one. Remove it, or set network.activations to sign",
    ),
    "network.activation_clip": (
        lambda recipe: (
            _activations(recipe) <= {"relu", "tanh", "ternary"}
            or recipe.network.kind == "binary-duo"
        ),
        "These activations have no bound. Remove it, or set network.activations",
    ),
    **{
        f"search.{key}": (
            _trains_networks,
            "keras-tuner trains final networks. Remove it, or set search.searcher",
        )
        for key in _SUPERNET_KEYS
    },
    **{
        f"search.tuner.{key}": (
            lambda recipe: not _trains_networks(recipe),
            "The searcher has no trials. Remove it, or set search.searcher to tuner",
        )
        for key in TunerSettings.model_fields
    },
    **{
        f"search.tuner.{key}": (
            lambda recipe, oracle=oracle: (
                not _trains_networks(recipe) or recipe.search.tuner.oracle != oracle
            ),
            f"Only {oracle} reads it. Remove it, or set search.tuner.oracle",
        )
        for key, oracle in (
            *(("population", "evolution"), ("sample", "evolution")),
            ("hyperband_factor", "hyperband"),
        )
    },
    "search.temperature": (
        lambda recipe: recipe.search.relaxation == "softmax" or _trains_no_alpha(recipe),
        "The relaxation softmax has none, and this needs α that train. Remove it, or set "
        "search.relaxation",
    ),
    "search.temperature_decay": (
        lambda recipe: recipe.search.relaxation == "softmax" or _trains_no_alpha(recipe),
        "The relaxation softmax has none, and this needs α that train. Remove it, or set "
        "search.relaxation",
    ),
    "search.softmax_temperature": (
        lambda recipe: recipe.search.relaxation != "softmax" or _trains_no_alpha(recipe),
        "Other relaxations have search.temperature. Remove it, or set search.relaxation",
    ),
    "search.momentum": (
        lambda recipe: recipe.search.optimizer == "adam" or _trains_networks(recipe),
        "Only SGD in a supernet has one. Remove it, or set search.optimizer to sgd",
    ),
    "search.cells": (
        lambda recipe: recipe.search.searcher in ("progressive", "tuner"),
        "Progressive stages have numbers of their own, keras-tuner final networks. Remove it, or "
        "set search.progressive.cells or network.cells",
    ),
    **{
        f"search.progressive.{key}": (
            lambda recipe: recipe.search.searcher != "progressive",
            "The searcher has no stages. Remove it, or set search.searcher to progressive",
        )
        for key in ("cells", "kept")
    },
    "search.entropy_tau": (
        lambda recipe: recipe.search.entropy_weight == 0 or _trains_no_alpha(recipe),
        "The entropy term's weight is 0, or no α train. Remove it, or set search.entropy_weight",
    ),
    "search.choice": (
        lambda recipe: recipe.search.searcher != "gradient",
        "Another searcher chooses otherwise. Remove it, or set search.searcher to gradient",
    ),
    "search.choice_examples": (
        lambda recipe: recipe.search.choice == "alpha",
        "No perturbation is measured. Remove it, or set search.choice to perturbation",
    ),
    "search.select": (
        lambda recipe: _trains_no_alpha(recipe) or recipe.search.choice == "perturbation",
        "The weights of the last epoch decide. Remove it, or set search.choice to alpha",
    ),
    "search.gamma": (
        lambda recipe: (
            not recipe.search.zeroise_competes
            or _has_no_alpha(recipe)
            or recipe.search.choice == "perturbation"
        ),
        "No α choose Zeroise. Remove it, or set search.zeroise_competes to true",
    ),
    **{
        f"search.{key}": (
            _trains_no_alpha,
            "This search trains no α. Remove it, or set search.searcher",
        )
        for key in _ALPHA_KEYS
    },
    "search.checkpoint_minutes": (
        lambda recipe: recipe.search.searcher == "tuner",
        "Trials are saved behind each epoch. Remove it",
    ),
    **{
        f"search.{key}": (
            _has_no_alpha,
            "This search mixes no candidates. Remove it, or set search.searcher",
        )
        for key in ("channel_proportion", "edge_normalization")
    },
    **{
        f"search.one_shot.{key}": (
            lambda recipe: not _is_one_shot(recipe),
            "The searcher measures no paths. Remove it, or set search.searcher to one-shot",
        )
        for key in OneShotSettings.model_fields
    },
    "search.bandit.exploration": (
        lambda recipe: True,
        "Candidates have been drawn equally often when one is abandoned. Remove it",
    ),
    **{
        f"search.bandit.{key}": (
            lambda recipe: recipe.search.searcher != "bandit",
            "The searcher draws no paths. Remove it, or set search.searcher to bandit",
        )
        for key in ("rounds", "floor", "finish_epochs", "credit_examples")
    },
    **{
        key: (
            lambda recipe: recipe.faces is not None,
            "All images of some people train, whole, and none of the others. Remove it",
        )
        for key in (
            *("data.validation_fraction", "data.limit", "data.evaluation", "data.crop_share"),
            *("data.background", "train.on", "export.enabled"),
        )
    },
    **{
        key: (
            lambda recipe, key=key: recipe.study != key,
            "A recipe is one study. Remove it, or the other section",
        )
        for key in ("ablation", "faces")
    },
    "export.float_storage": (
        lambda recipe: recipe.layer_study is not None,
        "A layer study exports nothing. Remove it",
    ),
    "finetune.head_learning_rate": (
        lambda recipe: recipe.finetune is not None and recipe.finetune.head_epochs == 0,
        "The head is not trained alone. Remove it, or set finetune.head_epochs",
    ),
}


def unread_keys(recipe: Recipe) -> dict[str, Any]:
    """Keys that are set, unlike their defaults, but change nothing in this recipe, with the
    default of each."""
    unread = {}
    for key, (is_unread, _) in _UNREAD.items():
        *path, name = key.split(".")
        section = reduce(getattr, path, recipe)
        default = section and type(section).model_fields[name].default
        if section and getattr(section, name) != default and is_unread(recipe):
            unread[key] = default
    tuned = recipe.search.tuner.hyperparameters if recipe.search.searcher == "tuner" else {}
    for key in map("train.{}".format, tuned):
        if key in _UNREAD and _UNREAD[key][0](recipe):
            unread[key] = None
    return unread


def check_keys_are_read(recipe: Recipe) -> None:
    """Raise RecipeError for a key that is set but would change nothing."""
    for key in unread_keys(recipe):
        value = reduce(getattr, key.split("."), recipe)
        raise RecipeError(
            f"A recipe sets only what its run reads. Received: {key} {value}. {_UNREAD[key][1]}."
        )
    for number, (stage, whole) in enumerate(
        zip(recipe.train.stages, _stages(recipe), strict=False)
    ):
        for key in stage.own_keys & UNREAD_IN_STAGE.keys():
            unread, remedy = UNREAD_IN_STAGE[key]
            default = TrainStage.model_fields[key].default
            if (value := getattr(stage, key)) != default and unread(whole):
                raise RecipeError(
                    "A stage sets only what its training reads. "
                    f"Received: train.stages.{number}.{key} {value}. {remedy}."
                )
