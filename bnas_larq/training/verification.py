"""Verification: whether two images show the same person, by the distance of their embeddings.

The protocol is that of LFW ("unrestricted, labeled outside data"; Huang and Learned-Miller, UM-CS-
2014-003): each fold is judged by the threshold that is best for the others.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.data import EVALUATION_BATCH, Examples, Normalization, evaluation_dataset
from bnas_larq.data.face_pairs import FacePairs
from bnas_larq.errors import BnasLarqError

#: Of accuracies, and of acceptance rates; squared distances of unit vectors are at most 4.
ACCURACY_THRESHOLDS = np.arange(400) / 100
RATE_THRESHOLDS = np.arange(4000) / 1000


def embed_images(
    model: keras.Model, examples: Examples, normalization: Normalization, *, flip: bool = False
) -> np.ndarray:
    """Embeddings of length 1 of all images in stored order, float32 [images, features].

    Args:
        model: from normalised images to embeddings.
        flip: add the embedding of the mirrored image before scaling to length 1.
    """
    parts = []
    for images, _ in evaluation_dataset(examples, EVALUATION_BATCH, normalization):
        embeddings = model.predict_on_batch(images)
        if flip:
            embeddings = embeddings + model.predict_on_batch(images[:, :, ::-1])
        parts.append(embeddings)
    return unit_length(np.concatenate(parts))


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors [number, features] scaled to length 1; zeros stay.

    Example:
        >>> unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def squared_distances(embeddings: np.ndarray, pairs: FacePairs) -> np.ndarray:
    """‖e₁ − e₂‖² of each pair, [pairs]; 0 to 4 for embeddings of length 1.

    Args:
        embeddings: [images, features], in the order of `pairs.images`.
    """
    difference = embeddings[pairs.first] - embeddings[pairs.second]
    return np.sum(np.square(difference), axis=1)


@dataclasses.dataclass(frozen=True)
class Verification:
    """Distances of pairs, and what they say: a pair is accepted as one person if its distance is
    below a threshold.

    Args:
        distances: squared, [pairs].
        same: bool [pairs], whether both show the same person.
        folds: int [pairs], from 0.

    Raises:
        BnasLarqError: fewer than two folds, or a fold without pairs of one of the kinds.

    Example:
        >>> verification = Verification(
        ...     np.array([0.5, 1.5, 0.7, 0.8]), np.array([1, 0, 1, 0], bool), np.array([0, 0, 1, 1])
        ... )
        >>> verification.fold_accuracies().tolist()
        [1.0, 0.5]
    """

    distances: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __post_init__(self) -> None:
        # [kind, fold]
        counts = [np.bincount(self.folds[kind]) for kind in (self.same, ~self.same)]
        counts = np.array([np.pad(c, (0, self.folds.max(initial=0) + 1 - len(c))) for c in counts])
        if counts.shape[1] < 2 or not counts.all():
            raise BnasLarqError(
                "Verification needs two folds, each with pairs of one person and of two. "
                f"Received: {counts[0].tolist()} of one and {counts[1].tolist()} of two. "
                "Use other pairs."
            )

    def fold_accuracies(self) -> np.ndarray:
        """Share of right verdicts on each fold, by the lowest of the thresholds 0, 0.01 … 3.99 that
        are best for the other folds."""
        right = self._accepted(ACCURACY_THRESHOLDS) == self.same[:, None]
        accuracies = []
        for fold in np.unique(self.folds):
            own = self.folds == fold
            best = right[~own].mean(axis=0).argmax()
            accuracies.append(right[own, best].mean())
        return np.array(accuracies)

    @property
    def threshold(self) -> float:
        """The lowest of these thresholds that is best for all pairs: to judge others by."""
        right = self._accepted(ACCURACY_THRESHOLDS) == self.same[:, None]
        return float(ACCURACY_THRESHOLDS[right.mean(axis=0).argmax()])

    def fold_rates(self, far: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the pairs of one person and of two that are accepted on each fold (TAR and
        FAR), by the threshold where the FAR of the other folds reaches `far`: interpolated linearly
        between the thresholds 0, 0.001 … 3.999.

        Raises:
            BnasLarqError: `far` is not between 0 and 1.
        """
        if not 0 < far < 1:
            raise BnasLarqError(
                f"A false acceptance rate is between 0 and 1. Received: {far}. Use 0.001."
            )
        accepted = self._accepted(RATE_THRESHOLDS)
        rates = []
        for fold in np.unique(self.folds):
            own = self.folds == fold
            others = accepted[~own & ~self.same].mean(axis=0)
            below = self.distances[own] < np.interp(far, others, RATE_THRESHOLDS)
            rates.append([below[kind].mean() for kind in (self.same[own], ~self.same[own])])
        true, false = np.array(rates).T
        return true, false

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """FAR and TAR of all pairs together at every threshold that changes them: rising, from
        (0, 0) to (1, 1)."""
        order = np.argsort(self.distances, kind="stable")
        ends = np.flatnonzero(np.diff(self.distances[order], append=np.inf))
        counts = [np.cumsum(kind[order])[ends] / kind.sum() for kind in (~self.same, self.same)]
        far, tar = (np.concatenate([[0.0], count]) for count in counts)
        return far, tar

    def metrics(self, far: float = 1e-3) -> dict[str, float]:
        """Mean and deviation of the folds' accuracies and of their TAR at `far`, the FAR that it
        came with, the threshold for other pairs, and the number of pairs."""
        accuracies, (tar, reached) = self.fold_accuracies(), self.fold_rates(far)
        return {
            "accuracy": float(accuracies.mean()),
            "accuracy_std": float(accuracies.std()),
            "tar": float(tar.mean()),
            "tar_std": float(tar.std()),
            "far": float(reached.mean()),
            "threshold": self.threshold,
            "pairs": len(self.same),
        }

    def _accepted(self, thresholds: np.ndarray) -> np.ndarray:
        """bool [pairs, thresholds]."""
        return self.distances[:, None] < thresholds


def verify_pairs(embeddings: np.ndarray, pairs: FacePairs) -> Verification:
    """The verification of pairs by embeddings of length 1, [images, features], in the order of
    `pairs.images`."""
    return Verification(squared_distances(embeddings, pairs), pairs.same, pairs.folds)
