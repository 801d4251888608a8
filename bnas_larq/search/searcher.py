"""The interface of all searchers: their data, their call, their result."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.console import end_progress
from bnas_larq.data import EpochPipeline, EvaluationPipeline
from bnas_larq.fitting.callbacks import Progress
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.settings import SearchSettings
from bnas_larq.strategies import Strategy


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        genotype: the chosen one.
        epoch: number of epochs (keras-tuner: trials) that it was derived after.
        validation_accuracy: its accuracy on held-out images, or None.
    """

    genotype: Genotype
    epoch: int
    validation_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class SearchData:
    """The data of a search in a supernet.

    Attributes:
        weights: training batches of the half that trains the network's weights.
        alphas: training batches of the half that trains α; None for a search without α, whose
            weights learn from both.
        credit: the α half in evaluation batches: once, unaugmented, in a fixed shuffled order.
            Without α, held-out images instead.
        validation: held-out (image, label) batches, or None.
    """

    weights: EpochPipeline
    alphas: EpochPipeline | None
    credit: tf.data.Dataset
    validation: tf.data.Dataset | EvaluationPipeline | None


@contextlib.contextmanager
def running(progress: Progress) -> Iterator[None]:
    """Show the progress of work that `fit` does not do, and end it however the work ends."""
    progress.on_train_begin()
    try:
        yield
    finally:
        end_progress()


class Searcher(abc.ABC):
    """A search method with its settings, the recipe's section `search`."""

    @abc.abstractmethod
    def run(
        self,
        data: SearchData | None,
        *,
        folder: Path,
        provenance: dict[str, Any],
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> SearchResult:
        """Search, from the newest checkpoint in `folder` if there is one.

        Args:
            data: None for a search without a supernet.
            folder: of the stage; gets metrics.jsonl, checkpoints/ and the search's own records.
            provenance: of the genotype.

        Raises:
            TrainingStopped: the search cannot continue sensibly.
        """


@dataclasses.dataclass(eq=False)
class SupernetSearcher(Searcher):
    """A search in a supernet.

    Args:
        settings: the recipe's section `search`.
        num_classes, input_shape: of the data.
        seed: of all draws.
        network: size of the final network, for its cost; None for the supernet's.
        strategy: of `tf.distribute`, under which the supernet trains; see `bnas_larq.strategies`.
    """

    settings: SearchSettings
    num_classes: int
    input_shape: tuple[int, int, int]
    seed: int = 0
    _: dataclasses.KW_ONLY
    network: NetworkConfig | None = None
    strategy: Strategy | None = None
