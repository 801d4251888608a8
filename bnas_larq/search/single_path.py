"""A path of a supernet, trained and measured by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.data import EVALUATION_BATCH, distributed
from bnas_larq.search.searcher import SearchData
from bnas_larq.strategies import Strategy, of_chief, scope_of
from bnas_larq.supernet.super_net import SuperNet


def equal_batch_size(examples: int) -> int:
    """The size of evaluation batches that are nearly equal: each is measured with statistics of its
    own, which those of a small last one would spoil.

    Example:
        >>> [equal_batch_size(examples) for examples in (100, 250, 251, 600)]
        [100, 250, 126, 200]
    """
    return max(1, -(-examples // -(-max(1, examples) // EVALUATION_BATCH)))


class PathAccuracy:
    """Evaluates the path, or the mixture, that the supernet is set to; traced once.

    Under a strategy a copy of the supernet is evaluated, on one device of the chief's: as without
    one, and all processes go on with the same figure.

    Args:
        supernet: to evaluate.
        data: of the search, whose `credit` is evaluated on. For `SinglePath`, `weights` train.
        credit_examples: only the first ones of it, in equal batches; None for all as they are.
        strategy: that the supernet was made under; this object is made outside of its scope.
    """

    def __init__(
        self,
        supernet: SuperNet,
        data: SearchData,
        credit_examples: int | None,
        strategy: Strategy | None = None,
    ) -> None:
        self._pipeline, self._credit = data.weights, data.credit
        if credit_examples is not None:
            examples = data.credit.unbatch().take(credit_examples)
            count = int(examples.reduce(np.int64(0), lambda number, _: number + 1))
            self._credit = examples.batch(equal_batch_size(count))
        self._strategy, self._original, self._supernet = strategy, supernet, supernet
        if strategy is not None:
            self._supernet = SuperNet.from_config(supernet.get_config())
        self._hits = tf.function(
            self._count_hits, input_signature=self._credit.element_spec, autograph=False
        )

    def accuracy(self) -> float:
        """Accuracy on the examples for credit."""
        return of_chief(self._strategy, self._of_present_weights)

    def _of_present_weights(self) -> float:
        if self._supernet is not self._original:
            self._supernet.relaxation = self._original.relaxation
            for copy, weight in zip(self._supernet.weights, self._original.weights, strict=True):
                # No measurement reads moving averages, which each replica has of its own.
                if weight.synchronization != tf.VariableSynchronization.ON_READ:
                    copy.assign(weight)
        return self._measured()

    def _measured(self) -> float:
        hits, examples = 0, 0
        for images, labels in self._credit:
            hits += int(self._hits(images, labels))
            examples += len(labels)
        return hits / examples

    def _count_hits(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        predictions = tf.argmax(self._logits(images), axis=-1, output_type=labels.dtype)
        return tf.reduce_sum(tf.cast(predictions == labels, tf.int32))

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        """With the statistics of the batch."""
        with self._supernet.helper_passes():
            return self._supernet(images, training=True)


class SinglePath(PathAccuracy):
    """Also trains the path of a supernet that is compiled, with its optimizer built."""

    def start(self, step: int) -> None:
        """Go to the training stream's batch number `step`."""
        epoch, rest = divmod(step, self._pipeline.steps_per_epoch)
        with scope_of(self._strategy):
            self._batches = iter(
                distributed(functools.partial(self._pipeline.dataset, epoch, rest))
            )

    @functools.cached_property
    def _step(self) -> Callable[..., None]:
        """Traced once."""
        return tf.function(self._replicas_step, autograph=False)

    def train(
        self, steps: int, callback: keras.callbacks.Callback | None = None
    ) -> dict[str, float]:
        """Train for some steps; mean loss and accuracy of their batches."""
        with scope_of(self._strategy):
            self._original.reset_metrics()
            for step in range(steps):
                self._step(*next(self._batches))
                if callback is not None:
                    callback.on_train_batch_end(step)
            metrics = {metric.name: metric for metric in self._original.metrics}
            return {name: float(metrics[name].result()) for name in ("loss", "accuracy")}

    def _replicas_step(self, *batch: tf.Tensor) -> None:
        tf.distribute.get_strategy().run(self._original.weight_step, args=batch)
