"""Runs a Keras model's own `train_step` batch by batch, with a clock between all parts of it.

`fit` does the same, but fetches the batch inside the graph of the step, where waiting cannot be
told from computing.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from bnas_larq.backend import functions_read_once, keras, tf


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the parts of a training's beginning.

    Attributes:
        trace: Python builds the graph of the step.
        first_batch: from opening the pipeline to its first batch.
        first_step: the first call: TensorFlow optimises the graph, prepares kernels and computes.
        steps: each further step, from the batch at hand to its results on the host.
        waits: before each of these, until the pipeline hands out the batch.
    """

    trace: float
    first_batch: float
    first_step: float
    steps: tuple[float, ...]
    waits: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median step."""
        return statistics.median(self.steps)

    @property
    def best(self) -> float:
        """The shortest step."""
        return min(self.steps)

    @property
    def waiting(self) -> float:
        """Share of the loop's time in which the step waits for data."""
        return sum(self.waits) / (sum(self.waits) + sum(self.steps))


class StepLoop:
    """The training loop of a compiled model.

    Args:
        model: compiled, its weights and its optimizers' built.
        dataset: endless batches.
        before_step: called before each step, as a callback's `on_train_batch_begin` would be.
    """

    def __init__(
        self,
        model: keras.Model,
        dataset: tf.data.Dataset,
        before_step: Callable[[], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.before_step = before_step or (lambda: None)

        def step(*batch: Any) -> Any:
            return model.train_step(batch)

        # As in `fit`, the graph is made for the shapes that the pipeline promises.
        self._function = tf.function(step, input_signature=dataset.element_spec)
        self._batch: Any = None

    def run(self, steps: int) -> Timing:
        """The first step, then `steps` more."""
        with functions_read_once():
            return self._run(steps)

    def _run(self, steps: int) -> Timing:
        start = time.perf_counter()
        self._function.get_concrete_function()
        trace = time.perf_counter() - start

        start = time.perf_counter()
        batches = iter(self.dataset)
        batch = next(batches)
        first_batch = time.perf_counter() - start

        start = time.perf_counter()
        self._compute(batch)
        first_step = time.perf_counter() - start

        waits, times = [], []
        for _ in range(steps):
            start = time.perf_counter()
            batch = next(batches)
            fetched = time.perf_counter()
            self._compute(batch)
            waits.append(fetched - start)
            times.append(time.perf_counter() - fetched)
        self._batch = batch
        return Timing(trace, first_batch, first_step, tuple(times), tuple(waits))

    def again(self) -> None:
        """One more step on the last batch, without the pipeline; after `run`."""
        self._compute(self._batch)

    def _compute(self, batch: Any) -> None:
        self.before_step()
        results = self._function(*batch)
        # A device may still be at work when a function returns: the values are what is waited for.
        tf.nest.map_structure(lambda result: result.numpy(), results)
