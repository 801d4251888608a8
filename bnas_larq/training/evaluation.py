"""Evaluation of a network: accuracies, confusion matrix, predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.files import write_atomic
from bnas_larq.tables import csv_text


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Outputs of a network on a data set, in stored order.

    Attributes:
        logits: [examples, classes].
        labels: [examples].
    """

    logits: np.ndarray
    labels: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """The class with the largest logit, [examples]."""
        return self.logits.argmax(axis=1)

    def top(self, k: int) -> float:
        """Share of examples whose label is among the k largest logits; ties go to lower classes."""
        order = np.argsort(-self.logits, axis=1, kind="stable")[:, :k]
        return float(np.mean(np.any(order == self.labels[:, None], axis=1)))

    def confusion(self) -> np.ndarray:
        """Counts [true class, predicted class]."""
        return tf.math.confusion_matrix(self.labels, self.predictions, self.logits.shape[1]).numpy()

    def metrics(self) -> dict[str, float]:
        """Accuracy, top-5 accuracy (with more than five classes), cross-entropy in nats."""
        loss = -self._log_probabilities[np.arange(len(self.labels)), self.labels].mean()
        top5 = {"top5_accuracy": self.top(5)} if self.logits.shape[1] > 5 else {}
        return {"accuracy": self.top(1), **top5, "loss": float(loss), "examples": len(self.labels)}

    @property
    def _log_probabilities(self) -> np.ndarray:
        return tf.nn.log_softmax(self.logits.astype(np.float64)).numpy()

    def write_predictions(
        self, path: Path, class_names: Sequence[str], files: Sequence[str] | None = None
    ) -> None:
        """CSV in stored order: index, label, prediction, confidence (softmax), correct, and with
        `files` the file of each example.
        """
        confidence = np.exp(self._log_probabilities.max(axis=1))
        rows: list[tuple[object, ...]] = [("index", "label", "prediction", "confidence", "correct")]
        rows += [
            (index, class_names[label], class_names[guess], f"{share:.6f}", int(label == guess))
            for index, (label, guess, share) in enumerate(
                zip(self.labels, self.predictions, confidence, strict=True)
            )
        ]
        if files is not None:
            rows = [(*row, name) for row, name in zip(rows, ("file", *files), strict=True)]
        write_atomic(path, csv_text(rows))

    def write_confusion(self, path: Path, class_names: Sequence[str]) -> None:
        """CSV of the confusion matrix: true classes in rows, predicted ones in columns."""
        rows = [
            (name, *counts)
            for name, counts in zip(class_names, self.confusion().tolist(), strict=True)
        ]
        write_atomic(path, csv_text([("label", *class_names), *rows]))


def evaluate_network(model: keras.Model, dataset: tf.data.Dataset) -> Evaluation:
    """Run `model` (logits) over finite (image, label) batches."""
    logits, labels = [], []
    # From a process' fifth network on, TensorFlow mistakes their functions for one that is retraced
    # again and again, and warns.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        for images, targets in dataset:
            logits.append(model.predict_on_batch(images))
            labels.append(np.asarray(targets))
    finally:
        logger.setLevel(level)
    return Evaluation(np.concatenate(logits), np.concatenate(labels).astype(np.int64))
