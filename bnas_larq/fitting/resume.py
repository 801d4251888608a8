"""`fit` that can be killed at any moment: after each epoch the whole training state is on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bnas_larq.backend import keras, tf
from bnas_larq.errors import CheckpointError, WeightsError, one_line
from bnas_larq.fitting.callbacks import MetricsLog, StopWhenNotFinite
from bnas_larq.runs import Checkpoints, keep_lines_before

_PREFIX = "state"


class _SaveState(keras.callbacks.Callback):
    """Writes a checkpoint at the end of each epoch; the last callback, so that all have acted."""

    def __init__(self, checkpoint: tf.train.Checkpoint, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.checkpoints.save(epoch + 1, self._write)

    def _write(self, folder: Path) -> None:
        try:
            self.checkpoint.write(str(folder / _PREFIX))
        except tf.errors.OpError as error:
            # TensorFlow has its own exceptions for a full disk; `Checkpoints` knows the system's.
            raise OSError(one_line(error)) from error


def _restore(checkpoint: tf.train.Checkpoint, checkpoints: Checkpoints) -> int:
    """Restore the newest intact checkpoint; return the number of epochs it has behind it."""
    for epoch, folder in checkpoints.candidates():
        try:
            checkpoint.read(str(folder / _PREFIX)).assert_existing_objects_matched()
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
        return epoch
    return 0


def resumable_fit(
    model: keras.Model,
    dataset: Callable[[int], tf.data.Dataset],
    *,
    steps_per_epoch: int,
    epochs: int,
    checkpoints: Checkpoints,
    log: Path,
    optimizers: Mapping[str, tuple[keras.optimizers.Optimizer, Sequence[tf.Variable]]],
    validation_data: tf.data.Dataset | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    logs: Sequence[Path] = (),
    first_epoch: int = 0,
) -> int:
    """Train `model` to `epochs`, from the newest intact checkpoint if there is one.

    Args:
        dataset: endless batches from the first one of a given epoch on, a function of it alone.
        log: JSON-lines file of the metrics; lines of epochs that are trained again are dropped.
        optimizers: by name, with the variables each one moves (their slots are built before
            restoring).
        logs: further JSON-lines files that a callback writes, treated like `log`.
        first_epoch: number of the first epoch, when another stage has trained those before it.

    Returns:
        The number of epochs that lie behind, of an earlier process or stage.

    Raises:
        CheckpointError, WeightsError: no usable checkpoint.
        TrainingStopped: the loss is no longer finite.
    """
    for optimizer, variables in optimizers.values():
        optimizer.build(list(variables))
    # `save_counter` and the like are no part of the model: only what is named here is saved.
    checkpoint = tf.train.Checkpoint(
        model=model, **{name: optimizer for name, (optimizer, _) in optimizers.items()}
    )
    start = max(first_epoch, _restore(checkpoint, checkpoints))
    for path in (log, *logs):
        keep_lines_before(path, start)
    if start < epochs:
        model.fit(
            dataset(start),
            steps_per_epoch=steps_per_epoch,
            initial_epoch=start,
            epochs=epochs,
            validation_data=validation_data,
            verbose=0,
            callbacks=[
                StopWhenNotFinite(),
                MetricsLog(log),
                *callbacks,
                _SaveState(checkpoint, checkpoints),
            ],
        )
    return start
