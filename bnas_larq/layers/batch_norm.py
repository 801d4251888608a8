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
        self,
        inputs: tf.Tensor,
        mean: tf.Variable,
        variance: tf.Variable,
        training: bool,
        moving: bool = True,
    ) -> tf.Tensor:
        """The layer's output with other moving statistics than its own, which training moves unless
        `moving` is False."""
        ones, none = tf.ones([inputs.shape[-1]]), tf.zeros([0])
        moves = training and moving
        outputs = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ones,
            offset=tf.zeros([inputs.shape[-1]]),
            mean=mean if moves or not training else none,
            variance=variance if moves or not training else none,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum if moves else 1.0,
            is_training=training,
        )
        if moves:
            mean.assign(outputs.batch_mean)
            variance.assign(outputs.batch_variance)
        return outputs.y
