"""BinaryDuo: the activations of the coupled and of the decoupled network, and what surrounds them.

Source: Kim et al., "BinaryDuo: Reducing Gradient Mismatch in Binary Activation Network by Coupling
Binary Activations", arXiv 2002.06517. A ternary activation is the mean of two binary ones, whose
inputs are shifted by ∓1/4:

    q(x) = ½·(h(x − ¼) + h(x + ¼)),    h: 0 up to ½, then 1;    q: 0 up to ¼, ½ up to ¾, then 1

This holds at ¼ and ¾ too, because exactly at a threshold every activation takes its lower value,
as larq's `SteHeaviside` does. (Rounding halves to even, or all of them up as the authors' Torch
does, differs at single points.)
"""

from __future__ import annotations

from bnas_larq.backend import keras, lq, register, tf


def clipped_round(inputs: tf.Tensor, levels: int) -> tf.Tensor:
    """round(levels·clip(x, 0, 1))/levels, exact halves rounded down.

    Args:
        inputs: x, of any shape.
        levels: L; the thresholds are (i + ½)/L.

    Returns:
        Tensor of the input's shape with the values 0, 1/L, …, 1. The gradient passes where
        0 < x < 1.
    """

    @tf.custom_gradient
    def steps(x):
        above = [tf.cast(x > (step + 0.5) / levels, x.dtype) for step in range(levels)]
        passes = tf.logical_and(x > 0.0, x < 1.0)
        return tf.add_n(above) / levels, lambda upstream: upstream * tf.cast(passes, upstream.dtype)

    return steps(inputs)


@register
class ClippedRound(lq.quantizers.Quantizer):
    """Input quantizer to 0, 1/levels, …, 1, see `clipped_round`: BinaryDuo's ternary activation
    (2 levels) and its binary one (1 level), with the gradient 1 where 0 < x < 1.

    Args:
        levels: 1 or more. With one, it is 1-bit, for costs and in an exported file.

    Example:
        >>> x = tf.constant([0.25, 0.5, 0.75, 2.0])
        >>> ClippedRound(2)(x).numpy().tolist(), ClippedRound(1)(x).numpy().tolist()
        ([0.0, 0.5, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0])
    """

    def __init__(self, levels: int, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.levels, self.precision = levels, levels.bit_length()

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(clipped_round(inputs, self.levels))

    def get_config(self) -> dict:
        return {**super().get_config(), "levels": self.levels}


@register
class MeanOfCopies(keras.layers.Layer):
    """The mean of a tensor's copies along the channels; undoes `RepeatChannels`.

    Input shape: [batch, height, width, copies·channels]. Output shape: [batch, height, width,
    channels].

    Example:
        >>> x = tf.constant([1.0, 2.0, 3.0, 6.0], shape=[1, 1, 1, 4])
        >>> MeanOfCopies(2)(x).numpy().ravel().tolist()
        [2.0, 4.0]
    """

    def __init__(self, copies: int, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.copies = copies

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.add_n(tf.split(inputs, self.copies, axis=-1)) / self.copies

    def get_config(self) -> dict:
        return {**super().get_config(), "copies": self.copies}


@register
class PadChannels(keras.layers.Layer):
    """The input with zeros behind its channels.

    Input shape: [batch, height, width, channels]. Output shape: [batch, height, width, filters],
    with filters >= channels.

    Example:
        >>> PadChannels(3)(tf.ones([1, 1, 1, 2])).numpy().ravel().tolist()
        [1.0, 1.0, 0.0]
    """

    def __init__(self, filters: int, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.filters = filters

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        behind = self.filters - inputs.shape[-1]
        return tf.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, behind]])

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters}
