"""A path's accuracy with BatchNorm's statistics of its own, estimated on training images."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bnas_larq.backend import keras, tf
from bnas_larq.search.searcher import SearchData
from bnas_larq.search.single_path import PathAccuracy
from bnas_larq.supernet.super_net import SuperNet

#: Training batches that statistics are estimated on, always the same: 1,280 images in batches of
#: 64. SPOS has 20,000 of ImageNet.
BATCHES = 20


class CalibratedAccuracy(PathAccuracy):
    """Evaluates the path that the supernet is set to, as SPOS (arXiv 1904.00420) does.

    The supernet's moving averages mix all paths. For each measurement they are replaced by the mean
    over `BATCHES` training batches, so that a prediction depends on no other image, and restored
    afterwards.

    Args:
        supernet: of the path.
        data: of the search; `weights` gives the statistics, `credit` the accuracy.
    """

    def __init__(self, supernet: SuperNet, data: SearchData) -> None:
        super().__init__(supernet, data, None)
        batches = data.weights.dataset(0).take(BATCHES)
        self._images = batches.map(lambda images, *_: images)
        self._norms = [
            layer
            for layer in supernet.submodules
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        self._statistics = [
            weight for norm in self._norms for weight in (norm.moving_mean, norm.moving_variance)
        ]
        self._before = [tf.identity(weight) for weight in self._statistics]
        self._sums = [tf.Variable(tf.zeros_like(weight)) for weight in self._statistics]
        self._settle = tf.function(self._set_means, autograph=False)
        self._restore = tf.function(self._set_before, autograph=False)

    @functools.cached_property
    def _estimate(self) -> Callable[[tf.Tensor], None]:
        """Traced when it is first called, as there is no path before. Its graph has the momentum 0:
        the moving statistics become the batch's own."""
        spec = [self._images.element_spec]
        estimate = tf.function(self._add_batch, input_signature=spec, autograph=False)
        momenta = [norm.momentum for norm in self._norms]
        try:
            for norm in self._norms:
                norm.momentum = 0.0
            return estimate.get_concrete_function()
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum

    def accuracy(self) -> float:
        count = 0
        try:
            for images in self._images:
                self._estimate(images)
                count += 1
            self._settle(tf.constant(count, tf.float32))
            return super().accuracy()
        finally:
            self._restore()

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        with self._supernet.changing_kernels():
            return self._supernet(images, training=False)

    def _add_batch(self, images: tf.Tensor) -> None:
        with self._supernet.changing_kernels():
            self._supernet(images, training=True)
        for total, statistic in zip(self._sums, self._statistics, strict=True):
            total.assign_add(statistic)

    def _set_means(self, count: tf.Tensor) -> None:
        for total, statistic in zip(self._sums, self._statistics, strict=True):
            statistic.assign(total / count)

    def _set_before(self) -> None:
        states = zip(self._sums, self._statistics, self._before, strict=True)
        for total, statistic, value in states:
            statistic.assign(value)
            total.assign(tf.zeros_like(total))
