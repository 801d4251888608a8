"""Times of a network's other passes: evaluation, and estimation of BatchNorm's statistics."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.benchmark.timing import StepLoop
from bnas_larq.fitting.batch_norm_statistics import reestimate


def inference_times(model: keras.Model, loop: StepLoop, steps: int) -> dict[str, float]:
    """Seconds in which a batch is evaluated, and in which BatchNorm's statistics are estimated from
    it again."""

    def seconds(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    images, _ = loop.batch
    model.predict_on_batch(images)
    evaluation = [seconds(lambda: model.predict_on_batch(images)) for _ in range(steps)]
    # Each estimation traces and compiles its graph.
    batches = tf.data.Dataset.from_tensors(loop.batch).repeat()
    one, more = (
        seconds(lambda count=count: reestimate(model, batches.take(count)))
        for count in (1, steps + 1)
    )
    return {
        "evaluation_seconds": statistics.median(evaluation),
        "reestimation_seconds": max(0.0, more - one) / steps,
    }
