"""`fit` that can be killed at any moment: after each epoch the whole training state is on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bnas_larq.backend import functions_read_once, keras, tf
from bnas_larq.fitting.callbacks import MetricsLog, StopWhenNotFinite
from bnas_larq.fitting.state import TrainingState
from bnas_larq.runs import Checkpoints, keep_lines_before


class _SaveState(keras.callbacks.Callback):
    """Writes a checkpoint at the end of each epoch; the last callback, so that all have acted."""

    def __init__(self, state: TrainingState) -> None:
        super().__init__()
        self.state = state

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.state.save(epoch + 1)


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
    state = TrainingState(model, optimizers, checkpoints)
    start = max(first_epoch, state.restore()[0])
    for path in (log, *logs):
        keep_lines_before(path, start)
    if start < epochs:
        with functions_read_once():
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
                    _SaveState(state),
                ],
            )
    return start
