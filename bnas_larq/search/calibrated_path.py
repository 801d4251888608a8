"""A path's accuracy with BatchNorm's statistics of its own, estimated on training images."""

from __future__ import annotations

from bnas_larq.backend import keras, tf
from bnas_larq.fitting.batch_norm_statistics import set_to_averages
from bnas_larq.search.searcher import SearchData
from bnas_larq.search.single_path import PathAccuracy
from bnas_larq.strategies import Strategy
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
        strategy: see `PathAccuracy`.
    """

    def __init__(
        self, supernet: SuperNet, data: SearchData, strategy: Strategy | None = None
    ) -> None:
        super().__init__(supernet, data, None, strategy)
        self._batches = data.weights.dataset(0).take(BATCHES)
        self._norms = [
            layer
            for layer in self._supernet.submodules
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        self._before = [
            (statistic, statistic.numpy())
            for norm in self._norms
            for statistic in (norm.moving_mean, norm.moving_variance)
        ]
        spec = self._batches.element_spec[:1]
        self._train = tf.function(self._trained, input_signature=spec, autograph=False)

    def _measured(self) -> float:
        try:
            set_to_averages(self._norms, self._train, self._batches)
            return super()._measured()
        finally:
            for statistic, value in self._before:
                statistic.assign(value)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        with self._supernet.changing_kernels():
            return self._supernet(images, training=False)

    def _trained(self, images: tf.Tensor) -> tf.Tensor:
        with self._supernet.changing_kernels():
            return self._supernet(images, training=True)
