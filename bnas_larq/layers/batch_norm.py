"""BatchNorm of the supernet: Keras' layer, as a function that the cells of a supernet can share."""

from __future__ import annotations

from bnas_larq.backend import keras, register, tf, with_gradient


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
        `moving` is False. A layer that is not `trainable` does not train, as in Keras."""
        training = training and self.trainable
        ones, zeros = tf.ones([inputs.shape[-1]]), tf.zeros([inputs.shape[-1]])
        norm = {"scale": ones, "epsilon": self.epsilon, "is_training": training}
        if not training:
            result = tf.raw_ops.FusedBatchNormV3(
                x=inputs, offset=zeros, mean=mean, variance=variance, **norm
            )
            return result.y

        def evaluate():
            none = None if moving else tf.zeros([0])
            outputs = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                offset=zeros,
                mean=mean if moving else none,
                variance=variance if moving else none,
                exponential_avg_factor=1.0 - self.momentum if moving else 1.0,
                **norm,
            )
            if moving:
                mean.assign(outputs.batch_mean)
                variance.assign(outputs.batch_variance)

            def gradient(upstream):
                found = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=upstream,
                    x=inputs,
                    reserve_space_1=outputs.reserve_space_1,
                    reserve_space_2=outputs.reserve_space_2,
                    reserve_space_3=outputs.reserve_space_3,
                    **norm,
                )
                return [found.x_backprop]

            return outputs.y, gradient

        # TensorFlow's own gradient begins with zeros for five outputs that nobody differentiates.
        return with_gradient("PlainBatchNormalization", evaluate, [inputs])
