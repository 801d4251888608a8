"""Training of a supernet's weights on one path after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.determinism import uncollected
from bnas_larq.genotype import Genotype
from bnas_larq.supernet.fixed_choices import FixedPath
from bnas_larq.supernet.super_net import SuperNet


class PathTraining(keras.Model):
    """A compiled supernet whose weights `fit` trains, each batch on the path of one genotype.

    Its relaxation is a `FixedPath`, set before each step: the step is traced once, and computes the
    edges of the genotype alone. Other candidates get no gradient; decay and momentum move them as
    all weights. `fit` takes (images, labels) batches, and the callback `DrawPaths`.
    """

    def __init__(self, supernet: SuperNet) -> None:
        super().__init__(name=f"{supernet.name}_paths")
        self.supernet = supernet
        self.compile(optimizer=supernet.optimizer)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [metric for metric in self.supernet.metrics if metric.name in ("loss", "accuracy")]

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        with uncollected():
            self.supernet.weight_step(*data)
        return {metric.name: metric.result() for metric in self.metrics}


class DrawPaths(keras.callbacks.Callback):
    """Sets the path of each step of a `PathTraining`.

    Args:
        path: of the supernet's `FixedPath`.
        draw: from the number of a step, counted from the first epoch on, to its genotype.
        steps_per_epoch: of the training.
    """

    def __init__(
        self, path: FixedPath, draw: Callable[[int], Genotype], steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.path, self.draw, self.steps_per_epoch = path, draw, steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._first = epoch * self.steps_per_epoch

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        genotype = self.draw(self._first + batch)
        self.path.assign_genotype(genotype, self.model.supernet.space)
