"""What keeps latent kernels where their signs and scales mean something."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bnas_larq.backend import keras, register, tf


def centre_and_clip(kernel: tf.Tensor, clip_value: float = 1.0) -> tf.Tensor:
    """The latent kernel [h, w, in, out] minus its mean over `in`, clamped to ±clip_value."""
    centred = kernel - tf.reduce_mean(kernel, axis=-2, keepdims=True)
    return tf.clip_by_value(centred, -clip_value, clip_value)


@functools.cache
def _traced_centre_and_clip(clip_value: float) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(
        functools.partial(centre_and_clip, clip_value=clip_value),
        input_signature=[tf.TensorSpec(None)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


@register
class CenterClip(keras.constraints.Constraint):
    """Keeps a latent kernel centred over its input channels and within ±clip_value.

    Args:
        depthwise: the kernel is depthwise: its filters read one channel each, so it becomes 0.

    Example:
        >>> CenterClip()(tf.constant([[2.0], [0.5], [-1.0]])).numpy().ravel().tolist()
        [1.0, 0.0, -1.0]
    """

    def __init__(self, clip_value: float = 1.0, depthwise: bool = False) -> None:
        self.clip_value, self.depthwise = clip_value, depthwise

    def __call__(self, kernel: tf.Tensor) -> tf.Tensor:
        if self.depthwise:
            return tf.zeros_like(kernel)
        if kernel.dtype != tf.float32:
            return centre_and_clip(kernel, self.clip_value)
        # One function for all shapes: repeated for a supernet's two hundred kernels, it would be a
        # tenth of a step's graph.
        centred = _traced_centre_and_clip(float(self.clip_value))(kernel)
        centred.set_shape(kernel.shape)
        return centred

    def get_config(self) -> dict:
        return {"clip_value": self.clip_value, "depthwise": self.depthwise}
