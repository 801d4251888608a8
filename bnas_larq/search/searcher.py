"""What all searches have in common: what they learn from, what they are asked, what they give."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.data import EpochPipeline
from bnas_larq.genotype import Genotype


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        genotype: the chosen one.
        epoch: number of epochs (of a tuner: trials) behind what it was derived from.
        validation_accuracy: accuracy on held-out images that goes with it, or None.
    """

    genotype: Genotype
    epoch: int
    validation_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class SearchData:
    """What a search in a supernet learns from.

    Attributes:
        weights: training batches of the half that moves the network's weights.
        alphas: training batches of the half that moves α.
        credit: the α half once, in a fixed shuffled order and unaugmented, in evaluation batches.
        validation: held-out (image, label) batches, or None.
    """

    weights: EpochPipeline
    alphas: EpochPipeline
    credit: tf.data.Dataset
    validation: tf.data.Dataset | None


class Searcher(abc.ABC):
    """One way to search, made of the recipe's section `search`."""

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
            folder: of the stage: gets metrics.jsonl, checkpoints/ and the search's own records.
            provenance: goes into the genotype.

        Raises:
            TrainingStopped: nothing sensible can come of going on; the message says why.
        """
