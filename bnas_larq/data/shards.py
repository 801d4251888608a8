"""What each process of a `tf.distribute` strategy reads of a global batch: its own rows by index,
so that none decodes the images of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnas_larq.backend import tf


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of one input pipeline, of those that feed all replicas.

    Attributes:
        number: of the pipeline, from 0.
        pipelines: how many there are.
        replicas: how many replicas all of them feed, each the same number.
    """

    number: int
    pipelines: int
    replicas: int

    @property
    def fed(self) -> int:
        """How many replicas this pipeline feeds."""
        return self.replicas // self.pipelines

    def rows(self, batch_size: int) -> int:
        """Rows of each replica in a global batch, which is a multiple of `replicas`."""
        return batch_size // self.replicas

    def order(self, indices: tf.Tensor, batch_size: int, following: int = 0) -> tf.Tensor:
        """The indices, in the order of an epoch, that this pipeline reads: in every full batch
        those of one of its replicas after the other, [batches·replicas·(rows + following)].

        Args:
            indices: int64 [examples].
            batch_size: of the global batch, a multiple of `replicas`.
            following: how many rows each replica also gets of those that follow its own in the
                batch, which wraps around.

        Example:
            >>> Shard(1, 2, replicas=2).order(tf.range(9), batch_size=4).numpy().tolist()
            [2, 3, 6, 7]
            >>> Shard(1, 2, replicas=2).order(tf.range(9), 4, following=1).numpy().tolist()
            [2, 3, 0, 6, 7, 4]
        """
        steps = tf.shape(indices)[0] // batch_size
        batches = tf.reshape(indices[: steps * batch_size], [steps, batch_size])
        rows, replicas = self.rows(batch_size), np.arange(self.fed) + self.number * self.fed
        first = replicas[:, None] * rows
        columns = (first + np.arange(rows + following)) % batch_size
        return tf.reshape(tf.gather(batches, columns.ravel(), axis=1), [-1])

    def positions(self, examples: int) -> np.ndarray:
        """The positions, of a finite set in its stored order, that this pipeline reads."""
        return np.arange(self.number, examples, self.pipelines)


def distributed(make: Callable[..., tf.data.Dataset]) -> Any:
    """`make()`, or under a strategy the data set whose pipelines are `make(shard=…)`, of batches
    for one replica each."""
    if not tf.distribute.has_strategy():
        return make()
    strategy = tf.distribute.get_strategy()

    def of_pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        pipelines, replicas = context.num_input_pipelines, context.num_replicas_in_sync
        return make(shard=Shard(context.input_pipeline_id, pipelines, replicas))

    return strategy.distribute_datasets_from_function(of_pipeline)
