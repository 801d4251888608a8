"""PReLU and ReActNet's RPReLU, which train in one pass over memory, also in bfloat16."""

from __future__ import annotations

from bnas_larq.backend import keras, only_infers_shape, register, tf, with_gradient
from bnas_larq.layers.normalisation import channel_sums
from bnas_larq.layers.traced import in_one_pass


@register
class PReLU2D(keras.layers.PReLU):
    """Keras' `PReLU` with one slope per channel, at first 0.25 (arXiv 1502.01852); Keras' own
    starts at 0. In training the gradient at 0 is the slope's.

    Input and output shape: [batch, height, width, channels]. In training the output has the input's
    type.

    Example:
        >>> PReLU2D()(tf.constant([-4.0, 4.0], shape=[1, 1, 1, 2])).numpy().ravel().tolist()
        [-1.0, 4.0]
    """

    def __init__(self, **kwargs) -> None:
        slopes = {"alpha_initializer": keras.initializers.Constant(0.25), "shared_axes": [1, 2]}
        super().__init__(**{**slopes, **kwargs}, autocast=False)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if only_infers_shape(self):
            return tf.identity(inputs)
        per_channel = self.shared_axes == [1, 2]
        if training is not True or self.compute_dtype != "float32" or not per_channel:
            return self.inferred(tf.cast(inputs, self.compute_dtype))
        channels = inputs.shape[-1:]
        slopes, *shifts = map(tf.convert_to_tensor, (self.alpha, *self.shifts))
        before, behind = shifts or (tf.zeros(channels), tf.zeros(channels))

        def evaluate():
            def gradient(upstream):
                of_inputs, products = _gradients(inputs, upstream, slopes, before)
                of_slopes = tf.reshape(channel_sums(products), slopes.shape)
                of_shifts = [-channel_sums(of_inputs), channel_sums(upstream)] if shifts else []
                return [of_inputs, of_slopes, *of_shifts]

            return _rectified(inputs, slopes, before, behind), gradient

        return with_gradient(type(self).__name__, evaluate, [inputs, slopes, *shifts])

    @property
    def shifts(self) -> tuple[tf.Variable, ...]:
        """What is learned beside the slopes: shifts of inputs and outputs, or nothing."""
        return ()

    def inferred(self, inputs: tf.Tensor) -> tf.Tensor:
        """The outputs in inference, made of operations that convert to TensorFlow Lite."""
        return super().call(inputs)


@register
class RPReLU(PReLU2D):
    """ReActNet's activation (arXiv 2003.03488, eq. 4): PReLU with a learned shift before and behind
    it, x − γ + ζ where x > γ and β(x − γ) + ζ elsewhere. One γ = 0, ζ = 0 and β = 0.25 per channel.

    Input and output shape: [batch, height, width, channels].

    Example:
        >>> RPReLU()(tf.constant([-4.0, 4.0], shape=[1, 1, 1, 2])).numpy().ravel().tolist()
        [-1.0, 4.0]
    """

    def build(self, input_shape) -> None:
        super().build(input_shape)
        channels = [input_shape[-1]]
        self.shift_before = self.add_weight("shift_before", channels, initializer="zeros")
        self.shift_behind = self.add_weight("shift_behind", channels, initializer="zeros")

    @property
    def shifts(self) -> tuple[tf.Variable, ...]:
        return self.shift_before, self.shift_behind

    def inferred(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().inferred(inputs - self.shift_before) + self.shift_behind


@in_one_pass
def _rectified(inputs, slopes, before, behind):
    x = tf.cast(inputs, tf.float32) - before
    return tf.cast(tf.where(x > 0.0, x, slopes * x) + behind, inputs.dtype)


@in_one_pass
def _gradients(inputs, upstream, slopes, before):
    """Of the inputs, and of the slopes before they are summed over pixels."""
    x, upstream = tf.cast(inputs, tf.float32) - before, tf.cast(upstream, tf.float32)
    of_inputs = upstream * tf.where(x > 0.0, 1.0, slopes)
    products = tf.where(x > 0.0, 0.0, upstream * x)
    return tf.cast(of_inputs, inputs.dtype), tf.cast(products, inputs.dtype)
