"""BatchNorm with the papers' settings, and the supernet's BatchNorm without scale and offset."""

from __future__ import annotations

from collections.abc import Callable

from bnas_larq.backend import keras, register, tf, with_gradient

BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}


def batch_norm(name: str, affine: bool = True) -> keras.layers.BatchNormalization:
    """BatchNorm with the papers' settings; `affine=False` omits scale and offset."""
    return keras.layers.BatchNormalization(scale=affine, center=affine, name=name, **BATCH_NORM)


def moving(mean: tf.Variable, variance: tf.Variable) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """For `PlainBatchNormalization.normalise`: assigns what statistics move to."""

    def move(moved_mean: tf.Tensor, moved_variance: tf.Tensor) -> None:
        mean.assign(moved_mean)
        variance.assign(moved_variance)

    return move


@register
class PlainBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` over the channels of images, without scale and offset, as a function of
    its statistics (`normalise`), which the cells of a supernet can share.

    Same numbers as Keras' layer: batch statistics in training, their moving averages (with Bessel's
    correction in the variance) in inference.

    Input and output shape: [batch, height, width, channels], float32.

    Example:
        >>> norm = PlainBatchNormalization(epsilon=0.0)
        >>> norm(tf.constant([-3.0, 3.0], shape=[2, 1, 1, 1]), training=True).numpy().ravel()
        array([-1.,  1.], dtype=float32)
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "scale": False, "center": False})

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not isinstance(training, bool):
            return super().call(inputs, training=training)
        mean, variance = self.moving_mean, self.moving_variance
        return self.normalise(inputs, mean, variance, training, moving(mean, variance))

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
        training = training and self.trainable
        ones, zeros = tf.ones([inputs.shape[-1]]), tf.zeros([inputs.shape[-1]])
        norm = {"scale": ones, "epsilon": self.epsilon, "is_training": training}
        if not training:
            return tf.raw_ops.FusedBatchNormV3(
                x=inputs, offset=zeros, mean=mean, variance=variance, **norm
            ).y

        def evaluate():
            none = None if move else tf.zeros([0])
            outputs = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                offset=zeros,
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
                return [gradients.x_backprop]

            return outputs.y, gradient

        # TensorFlow's own gradient starts with zeros for five outputs that are not differentiated.
        return with_gradient("PlainBatchNormalization", evaluate, [inputs])
