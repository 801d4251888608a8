"""The whole state of a training on disk: weights, optimizers and what else must be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.errors import CheckpointError, WeightsError, one_line
from bnas_larq.runs import Checkpoints, read_json, write_json

_PREFIX = "state"
_RECORD = "record.json"


class TrainingState:
    """A model and its optimizers as numbered checkpoints.

    Args:
        model: what is trained.
        optimizers: by name, with the variables each one moves (their slots are built at once, so
            that there is something to restore).
        checkpoints: where they are kept.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizers: Mapping[str, tuple[keras.optimizers.Optimizer, Sequence[tf.Variable]]],
        checkpoints: Checkpoints,
    ) -> None:
        for optimizer, variables in optimizers.values():
            optimizer.build(list(variables))
        # `save_counter` and the like are no part of the model: only what is named here is saved.
        self._checkpoint = tf.train.Checkpoint(
            model=model, **{name: optimizer for name, (optimizer, _) in optimizers.items()}
        )
        self._checkpoints = checkpoints

    def save(self, number: int, record: Any = None) -> None:
        """Write checkpoint `number`, with a `record` (for JSON) that belongs to it.

        Raises:
            RunError: it cannot be written; earlier ones are kept.
        """

        def write(folder: Path) -> None:
            try:
                self._checkpoint.write(str(folder / _PREFIX))
            except tf.errors.OpError as error:
                # TensorFlow has its own exceptions for a full disk; `Checkpoints` knows the
                # system's.
                raise OSError(one_line(error)) from error
            if record is not None:
                write_json(folder / _RECORD, record)

        self._checkpoints.save(number, write)

    def restore(self) -> tuple[int, Any]:
        """Restore the newest intact checkpoint: its number and its record, or (0, None).

        Raises:
            CheckpointError, WeightsError: no usable checkpoint.
        """
        for number, folder in self._checkpoints.candidates():
            try:
                read = self._checkpoint.read(str(folder / _PREFIX))
                read.assert_existing_objects_matched()
            except (ValueError, AssertionError) as error:
                raise WeightsError(
                    "A checkpoint must hold the weights of this very model. "
                    f"Received: {folder} ({one_line(error)[:200]}). "
                    "Resume with the recipe that the run began with."
                ) from error
            except tf.errors.OpError as error:
                raise CheckpointError(
                    f"A checkpoint must be readable. Received: {folder} "
                    f"({one_line(error)[:200]}). Delete it and resume."
                ) from error
            path = folder / _RECORD
            return number, read_json(path) if path.exists() else None
        return 0, None
