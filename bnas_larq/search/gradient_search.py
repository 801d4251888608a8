"""Search by gradient: resumable training of the supernet, and the genotype of its α."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.console import say
from bnas_larq.costs.expected_cost import ExpectedCost, network_of
from bnas_larq.data import bilevel_pipeline
from bnas_larq.discretize import ArgmaxDiscretizer
from bnas_larq.errors import RecipeError, RunError, TrainingStopped
from bnas_larq.files import append_line, keep_lines_before, read_rows
from bnas_larq.fitting.callbacks import Progress, plain
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.genotype import Genotype
from bnas_larq.layers.template import check_groups, plan_cells
from bnas_larq.networks.network import check_operations
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.precision import choose_precision
from bnas_larq.run_records import Alphas
from bnas_larq.search.alarms import RECORD as ALARMS
from bnas_larq.search.alarms import Alarms
from bnas_larq.search.perturbation import RECORD as PERTURBATIONS
from bnas_larq.search.perturbation import perturbed_cells
from bnas_larq.search.searcher import SearchData, SearchResult, SupernetSearcher
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import ZEROISE, SearchSpace
from bnas_larq.strategies import scope_of
from bnas_larq.supernet.alpha_gradients import FirstOrder, SecondOrder, SingleLevel
from bnas_larq.supernet.architecture import AnnealedEntropy
from bnas_larq.supernet.relaxations import (
    Concrete,
    GumbelHard,
    Relaxation,
    Softmax,
)
from bnas_larq.supernet.search_cell import PartialChannels
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule

#: File in a stage's folder: α by epoch.
RECORD = "alphas.jsonl"

_GRADIENTS = {1: FirstOrder, 2: SecondOrder, "single-level": SingleLevel}


def make_relaxation(settings: SearchSettings, first_epoch: int = 0) -> Relaxation:
    """The settings' relaxation, whose temperature falls from `first_epoch` on; BnasLarqError unless
    it is positive.
    """
    if settings.relaxation == "softmax":
        return Softmax(*settings.softmax_temperature)
    kind = {"gumbel-hard": GumbelHard, "concrete": Concrete}[settings.relaxation]
    # Temperatures are checked even if no epoch uses them.
    epochs = max(1, settings.epochs - first_epoch)
    return kind(TemperatureSchedule(*settings.temperature, epochs, settings.temperature_decay))


def search_space(settings: SearchSettings) -> SearchSpace:
    """The settings' search space, with their shortcut; GenotypeError for an unknown one."""
    space = SearchSpace.named(settings.space)
    if settings.shortcut is None:
        return space
    return dataclasses.replace(space, shortcut=settings.shortcut)


def make_supernet(
    settings: SearchSettings,
    relaxation: Relaxation,
    num_classes: int,
    input_shape: tuple[int, int, int],
    seed: int,
) -> SuperNet:
    """The settings' supernet, built for images of a shape; `seed` is of the relaxation's draws."""
    return SuperNet(
        search_space(settings),
        num_classes,
        cells=settings.cells,
        channels=settings.channels,
        stem=settings.stem,
        scheme=settings.scheme,
        kernels=settings.kernels,
        groups=settings.groups,
        relaxation=relaxation,
        channel_sampling=PartialChannels(settings.channel_proportion),
        edge_normalization=settings.edge_normalization,
        seed=seed,
        mixed_precision=choose_precision(settings.mixed_precision).name,
        input_shape=input_shape,
    )


def weight_optimizer(settings: SearchSettings, steps: int) -> keras.optimizers.Optimizer:
    """SGD or Adam for the weights of a supernet, with cosine decay over so many steps."""
    rate = keras.optimizers.schedules.CosineDecay(
        settings.learning_rate,
        steps,
        alpha=min(1.0, settings.minimum_learning_rate / settings.learning_rate),
    )
    decay = {"l2": settings.weight_decay, "clip_norm": settings.clip_norm}
    if settings.optimizer == "adam":
        return CoupledAdam(rate, epsilon=1e-8, **decay)
    return CoupledSGD(rate, momentum=settings.momentum, **decay)


def check_sizes(settings: SearchSettings) -> None:
    """Raise BnasLarqError if a cell's channels do not divide by `channel_proportion` and `groups`,
    or no candidate has groups."""
    sampling, space = PartialChannels(settings.channel_proportion), search_space(settings)
    check_operations(settings.groups, (*space.normal, *space.reduce))
    # The stem does not change the channels of cells.
    for plan in plan_cells(settings.cells, settings.channels, "cifar"):
        selected = plan.filters
        if sampling.proportion > 1:
            selected = sampling.selected_filters(selected)
        check_groups(settings.groups, selected)


def check_epochs(settings: SearchSettings) -> None:
    """Raise RecipeError if α decide, but no epoch trains them; a bandit search without a finish has
    none that decide."""
    decided = settings.choice == "perturbation" or (
        settings.searcher == "bandit" and not settings.bandit.finish_epochs
    )
    if not decided and settings.epochs <= settings.alpha_start_epoch:
        raise RecipeError(
            "A search whose α decide trains them in at least one epoch. Received: search.epochs "
            f"{settings.epochs} with search.alpha_start_epoch {settings.alpha_start_epoch}. Raise "
            "the first, or lower the second."
        )


@dataclasses.dataclass(eq=False, kw_only=True)
class GradientSearch(SupernetSearcher):
    """Search by the gradient of α: BNAS (arXiv 2002.06963), DARTS (1806.09055), SNAS (1812.09926),
    GDAS (1910.04465) and PC-DARTS (1907.05737), depending on the settings; P-DARTS (1904.12760) and
    BATS (2003.01711) in several (`ProgressiveSearch`).

    Args:
        settings, num_classes, input_shape, seed, network, strategy: see `SupernetSearcher`.
        first_epoch: number of the settings' epochs that were trained otherwise before. The entropy
            term and the temperature anneal over those that follow, the learning rate over all.
    """

    first_epoch: int = 0

    def __post_init__(self) -> None:
        self.space = search_space(self.settings)
        relaxation = make_relaxation(self.settings, self.first_epoch)
        data = self.num_classes, self.input_shape
        with scope_of(self.strategy):
            self.supernet = make_supernet(self.settings, relaxation, *data, self.seed)

    @property
    def optimizer_epochs(self) -> int:
        """Epochs of the weights' optimizer, over which its rate decays."""
        return self.settings.epochs

    def checkpoints(self, folder: Path) -> Checkpoints:
        """Those of the search in the folder of its stage."""
        return Checkpoints(folder / "checkpoints")

    def compile(self, steps_per_epoch: int) -> None:
        """Compile the supernet: SGD or Adam with cosine decay for the weights, Adam for α."""
        with scope_of(self.strategy):
            self._compile(steps_per_epoch)

    def _compile(self, steps_per_epoch: int) -> None:
        settings = self.settings
        first, second = settings.alpha_betas
        self.supernet.compile(
            optimizer=weight_optimizer(settings, self.optimizer_epochs * steps_per_epoch),
            alpha_optimizer=CoupledAdam(
                settings.alpha_learning_rate,
                beta_1=first,
                beta_2=second,
                epsilon=1e-8,
                l2=settings.alpha_weight_decay,
            ),
            diversity=AnnealedEntropy(settings.entropy_weight, settings.entropy_tau),
            cost=self._cost(),
            alpha_gradient=_GRADIENTS[settings.order](),
            # The settings count from epoch 0.
            alpha_start_epoch=max(0, settings.alpha_start_epoch - self.first_epoch),
            first_epoch=self.first_epoch,
        )

    def _cost(self) -> ExpectedCost | None:
        settings = self.settings
        if settings.cost is None:
            return None
        return ExpectedCost.from_settings(
            settings.cost,
            self.space,
            self.network or network_of(self.supernet),
            gamma=settings.gamma,
            zeroise_competes=settings.zeroise_competes,
        )

    def run(
        self,
        data: SearchData,
        *,
        folder: Path,
        provenance: dict,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """See `Searcher.run`; also writes alphas.jsonl (α, and edges' β, by epoch) and
        alarms.jsonl.

        Raises:
            TrainingStopped: see `fit`; also if the derived normal cell is all Zeroise.
        """
        settings = self.settings
        self.compile(bilevel_pipeline(data.weights, data.alphas).steps_per_epoch)
        done = self.fit(data, folder=folder, callbacks=callbacks)
        rows = read_rows(folder / RECORD, Alphas)
        if settings.choice == "alpha":
            return self.choose(rows, provenance)
        if done < settings.epochs:
            # What was measured on other weights.
            keep_lines_before(folder / PERTURBATIONS, 0, key="decision")
        cells = perturbed_cells(
            self.supernet,
            data,
            folder,
            examples=settings.choice_examples,
            seed=self.seed,
            zeroise_competes=settings.zeroise_competes,
            strategy=self.strategy,
        )
        facts = {"space": self.space.name, "epoch": settings.epochs, "choice": "perturbation"}
        genotype = Genotype(*cells, provenance={**facts, **provenance})
        _check_signal(genotype)
        accuracy = rows[-1].get("val_accuracy") if rows else None
        return SearchResult(genotype, settings.epochs, accuracy)

    def fit(
        self, data: SearchData, *, folder: Path, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> int:
        """Train the compiled supernet to the last epoch, from the newest checkpoint if any; the
        number of epochs that were done before.

        Raises:
            TrainingStopped: the loss is not finite, or an alarm stops the search.
        """
        with scope_of(self.strategy):
            return self._fit(data, folder, callbacks)

    def _fit(
        self, data: SearchData, folder: Path, callbacks: Sequence[keras.callbacks.Callback]
    ) -> int:
        settings, supernet = self.settings, self.supernet
        pipeline = bilevel_pipeline(data.weights, data.alphas)
        steps_per_epoch = pipeline.steps_per_epoch
        alphas = folder / RECORD

        def record(epoch: int, logs: dict) -> None:
            row = {"epoch": epoch, "val_accuracy": plain(logs).get("val_accuracy")}
            append_line(alphas, {**row, **self._architecture()})

        alarms = Alarms(
            settings.alarms,
            epochs=range(self.first_epoch, settings.epochs),
            log=folder / ALARMS,
            probe=data.credit,
            genotype=lambda: self._genotype(self._architecture(), {}),
        )
        shown = ("loss", "accuracy", "alpha_loss", "alpha_accuracy", "val_accuracy", "entropy")
        done = resumable_fit(
            supernet,
            pipeline.dataset,
            steps_per_epoch=steps_per_epoch,
            epochs=settings.epochs,
            checkpoints=self.checkpoints(folder),
            log=folder / "metrics.jsonl",
            logs=(alphas,),
            optimizers={
                "optimizer": (supernet.optimizer, supernet.network_variables),
                "alpha_optimizer": (supernet.alpha_optimizer, supernet.architecture_variables),
            },
            validation_data=data.validation,
            first_epoch=self.first_epoch,
            checkpoint_minutes=settings.checkpoint_minutes,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_end=record),
                Progress("search", settings.epochs, steps_per_epoch, shown),
                alarms,
                *callbacks,
            ],
        )
        # `fit` does nothing if all epochs were done before.
        alarms.check()
        return done

    def _architecture(self) -> dict[str, list]:
        """The logits of the current α, and edges' β, for JSON."""
        names = ("normal", "reduce", "betas_normal", "betas_reduce")
        values = map(tf.convert_to_tensor, [*self.supernet.logits(), *self.supernet.betas])
        return {name: value.numpy().tolist() for name, value in zip(names, values, strict=False)}

    def _genotype(self, row: dict, provenance: dict) -> Genotype:
        """The genotype of the α (and β) in a line of alphas.jsonl."""
        betas = None
        if "betas_normal" in row:
            betas = np.array(row["betas_normal"]), np.array(row["betas_reduce"])
        settings = self.settings
        discretizer = ArgmaxDiscretizer(settings.gamma, zeroise_competes=settings.zeroise_competes)
        normal, reduce = np.array(row["normal"]), np.array(row["reduce"])
        return discretizer(normal, reduce, self.space, provenance=provenance, betas=betas)

    def choose(self, rows: list[dict], provenance: dict) -> SearchResult:
        """The genotype of the recorded α with the best held-out accuracy, or of the last ones
        (`select`). No epoch before α started to train is the best one."""
        if not rows:
            raise RunError(
                "A finished search needs its record of α. Received: an empty or missing "
                "alphas.jsonl. Delete the folder search/ and resume to search again."
            )
        chosen = rows[-1]
        trained = [row for row in rows if row["epoch"] >= self.settings.alpha_start_epoch]
        measured = [row for row in trained if row.get("val_accuracy") is not None]
        select = self.settings.select if measured else "final"
        # With one row, as of a bandit search without a finish, there is no epoch to choose.
        if select != self.settings.select and len(rows) > 1:
            say("search: without a validation part the last epoch's genotype is taken")
        if select == "best":
            # Of equal accuracies the later α, which were trained longer.
            chosen = max(measured, key=lambda row: (row["val_accuracy"], row["epoch"]))
        genotype = self._genotype(
            chosen, {**provenance, "epoch": chosen["epoch"] + 1, "select": select}
        )
        _check_signal(genotype)
        return SearchResult(genotype, chosen["epoch"] + 1, chosen.get("val_accuracy"))


def _check_signal(genotype: Genotype) -> None:
    if all(edge.op == ZEROISE for node in genotype.normal for edge in node):
        raise TrainingStopped(
            "A searched normal cell needs an edge that carries a signal. "
            "Received: Zeroise on every kept edge. Search longer, raise search.gamma, or "
            "lower search.alpha_learning_rate; α are kept in alphas.jsonl."
        )
