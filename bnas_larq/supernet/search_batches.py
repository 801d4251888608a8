"""What a supernet is fitted on: batches of both halves of the training data, epoch by epoch."""

from __future__ import annotations

from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.supernet.alpha_gradients import Batch


class EpochCounter(keras.callbacks.Callback):
    """Keeps the supernet's `epoch` equal to Keras' since the supernet's `first_epoch`, also in
    resumed runs (`initial_epoch`)."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.model.epoch.assign(float(self._since_first(epoch)))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None and self._since_first(epoch) < self.model.alpha_start_epoch:
            # Nothing was measured: no numbers instead of zeros.
            for name in ("alpha_loss", "alpha_accuracy"):
                logs.pop(name, None)

    def _since_first(self, epoch: int) -> int:
        return max(0, epoch - self.model.first_epoch)


def both_halves(data: Any) -> tuple[Batch, Batch]:
    """`data` as ((images, labels), (images, labels)).

    Raises:
        BnasLarqError: it is something else.
    """
    try:
        train, validation = data
        (_, _), (_, _) = train, validation
    except (TypeError, ValueError) as error:
        raise _refusal(tf.nest.map_structure(_described, data)) from error
    return train, validation


def check_halves(data: Any, has_labels: bool) -> None:
    """Raise BnasLarqError for what `fit` cannot take, as far as it can be seen from outside.

    Args:
        data: the first argument of `fit`.
        has_labels: whether there is a second one.
    """
    if has_labels or hasattr(data, "shape"):
        raise _refusal("plain images" + " and labels" * has_labels)
    if isinstance(data, tf.data.Dataset):
        both_halves(data.element_spec)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{value.dtype.name}{list(shape)}"


def _refusal(found: Any) -> BnasLarqError:
    return BnasLarqError(
        "A search needs batches of both halves: ((images, labels), (images, labels)), of which the "
        f"second moves α. Received: {found}. Zip two data sets (tf.data.Dataset.zip)."
    )
