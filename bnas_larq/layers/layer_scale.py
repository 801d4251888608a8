"""Kernels that are binary with one scale for the whole layer."""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import lq, register, tf
from bnas_larq.errors import BnasLarqError, nearest

GRADIENTS = ("approx", "identity")


def layer_scaled_sign(kernel: tf.Tensor, gradient: str = "approx") -> tf.Tensor:
    """a·sign(W), a = mean(|W|) over all of the kernel.

    Args:
        kernel: latent kernel W of any shape, n weights.
        gradient: what W receives, with g the gradient of the binary kernel.

            `"approx"`: a·g·max(2 − 2|W|, 0) + sign(W)·Σ(g·sign(W))/n, so through the scale too, as
            CBCN's program does (arXiv 1910.10853).

            `"identity"`: g, as BinaryDuo's program does (arXiv 2002.06517).

    Returns:
        Tensor of the kernel's shape with two values, ±a.
    """

    def value(latent: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.abs(latent)) * lq.quantizers.approx_sign(latent)

    return value(kernel) if gradient == "approx" else tf.grad_pass_through(value)(kernel)


@register
class LayerScaledSign(lq.quantizers.Quantizer):
    """Kernel quantizer a·sign(W) with one scale a = mean(|W|) for the layer.

    Args:
        gradient: `"approx"` or `"identity"`, see `layer_scaled_sign`.

    Raises:
        BnasLarqError: an unknown gradient.

    Example:
        >>> LayerScaledSign()(tf.constant([[0.5, -0.25], [1.0, 0.25]])).numpy().tolist()
        [[0.5, -0.5], [0.5, 0.5]]
    """

    precision = 1

    def __init__(self, gradient: str = "approx", **kwargs) -> None:
        if gradient not in GRADIENTS:
            raise BnasLarqError(
                "The gradient of a layer's scaled sign is 'approx' or 'identity'. "
                f"Received: {gradient!r}; {nearest(str(gradient), GRADIENTS)}"
            )
        super().__init__(**kwargs)
        self.gradient = gradient

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(layer_scaled_sign(inputs, self.gradient))

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return 1

    def get_config(self) -> dict:
        return {**super().get_config(), "gradient": self.gradient}
