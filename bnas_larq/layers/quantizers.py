"""Binarisation: how activations and kernels become ±1, and what gradient their latent weights get.

Activations use larq's `SteSign`: sign forward, gradient passed where |x| <= 1 (the papers'
straight-through estimator). Kernels use `SignScale`: sign(W) times one scale per output channel,
mean |W|, as XNOR-Net (arXiv 1603.05279) and BNAS (arXiv 2002.06963). The latent kernel is kept
centred over its input channels and clamped to [-1, 1] by `CenterClip`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.errors import BnasLarqError, nearest

GRADIENTS = ("plain", "xnor")


def centre_and_clip(kernel: tf.Tensor, clip_value: float = 1.0) -> tf.Tensor:
    """The latent kernel [h, w, in, out] minus its mean over `in`, clamped to ±clip_value."""
    centred = kernel - tf.reduce_mean(kernel, axis=-2, keepdims=True)
    return tf.clip_by_value(centred, -clip_value, clip_value)


def sign_scale(kernel: tf.Tensor, gradient: str = "xnor") -> tf.Tensor:
    """sign(W)·mean(|W|), the mean over all axes but the last (output channels).

    Args:
        kernel: latent kernel [h, w, in, out] (or [in, out]).
        gradient: what the latent kernel receives, with g the gradient of the binary kernel, a the
            channel's scale and n = h·w·in the fan-in.

            `"plain"`: a·g where |W| <= 1; the scale is a constant (larq's `magnitude_aware_sign`).

            `"xnor"`: the derivative through the scale too, a·g·[|W| <= 1] + sign(W)·Σ(g·sign(W))/n,
            times n·(1 − 1/in), as in XNOR-Net's and BNAS' programs. With SGD this factor decides
            how fast latent kernels move; Adam does not see it.

    Returns:
        Tensor of the kernel's shape with two values per output channel, ±a.
    """
    axes = list(range(len(kernel.shape) - 1))
    fan_in = 1
    for size in kernel.shape[:-1]:
        fan_in *= size
    factor = fan_in * (1.0 - 1.0 / kernel.shape[-2])

    @tf.custom_gradient
    def quantize(latent):
        signs = lq.math.sign(latent)
        scale = tf.reduce_mean(tf.abs(latent), axis=axes, keepdims=True)

        def grad(upstream):
            inside = tf.cast(tf.abs(latent) <= 1.0, latent.dtype)
            result = scale * inside * upstream
            if gradient == "xnor":
                result += signs * tf.reduce_mean(upstream * signs, axis=axes, keepdims=True)
                result *= factor
            return result

        return signs * scale, grad

    return quantize(kernel)


@register
class SignScale(lq.quantizers.Quantizer):
    """Kernel quantizer sign(W)·mean(|W|) per output channel, W centred and clamped.

    Args:
        gradient: `"xnor"` or `"plain"`, see `sign_scale`.
        centre: centre and clamp the latent kernel before the sign. The constraint `CenterClip` does
            so after each update; doing it here as well makes freshly initialised and imported
            kernels right from the first step. Its own derivative is left out on purpose: the
            papers' programs change the latent weight in place.

    Raises:
        BnasLarqError: an unknown gradient.
    """

    precision = 1

    def __init__(self, gradient: str = "xnor", centre: bool = True, **kwargs) -> None:
        if gradient not in GRADIENTS:
            raise BnasLarqError(
                "A kernel gradient is a known one. "
                f"Received: {gradient!r}; {nearest(gradient, GRADIENTS)}"
            )
        super().__init__(**kwargs)
        self.gradient = gradient
        self.centre = centre

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.centre:
            inputs = inputs + tf.stop_gradient(centre_and_clip(inputs) - inputs)
        return super().call(sign_scale(inputs, self.gradient))

    def get_config(self) -> dict:
        return {**super().get_config(), "gradient": self.gradient, "centre": self.centre}


@register
class CenterClip(keras.constraints.Constraint):
    """Keeps a latent kernel centred over its input channels and within ±clip_value."""

    def __init__(self, clip_value: float = 1.0) -> None:
        self.clip_value = clip_value

    def __call__(self, kernel: tf.Tensor) -> tf.Tensor:
        return centre_and_clip(kernel, self.clip_value)

    def get_config(self) -> dict:
        return {"clip_value": self.clip_value}


# In .h5 files larq looks quantizers and constraints up by their bare names, without our namespace.
keras.utils.get_custom_objects().update(SignScale=SignScale, CenterClip=CenterClip)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a binary convolution quantises: factories, because every layer owns its quantizers."""

    input_quantizer: Callable[[], object]
    kernel_quantizer: Callable[[], object]
    kernel_constraint: Callable[[], object]


_SCHEMES: dict[str, Scheme] = {}


def register_scheme(name: str, scheme: Scheme) -> None:
    """Make a binarisation scheme known under `name`, for recipes and layers."""
    _SCHEMES[name] = scheme


def get_scheme(name: str) -> Scheme:
    """The scheme registered as `name`, or BnasLarqError with the nearest known one."""
    if name not in _SCHEMES:
        raise BnasLarqError(
            "A binarisation scheme is registered by name. "
            f"Received: {name!r}; {nearest(name, _SCHEMES)}"
        )
    return _SCHEMES[name]


def scheme_names() -> tuple[str, ...]:
    """Names of all registered schemes."""
    return tuple(_SCHEMES)


for _name, _gradient in (("sign-scale", "xnor"), ("sign-scale-plain", "plain")):
    register_scheme(
        _name,
        Scheme(
            input_quantizer=lq.quantizers.SteSign,
            kernel_quantizer=lambda gradient=_gradient: SignScale(gradient),
            kernel_constraint=CenterClip,
        ),
    )
