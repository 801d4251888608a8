"""BatchNorm with the papers' settings, and the supernet's BatchNorm without scale and offset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bnas_larq.backend import keras, only_infers_shape, register, tf, with_gradient
from bnas_larq.layers.fixed_settings import FixedSettings
from bnas_larq.layers.normalisation import (
    Standardisation,
    gradients,
    moments,
    phases,
    standardised,
)
from bnas_larq.layers.traced import has_accelerator, traced_by_shape

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


def batch_norm(name: str, affine: bool = True) -> BatchNorm2D:
    """BatchNorm with the papers' settings; `affine=False` omits scale and offset."""
    return BatchNorm2D(scale=affine, center=affine, name=name, **BATCH_NORM)


def moving(mean: tf.Variable, variance: tf.Variable) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """For `PlainBatchNormalization.normalise`: assigns what statistics move to."""

    def move(moved_mean: tf.Tensor, moved_variance: tf.Tensor) -> None:
        mean.assign(moved_mean)
        variance.assign(moved_variance)

    return move


@traced_by_shape
def _moved(mean, variance, batch_mean, batch_variance, rate):
    return mean + rate * (batch_mean - mean), variance + rate * (batch_variance - variance)


@traced_by_shape
def _factors(variance, scale, epsilon):
    deviation = tf.sqrt(variance + epsilon)
    return deviation, scale / deviation


_traced_gradients = traced_by_shape(gradients)


@register
class BatchNorm2D(keras.layers.BatchNormalization):
    """`BatchNormalization` over the channels of images, which trains faster, also in bfloat16.

    Same weights and numbers as Keras' layer: batch statistics in training, their moving averages
    (with Bessel's correction in the variance) in inference.

    Attributes:
        deferred: whether the layer behind it normalises in training, and this one returns its
            input; set for a while by `bnas_larq.networks.fast_training`.

    Input and output shape: [batch, height, width, channels]. In training the output has the input's
    type; parameters and statistics are float32.

    Example:
        >>> norm = BatchNorm2D(epsilon=0.0)
        >>> norm(tf.constant([-3.0, 3.0], shape=[2, 1, 1, 1]), training=True).numpy().ravel()
        array([-1.,  1.], dtype=float32)
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.deferred = False

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if only_infers_shape(self):
            return tf.identity(inputs)
        if training is not True or not self.takes_batches:
            return super().call(tf.cast(inputs, self.compute_dtype), training=training)
        if self.deferred:
            return inputs
        mean, variance, move = self.own_statistics
        return self.normalise(inputs, mean, variance, True, move)

    @property
    def takes_batches(self) -> bool:
        """Whether training uses and moves statistics of the last axis; else Keras' layer
        computes."""
        # Those that Keras synchronises between replicas, or renormalises, are not fused.
        ordinary = self.fused and self.axis == [3]
        return self.trainable and self.compute_dtype == "float32" and ordinary

    @property
    def own_statistics(self) -> tuple:
        """Moving mean and variance, and what moves them, as arguments of other methods."""
        own = self.moving_mean, self.moving_variance
        return *own, moving(*own)

    def normalise(
        self,
        inputs: tf.Tensor,
        mean: tf.Tensor | tf.Variable,
        variance: tf.Tensor | tf.Variable,
        training: bool,
        move: Callable[[tf.Tensor, tf.Tensor], None] | None = None,
    ) -> tf.Tensor:
        """The layer's output with the given moving statistics. Training calls `move` with those
        that it moves them to, and without one reads none. A layer that is not `trainable` uses them
        also in training, as in Keras."""
        scale, offset = self.parameters(inputs.shape[-1])
        if not (training and self.trainable):
            return tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=scale,
                offset=offset,
                mean=mean,
                variance=variance,
                epsilon=self.epsilon,
                is_training=False,
            ).y
        in_phases = phases(inputs.shape) > 1 and not has_accelerator()
        arguments = inputs, scale, offset, mean, variance, move
        evaluate = partial(self._in_phases if in_phases else self._fused, *arguments)
        # TensorFlow's own gradient starts with zeros for five outputs that are not differentiated.
        return with_gradient("BatchNorm2D", evaluate, [inputs, *self.trained(scale, offset)])

    def parameters(self, channels: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Scale and offset, [channels] each, also where the layer has none."""
        scale = tf.ones([channels]) if self.gamma is None else tf.convert_to_tensor(self.gamma)
        offset = tf.zeros([channels]) if self.beta is None else tf.convert_to_tensor(self.beta)
        return scale, offset

    def trained(self, scale, offset) -> list:
        """Those of two values for scale and offset that the layer has."""
        pairs = ((scale, self.gamma), (offset, self.beta))
        return [value for value, weight in pairs if weight is not None]

    def standardisation(self, inputs, scale, offset, mean, variance, move) -> Standardisation:
        """That of a batch; arguments as of `normalise`, with the layer's parameters."""
        batch = moments(inputs)
        if move:
            old = (tf.convert_to_tensor(statistic) for statistic in (mean, variance))
            move(*_moved(*old, batch.mean, batch.unbiased, 1.0 - self.momentum))
        deviation, factor = _factors(batch.variance, scale, self.epsilon)
        return Standardisation(batch.mean, factor, offset, deviation, batch.count)

    def _in_phases(self, inputs, *arguments):
        own = self.standardisation(inputs, *arguments)

        def gradient(upstream):
            images, *others = _traced_gradients(inputs, upstream, own)
            return [images, *self.trained(*others)]

        return standardised(inputs, own.mean, own.factor, own.offset), gradient

    def _fused(self, inputs, scale, offset, mean, variance, move):
        norm = {"scale": scale, "epsilon": self.epsilon, "is_training": True}
        none = None if move else tf.zeros([0])
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            offset=offset,
            mean=mean if move else none,
            variance=variance if move else none,
            exponential_avg_factor=1.0 - self.momentum if move else 1.0,
            **norm,
        )
        if move:
            move(outputs.batch_mean, outputs.batch_variance)

        def gradient(upstream):
            gradients = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=inputs,
                reserve_space_1=outputs.reserve_space_1,
                reserve_space_2=outputs.reserve_space_2,
                reserve_space_3=outputs.reserve_space_3,
                **norm,
            )
            own = self.trained(gradients.scale_backprop, gradients.offset_backprop)
            return [gradients.x_backprop, *own]

        return outputs.y, gradient


@register
class PlainBatchNormalization(FixedSettings, BatchNorm2D):
    """`BatchNorm2D` without scale and offset, as a function of its statistics (`normalise`), which
    the cells of a supernet can share.

    Input and output shape: [batch, height, width, channels], float32.

    Example:
        >>> norm = PlainBatchNormalization(epsilon=0.0)
        >>> norm(tf.constant([-3.0, 3.0], shape=[2, 1, 1, 1]), training=True).numpy().ravel()
        array([-1.,  1.], dtype=float32)
    """

    fixed = {"scale": False, "center": False, "axis": -1, "synchronized": False}

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not isinstance(training, bool):
            return super().call(inputs, training=training)
        mean, variance = self.moving_mean, self.moving_variance
        return self.normalise(inputs, mean, variance, training, moving(mean, variance))
