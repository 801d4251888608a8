"""Sums and concatenations of tensors of which some may be bfloat16 in training.

All layers of final networks that can compute in bfloat16 are made with `autocast=False`, here and
elsewhere: Keras would cast their inputs to float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, register, tf, with_gradient


@register
class MixedPrecisionAdd(keras.layers.Add):
    """Keras' `Add`, whose output has the type of the first input.

    Example:
        >>> low = tf.constant([2.0], tf.bfloat16)
        >>> MixedPrecisionAdd()([tf.constant([1.0]), low]).numpy().tolist()
        [3.0]
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        return super().call(_of_one_type(inputs))


@register
class MixedPrecisionMultiply(keras.layers.Multiply):
    """Keras' `Multiply`, whose output has the type of the first input.

    Example:
        >>> low = tf.constant([2.0], tf.bfloat16)
        >>> MixedPrecisionMultiply()([tf.constant([3.0]), low]).numpy().tolist()
        [6.0]
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        return super().call(_of_one_type(inputs))


@register
class MixedPrecisionConcatenate(keras.layers.Concatenate):
    """Keras' `Concatenate`, whose output has the type of the first input.

    Example:
        >>> low = tf.constant([2.0], tf.bfloat16)
        >>> MixedPrecisionConcatenate()([tf.constant([1.0]), low]).numpy().tolist()
        [1.0, 2.0]
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        return super().call(_of_one_type(inputs))


def _of_one_type(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(tensor, tensors[0].dtype) for tensor in tensors]


def joined(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tensors concatenated along their last axis.

    The gradient is one split; that of `tf.concat` is a `Slice` for each, at offsets computed from
    shapes.
    """
    if len(tensors) == 1:
        return tensors[0]
    sizes = [tensor.shape[-1] for tensor in tensors]

    def evaluate():
        return tf.concat(tensors, axis=-1), lambda upstream: tf.split(upstream, sizes, axis=-1)

    return with_gradient("Joined", evaluate, tensors)
