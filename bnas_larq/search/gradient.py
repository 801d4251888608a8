"""The gradient search of BNAS: resumable bilevel training of the supernet, α recorded by epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.discretize import ArgmaxDiscretizer
from bnas_larq.errors import RunError, TrainingStopped
from bnas_larq.fitting.callbacks import EpochHook, Progress
from bnas_larq.fitting.resume import resumable_fit
from bnas_larq.genotype import Genotype
from bnas_larq.models.diversity import AnnealedEntropy
from bnas_larq.models.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.models.supernet import SuperNet
from bnas_larq.precision import choose_precision
from bnas_larq.recipe import SearchSettings
from bnas_larq.runs import Checkpoints, append_line, read_lines
from bnas_larq.spaces import ZEROISE, SearchSpace


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        genotype: the chosen one.
        epoch: number of epochs behind the α it was derived from.
        validation_accuracy: accuracy of the supernet with that α on held-out images, or None.
    """

    genotype: Genotype
    epoch: int
    validation_accuracy: float | None


class GradientSearch:
    """First-order bilevel search (DARTS, arXiv 1806.09055), BNAS' loss (arXiv 2002.06963).

    Args:
        settings: the recipe's section `search`.
        num_classes, input_shape: of the data.
    """

    def __init__(
        self, settings: SearchSettings, num_classes: int, input_shape: tuple[int, int, int]
    ) -> None:
        self.settings = settings
        self.space = SearchSpace.named(settings.space)
        self.supernet = SuperNet(
            self.space,
            num_classes,
            cells=settings.cells,
            channels=settings.channels,
            scheme=settings.scheme,
            mixed_precision=choose_precision(settings.mixed_precision).name,
            input_shape=input_shape,
        )

    def compile(self, steps_per_epoch: int) -> None:
        """Optimizers of the settings: SGD with cosine decay for the weights, Adam for α."""
        settings = self.settings
        rate = keras.optimizers.schedules.CosineDecay(
            settings.learning_rate,
            settings.epochs * steps_per_epoch,
            alpha=min(1.0, settings.minimum_learning_rate / settings.learning_rate),
        )
        first, second = settings.alpha_betas
        self.supernet.compile(
            optimizer=CoupledSGD(
                rate,
                momentum=settings.momentum,
                l2=settings.weight_decay,
                clip_norm=settings.clip_norm,
            ),
            alpha_optimizer=CoupledAdam(
                settings.alpha_learning_rate,
                beta_1=first,
                beta_2=second,
                epsilon=1e-8,
                l2=settings.alpha_weight_decay,
            ),
            diversity=AnnealedEntropy(settings.entropy_weight, settings.entropy_tau),
        )

    def run(
        self,
        dataset: Callable[[int], tf.data.Dataset],
        steps_per_epoch: int,
        *,
        validation_data: tf.data.Dataset | None,
        folder: Path,
        provenance: dict,
        callbacks: tuple[keras.callbacks.Callback, ...] = (),
    ) -> SearchResult:
        """Search, from the newest checkpoint in `folder` if there is one.

        Args:
            dataset: bilevel batches from the first one of a given epoch on.
            validation_data: held-out (image, label) batches, evaluated after each epoch.
            folder: gets metrics.jsonl, alphas.jsonl and checkpoints/.
            provenance: goes into the genotype.

        Raises:
            TrainingStopped: the loss is not finite, or the derived normal cell is all Zeroise.
        """
        settings, supernet = self.settings, self.supernet
        self.compile(steps_per_epoch)
        alphas = folder / "alphas.jsonl"

        def record(epoch: int, logs: dict[str, float]) -> None:
            normal, reduce = (alpha.numpy() for alpha in supernet.alphas)
            accuracy = logs.get("val_accuracy")
            append_line(
                alphas,
                {
                    "epoch": epoch,
                    "val_accuracy": accuracy,
                    "normal": normal.tolist(),
                    "reduce": reduce.tolist(),
                },
            )

        resumable_fit(
            supernet,
            dataset,
            steps_per_epoch=steps_per_epoch,
            epochs=settings.epochs,
            checkpoints=Checkpoints(folder / "checkpoints"),
            log=folder / "metrics.jsonl",
            logs=(alphas,),
            optimizers={
                "optimizer": (supernet.optimizer, supernet.network_variables),
                "alpha_optimizer": (supernet.alpha_optimizer, supernet.alphas),
            },
            validation_data=validation_data,
            callbacks=[
                EpochHook(record),
                Progress(
                    "search",
                    settings.epochs,
                    steps_per_epoch,
                    ("loss", "accuracy", "alpha_loss", "alpha_accuracy", "val_accuracy", "entropy"),
                ),
                *callbacks,
            ],
        )
        return self.choose(read_lines(alphas), provenance)

    def choose(self, rows: list[dict], provenance: dict) -> SearchResult:
        """The genotype of the recorded α with the best held-out accuracy, or the last (`select`).

        The genotype is that of the very α that was evaluated; the last α takes part.
        """
        if not rows:
            raise RunError(
                "A finished search needs its record of α. Received: an empty or missing "
                "alphas.jsonl. Delete the folder search/ and resume: the search is done again."
            )
        chosen = rows[-1]
        measured = [row for row in rows if row.get("val_accuracy") is not None]
        if self.settings.select == "best" and measured:
            # Of equal accuracies the later α, which was trained longer.
            chosen = max(measured, key=lambda row: (row["val_accuracy"], row["epoch"]))
        genotype = ArgmaxDiscretizer(self.settings.gamma)(
            np.array(chosen["normal"]),
            np.array(chosen["reduce"]),
            self.space,
            provenance={**provenance, "epoch": chosen["epoch"] + 1, "select": self.settings.select},
        )
        if all(edge.op == ZEROISE for node in genotype.normal for edge in node):
            raise TrainingStopped(
                "A searched normal cell needs an edge that carries a signal. "
                "Received: Zeroise on every kept edge. Search longer, raise search.gamma, or "
                "lower search.alpha_learning_rate; α is kept in alphas.jsonl."
            )
        return SearchResult(genotype, chosen["epoch"] + 1, chosen.get("val_accuracy"))
