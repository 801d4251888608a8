"""The searcher of a recipe, the trials of keras-tuner, and checks before a run is written."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.expected_cost import ExpectedCost
from bnas_larq.costs.genotype_ops import ops_counter
from bnas_larq.data import ImageDataset, data_errors
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError, RunError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.activations import SchemeOptions
from bnas_larq.layers.quantizers import check_searchable
from bnas_larq.networks.network import build_network, check_candidates
from bnas_larq.precision import recorded_precision
from bnas_larq.recipe import Recipe
from bnas_larq.run.creation import needs_search
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.processes import own_command, own_gpu_memory, run_chief_and_workers
from bnas_larq.run.stages import stage_errors
from bnas_larq.run.training_checks import check_batches, check_training
from bnas_larq.search import (
    BanditSearch,
    GradientSearch,
    OneShotSearch,
    ProgressiveSearch,
    Searcher,
)
from bnas_larq.search.bandit_search import check_steps, make_table
from bnas_larq.search.gradient_search import check_epochs, check_sizes, make_relaxation
from bnas_larq.search.one_shot_search import drawn_space, make_evolution
from bnas_larq.search.path_evolution import PROBES
from bnas_larq.search.progressive_search import check_stages as check_search_stages
from bnas_larq.search.progressive_search import stage_settings
from bnas_larq.search.tuning import TrialResult, TunerSearch
from bnas_larq.search.tuning.tuner_search import TUNER_ID, role_of_process
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import SearchSpace
from bnas_larq.strategies import Strategy, use_gpu_of_worker
from bnas_larq.train_settings import TrainSettings, training_plan
from bnas_larq.training import check_stages, evaluate_network, stage_pipeline, train_network


def in_supernet(settings: SearchSettings) -> bool:
    """Whether the search trains a supernet, on the training part."""
    return settings.searcher != "tuner"


def make_searcher(
    inputs: RunInputs, settings: SearchSettings, strategy: Strategy | None = None
) -> Searcher:
    """The searcher of a run; its section `search` has the precision that `auto` chose. `strategy`
    is for searchers that `Team.of` does not refuse."""
    if settings.searcher == "tuner":
        return tuner_search(inputs)
    kinds = {
        "gradient": GradientSearch,
        "progressive": ProgressiveSearch,
        "bandit": BanditSearch,
        "one-shot": OneShotSearch,
    }
    searcher = kinds[settings.searcher]
    data, seed, network = inputs.data, inputs.recipe.seed, inputs.network_config
    shape, more = data.image_shape, {"network": network, "strategy": strategy}
    return searcher(settings, data.num_classes, shape, seed, **more)


def describe_search(settings: SearchSettings) -> str:
    """What a search will do, in one line."""
    if settings.searcher == "tuner":
        return f"{settings.tuner.trials} trials of {settings.tuner.oracle} search"
    cells = ", ".join(map(str, _cells(settings)))
    paths = settings.one_shot.population * settings.one_shot.generations
    measured = f", then {paths} paths to measure" if settings.searcher == "one-shot" else ""
    return (
        f"{settings.epochs} epochs, {cells} cells, {settings.channels} channels"
        f"{measured}; the first step builds the graph and takes longest"
    )


def describe_training(recipe: Recipe, data: ImageDataset) -> str:
    """What a training will do, in one line."""
    *stages, last = recipe.plan
    earlier = "".join(f"{stage.epochs} epochs of {stage.name}, then " for stage in stages)
    images = data.training_examples(recipe.train.on).num_examples
    return f"{earlier}{last.epochs} epochs of {images:,} images of {data.name}"


def _cells(settings: SearchSettings) -> list[int]:
    """Of the supernet, or of one after the other."""
    progressive = settings.searcher == "progressive"
    return [stage.cells for stage in (stage_settings(settings) if progressive else [settings])]


def provenance(inputs: RunInputs) -> dict[str, Any]:
    """Where a genotype comes from, for its file."""
    recipe = inputs.recipe
    sizes = recipe.search if in_supernet(recipe.search) else recipe.network
    cells = _cells(recipe.search)[-1] if in_supernet(recipe.search) else sizes.cells
    return {
        "source": f"bnas-larq search, recipe {recipe.name}",
        "data": inputs.data.name,
        "seed": recipe.seed,
        "cells": cells,
        "channels": sizes.channels,
        "epochs": (recipe.search if in_supernet(recipe.search) else recipe.search.tuner).epochs,
    }


# -- checks ----------------------------------------------------------------------------------------


def check_inputs(inputs: RunInputs, stages: Collection[str]) -> None:
    """Check that a recipe fits its data, before anything is written or replaced.

    Args:
        stages: of `search` and `train`, those to check.

    Raises:
        BnasLarqError: the data cannot be read, a name is unknown, a batch is too large, or
            settings do not fit each other.
    """
    with data_errors():
        if "search" in stages and needs_search(inputs.recipe):
            _check_search(inputs)
        if "train" in stages:
            check_training(inputs)


def _check_search(inputs: RunInputs) -> None:
    settings = inputs.recipe.search
    space = SearchSpace.named(settings.space)
    check_searchable(settings.scheme, SchemeOptions(kernels=settings.kernels))
    check_candidates(inputs.network_config, {*space.normal, *space.reduce})
    if not in_supernet(settings):
        NetworkTrial(inputs).check()
        _check_bounds(inputs)
        return
    check = check_search_stages if settings.searcher == "progressive" else check_sizes
    check(settings)
    check_epochs(settings)
    make_relaxation(settings)
    network = inputs.network_config
    if settings.cost is not None:
        gamma, competes = settings.gamma, settings.zeroise_competes
        ExpectedCost.from_settings(
            settings.cost, space, network, gamma=gamma, zeroise_competes=competes
        )
    steps = inputs.search_steps_per_epoch()
    if settings.searcher == "one-shot":
        _check_held_out(inputs, "A one-shot search measures paths")
        make_evolution(settings, network, inputs.recipe.seed).check()
    if settings.searcher == "bandit":
        check_steps(settings, make_table(settings, inputs.recipe.seed), steps)


def _check_bounds(inputs: RunInputs) -> None:
    """Raise RecipeError if no random genotype is within the bounds of a search by keras-tuner."""
    bounds = inputs.recipe.search.tuner
    if not bounds.bounded:
        return
    space, ops = drawn_space(inputs.recipe.search), ops_counter(inputs.network_config)
    counted = []
    for seed in range(PROBES):
        counted.append(ops(Genotype.random(space, seed)))
        if bounds.allow(counted[-1]):
            return
    raise RecipeError(
        "A search by keras-tuner draws networks within its bounds. Received: "
        f"search.tuner.minimum_ops {bounds.minimum_ops}, maximum_ops {bounds.maximum_ops}, which "
        f"none of {PROBES} random cells meets; in the size of the section network they have "
        f"{min(counted):.3g} to {max(counted):.3g} OPs, counted honestly. Change the bounds, or "
        "the section network."
    )


def _check_held_out(inputs: RunInputs, subject: str) -> None:
    """Raise RecipeError without a validation part."""
    if inputs.data.validation is None:
        raise RecipeError(
            f"{subject} on the validation part. Received: data.validation_fraction "
            f"{inputs.recipe.data.validation_fraction:g}. Use 0.1."
        )


# -- searches by keras-tuner -----------------------------------------------------------------------


class NetworkTrial:
    """Trains a genotype's network on the training part and measures it on the validation part.

    It follows the recipe's sections `network` and `train`, with the trial's changes to `train`. The
    schedule spans `search.tuner.epochs` even if Hyperband stops earlier, so a trial that continues
    ends with the weights of one that never stopped.
    """

    def __init__(self, inputs: RunInputs) -> None:
        self.inputs = inputs

    def __call__(
        self,
        genotype: Genotype,
        train_overrides: Mapping[str, Any],
        epochs: int,
        folder: Path,
        seed: int,
    ) -> TrialResult:
        """See `bnas_larq.search.tuning.records.TrialFunction`; also writes metrics.jsonl."""
        inputs, data = self.inputs, self.inputs.data
        planned = inputs.recipe.search.tuner.epochs
        settings = self._settings({**train_overrides, "epochs": planned})
        # Every trial starts from the seed, whichever trials ran in this process before.
        keras.backend.clear_session()
        make_deterministic(seed)
        model = build_network(genotype, inputs.network_config, drop_path=settings.drop_path > 0)
        pipeline = stage_pipeline(
            training_plan(settings)[0],
            inputs.recipe.model_copy(update={"seed": seed}),
            data.train,
            inputs.normalization,
            data.num_classes,
        )
        train_network(
            model,
            settings,
            pipeline.dataset,
            pipeline.steps_per_epoch,
            validation_data=None,
            folder=folder,
            title=f"trial {folder.name}",
            until=epochs,
            seed=seed,
        )
        evaluation = evaluate_network(model, inputs.batches(data.validation))
        return TrialResult(evaluation.metrics()["accuracy"], self._cost(model))

    def prepare(self) -> None:
        """Record the precision that `auto` chooses, once for all processes of the search."""
        self._settings({})

    def _settings(self, overrides: Mapping[str, Any]) -> TrainSettings:
        """The section `train` of a trial, with the recorded precision."""
        settings = self.inputs.recipe.train.model_copy(update=overrides)
        choice = recorded_precision(self.inputs.folder / "search", settings.mixed_precision)
        return settings.model_copy(update={"mixed_precision": choice.name})

    def _cost(self, model: keras.Model) -> float | None:
        measure = self.inputs.recipe.search.tuner.cost
        if measure is None:
            return None
        costs = count_costs(model)
        return float(costs.ops_paper if measure == "ops" else costs.bytes)

    def check(self) -> None:
        """Raise BnasLarqError for what would stop every trial: no validation part, or a batch or
        network that does not fit the data.
        """
        recipe = self.inputs.recipe
        _check_held_out(self.inputs, "A search by keras-tuner measures its trials")
        tuned = recipe.search.tuner.hyperparameters
        if "batch_size" in tuned and recipe.train.accumulate > 1:
            raise RecipeError(
                "A batch that is worked on in parts has one size. Received: train.accumulate "
                f"{recipe.train.accumulate} with search.tuner.hyperparameters.batch_size. "
                "Remove one of them."
            )
        sizes = tuned.get("batch_size", [recipe.train.batch_size])
        largest = sizes["max"] if isinstance(sizes, Mapping) else max(sizes)
        stage = recipe.plan[0].model_copy(update={"batch_size": largest})
        check_stages([stage], self.inputs.network_config)
        check_batches(self.inputs, stage, self.inputs.data.train)


def tuner_search(inputs: RunInputs) -> TunerSearch:
    """The search of a recipe whose `search.searcher` is `tuner`."""
    recipe, trial = inputs.recipe, NetworkTrial(inputs)
    command = own_command("worker", *own_gpu_memory(), "--with-parent", inputs.folder.path)
    return TunerSearch(
        recipe.search.tuner,
        drawn_space(recipe.search),
        trial,
        seed=recipe.seed,
        ops=ops_counter(inputs.network_config) if recipe.search.tuner.bounded else None,
        prepare=trial.prepare,
        launch=partial(run_chief_and_workers, command, recipe.search.tuner.workers),
    )


def take_part(inputs: RunInputs, own_chief: bool = False) -> None:
    """Run trials of a run's search by keras-tuner until its chief has no more, on one GPU if there
    are any; see `gpu_of_worker`.

    Args:
        own_chief: whether the run itself started this process, together with its chief.

    Raises:
        RunError: the recipe searches otherwise, or the chief's address is not set.
        BnasLarqError: a worker's name does not tell its GPU.
    """
    searcher = inputs.recipe.search.searcher
    if searcher != "tuner":
        raise RunError(
            "Only a search by keras-tuner has workers. "
            f"Received: {inputs.folder.path}, whose search.searcher is {searcher}."
        )
    role = role_of_process()
    if role != "worker" and not own_chief:
        raise RunError(
            f"A worker needs its own name and its chief's address. Received: {role}. "
            "Set KERASTUNER_TUNER_ID to a name of its own, such as worker-1, and "
            "KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT as for the chief."
        )
    use_gpu_of_worker(os.environ[TUNER_ID] if role == "worker" else None)
    with stage_errors():
        tuner_search(inputs).take_part(inputs.folder / "search")
