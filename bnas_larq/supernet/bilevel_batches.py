"""The batches that `SuperNet.fit` takes: one of each half of the training data; and its epochs."""

from __future__ import annotations

from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.supernet.alpha_gradients import Batch


class EpochCounter(keras.callbacks.Callback):
    """Sets the supernet's `epoch` to Keras' epoch minus the supernet's `first_epoch`, also in
    resumed runs (`initial_epoch`)."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.model.epoch.assign(float(self._since_first(epoch)))
        self.model.let_alpha_move(self._since_first(epoch) >= self.model.alpha_start_epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None and self._since_first(epoch) < self.model.alpha_start_epoch:
            # Not measured: better no numbers than zeros.
            for name in ("alpha_loss", "alpha_accuracy"):
                logs.pop(name, None)

    def _since_first(self, epoch: int) -> int:
        return max(0, epoch - self.model.first_epoch)


def both_halves(data: Any) -> tuple[Batch, Batch]:
    """`data` as ((images, labels), (images, labels)); BnasLarqError for another structure."""
    try:
        train, validation = data
        (_, _), (_, _) = train, validation
    except (TypeError, ValueError) as error:
        raise _refusal(tf.nest.map_structure(_described, data)) from error
    return train, validation


def check_halves(data: Any, has_labels: bool) -> None:
    """Raise BnasLarqError for data that `fit` cannot take, if it shows before the first batch;
    `has_labels` says whether labels were given as a second argument."""
    if has_labels or hasattr(data, "shape"):
        raise _refusal("plain images" + " and labels" * has_labels)
    if isinstance(data, tf.data.Dataset):
        both_halves(data.element_spec)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{value.dtype.name}{list(shape)}"


def _refusal(received: Any) -> BnasLarqError:
    return BnasLarqError(
        "A search needs batches of both halves: ((images, labels), (images, labels)); the second "
        f"half moves α. Received: {received}. Zip two data sets (tf.data.Dataset.zip)."
    )
