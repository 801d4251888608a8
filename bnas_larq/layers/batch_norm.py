"""BatchNorm of the supernet: Keras' layer, as a function that the cells of a supernet can share."""

from __future__ import annotations

from bnas_larq.backend import keras, register, tf


@register
class PlainBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` over the channels of images, without scale and offset.

    Same numbers as Keras' layer: in training batch statistics, whose moving averages (with Bessel's
    correction in the variance) serve inference.

    Input and output shape: [batch, height, width, channels], float32.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "scale": False, "center": False})

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not isinstance(training, bool):
            return super().call(inputs, training=training)
        return self.normalise(inputs, self.moving_mean, self.moving_variance, training)

    def normalise(
        self, inputs: tf.Tensor, mean: tf.Variable, variance: tf.Variable, training: bool
    ) -> tf.Tensor:
        """The layer's output with other moving statistics than its own, which training moves."""
        ones = tf.ones([inputs.shape[-1]])
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ones,
            offset=tf.zeros_like(ones),
            mean=tf.zeros([0]) if training else mean,
            variance=tf.zeros([0]) if training else variance,
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            rate = 1.0 - self.momentum
            mean.assign_sub((mean - outputs.batch_mean) * rate)
            variance.assign_sub((variance - outputs.batch_variance) * rate)
        return outputs.y
