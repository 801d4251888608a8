"""Gradients averaged over parts of a batch, for batches whose activations exceed the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.layers.cells import drop_path_controls


@contextlib.contextmanager
def accumulated(model: keras.Model, parts: int) -> Iterator[None]:
    """Inside, a training step of the compiled `model` splits its batch into this many equal parts,
    processes them one after the other, and applies the mean of their gradients once.

    Clipping and decay act on that mean. BatchNorm normalises each part by its own statistics, and
    its moving averages take a step with each. Metrics are means. The training function is traced
    anew on entry and exit.
    """
    if parts == 1:
        yield
        return
    step, optimizer = model.train_step, model.optimizer
    controls = drop_path_controls(model)

    @tf.autograph.experimental.do_not_convert
    def train_step(data: Any) -> dict[str, tf.Tensor]:
        variables: list[tf.Variable] = []

        def part_step(part: Any) -> list[tf.Tensor]:
            """The gradients of one part."""
            pairs: list[tuple[tf.Tensor, tf.Variable]] = []
            optimizer.apply_gradients = lambda found, *_, **__: pairs.extend(found)
            try:
                step(part)
            finally:
                del optimizer.apply_gradients
            pairs = [pair for pair in pairs if pair[0] is not None]
            variables[:] = [variable for _, variable in pairs]
            return [gradient for gradient, _ in pairs]

        # A call that is not inlined ends before the next begins, and frees its activations.
        call = tf.function(part_step, autograph=False, experimental_attributes={"_noinline": True})
        split = [tf.split(tensor, parts) for tensor in tf.nest.flatten(data)]
        batches = [tf.nest.pack_sequence_as(data, flat) for flat in zip(*split, strict=True)]
        # A step adds its own sums to the metrics' at once, as `TakeUp` does in a resumed epoch.
        call.get_concrete_function(batches[0])  # Keras knows its metrics only once it is traced
        sums = list({id(v): v for metric in model.metrics for v in metric.variables}.values())
        earlier = [variable.value() for variable in sums]
        for variable in sums:
            variable.assign(tf.zeros_like(variable))
        total: list[tf.Tensor] = []
        for number, batch in enumerate(batches):
            for control in controls:
                # Masks of its own for each part.
                control.step.assign(optimizer.iterations * parts + number)
            gradients = call(batch)
            total = [a + b for a, b in zip(total, gradients, strict=True)] if total else gradients
        means = [gradient / parts for gradient in total]
        optimizer.apply_gradients(zip(means, variables, strict=True))
        for variable, value in zip(sums, earlier, strict=True):
            variable.assign_add(value)
        return model.get_metrics_result()

    try:
        model.train_function, model.train_step = None, train_step
        yield
    finally:
        model.train_function, model.train_step = None, step
