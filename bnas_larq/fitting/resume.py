"""`fit` that can be killed at any moment: each epoch, or every few minutes inside long ones, writes
the whole training state to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.data import EvaluationPipeline, distributed
from bnas_larq.determinism import functions_read_once
from bnas_larq.errors import CheckpointError, WeightsError, one_line
from bnas_larq.files import keep_lines_before, read_json, write_json
from bnas_larq.fitting.callbacks import MetricsLog, StopWhenNotFinite
from bnas_larq.fitting.inside_epoch import Position, SaveInside, TakeUp, begun_inside
from bnas_larq.strategies import level_statistics


def resumable_fit(
    model: keras.Model,
    dataset: Callable[..., tf.data.Dataset],
    *,
    steps_per_epoch: int,
    epochs: int,
    checkpoints: Checkpoints,
    log: Path,
    optimizers: Mapping[str, tuple[keras.optimizers.Optimizer, Sequence[tf.Variable]]],
    validation_data: tf.data.Dataset | EvaluationPipeline | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    logs: Sequence[Path] = (),
    first_epoch: int = 0,
    facts: Mapping[str, str] | None = None,
    checkpoint_minutes: float = 0.0,
) -> int:
    """Train `model` to `epochs`, from the newest intact checkpoint if there is one.

    Args:
        dataset: endless batches from a step (default: the first) of a given epoch, which alone
            determine them; under a strategy of `tf.distribute`, with `shard` those that one of its
            pipelines feeds to replicas, see `EpochPipeline.dataset`.
        log: JSON-lines file of the metrics; lines of epochs that are trained again are dropped.
        optimizers: see `TrainingState`.
        logs: further JSON-lines files that callbacks write, treated like `log`.
        first_epoch: number of the first epoch, if another stage has trained those before it.
        facts: further entries of each line of `log`.
        checkpoint_minutes: from one checkpoint to the next inside epochs; 0 for none there. All
            metrics must then be means.

    Returns:
        The number of epochs that an earlier process or stage has done.

    Raises:
        TrainingStopped: the loss is no longer finite; other errors as of `TrainingState.restore`.
    """
    state = TrainingState(model, optimizers, checkpoints)
    done, record = state.restore()
    position = Position() if record is None else Position.model_validate(record)
    start, step = max(first_epoch, done), position.step
    for path in (log, *logs):
        keep_lines_before(path, start)
    if start < epochs:
        metrics_log = MetricsLog(log, facts, position.seconds)
        # The last callbacks, so that they see what others did.
        saving: list[keras.callbacks.Callback] = [
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: state.save(epoch + 1))
        ]
        if checkpoint_minutes:

            def save(epoch: int, inside: Position) -> None:
                state.save(epoch, inside.model_dump(), inside.step)

            saving.append(SaveInside(save, checkpoint_minutes, steps_per_epoch, metrics_log))
        held_out = {"validation_data": validation_data}
        if isinstance(validation_data, EvaluationPipeline):
            held_out = validation_data.for_fit()
        # Replicas evaluate with the statistics that the network would be saved with.
        level = keras.callbacks.LambdaCallback(
            on_test_begin=lambda _: level_statistics(model.variables)()
        )
        # Every replica returns the metrics of all.
        model.distribute_reduction_method = "first"
        with functions_read_once(), begun_inside(model, start, step):
            model.fit(
                distributed(partial(dataset, start, *([step] if step else []))),
                steps_per_epoch=steps_per_epoch,
                initial_epoch=start,
                epochs=epochs,
                **held_out,
                verbose=0,
                callbacks=[
                    level,
                    *([TakeUp(position)] if step else []),
                    StopWhenNotFinite(),
                    metrics_log,
                    *callbacks,
                    *saving,
                ],
            )
    return start


_PREFIX = "state"
_RECORD = "record.json"


class TrainingState:
    """A model and its optimizers as numbered checkpoints.

    Args:
        optimizers: by name, with the variables each one updates (their slots are built at once, to
            be restored).
    """

    def __init__(
        self,
        model: keras.Model,
        optimizers: Mapping[str, tuple[keras.optimizers.Optimizer, Sequence[tf.Variable]]],
        checkpoints: Checkpoints,
    ) -> None:
        for optimizer, variables in optimizers.values():
            optimizer.build(list(variables))
        # Saves only what is named here, no `save_counter`.
        self._checkpoint = tf.train.Checkpoint(
            model=model, **{name: optimizer for name, (optimizer, _) in optimizers.items()}
        )
        self._model, self._checkpoints = model, checkpoints

    def save(self, number: int, record: Any = None, step: int = 0) -> None:
        """Write checkpoint `number`, or one `step` steps after it, with a `record` for JSON.
        RunError if it cannot be written; earlier ones are kept. Replicas continue with the
        state that was written.
        """
        level = level_statistics(self._model.variables)

        def write(folder: Path) -> None:
            try:
                self._checkpoint.write(str(folder / _PREFIX))
            except tf.errors.OpError as error:
                # A full disk; `Checkpoints` expects the system's exception.
                raise OSError(one_line(error)) from error
            if record is not None:
                write_json(folder / _RECORD, record)

        self._checkpoints.save(number, write, step)
        level()

    def restore(self) -> tuple[int, Any]:
        """Restore the newest intact checkpoint: its number and its record, or (0, None).
        CheckpointError or WeightsError without a usable one.
        """
        for number, folder in self._checkpoints.candidates():
            try:
                read = self._checkpoint.read(str(folder / _PREFIX))
                read.assert_existing_objects_matched()
            except (ValueError, AssertionError) as error:
                raise WeightsError(
                    f"A checkpoint must hold the weights of this very model. Received: {folder} "
                    f"({one_line(error)[:200]}). Resume with the recipe that the run began with."
                ) from error
            except tf.errors.OpError as error:
                raise CheckpointError(
                    f"A checkpoint must be readable. Received: {folder} "
                    f"({one_line(error)[:200]}). Delete it and resume."
                ) from error
            path = folder / _RECORD
            return number, read_json(path) if path.exists() else None
        return 0, None
