"""Binarisation: how activations and kernels become ±1, and the gradients of their latent values.

Activations use larq's `SteSign`: sign forward, gradient passed where |x| <= 1 (the papers'
straight-through estimator). Kernels use `SignScale`: sign(W) times one scale per output channel,
mean |W|, as in XNOR-Net (arXiv 1603.05279) and BNAS (arXiv 2002.06963). `CenterClip` keeps the
latent kernel centred over its input channels and clamped to [-1, 1].

Centring zeroes a depthwise kernel: each of its filters reads one input channel, and a number minus
its own mean is 0. Schemes therefore treat depthwise kernels separately:

- `sign-scale`: BNAS' Sign + Scale; depthwise kernels are clamped, but not centred (ours).
- `sign-scale-plain`: the same with larq's gradient.
- `sign-scale-centred`: as published; depthwise kernels are centred too, and so exactly 0.
- `xnor`: XNOR-Net's; kernels are clamped, but not centred.
- `full-precision`: nothing is quantised: the twin that a binary network is compared with.

`bnas_larq.layers.projection` adds `pcnn`, `bnas_larq.layers.abc_net` adds `abc-net`, and
`bnas_larq.layers.bayesian` adds `bonn`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

from bnas_larq.backend import keras, lq, register, tf, with_gradient
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers.activations import UNCHANGED, SchemeOptions
from bnas_larq.layers.constraints import CenterClip, centre_and_clip
from bnas_larq.layers.traced import traced_by_shape

GRADIENTS = ("plain", "xnor")


def sign_scale(
    kernel: tf.Tensor, gradient: str = "xnor", centred: bool = True, centre: bool = False
) -> tf.Tensor:
    """sign(W)·mean(|W|), the mean over all axes but the last (output channels).

    Args:
        kernel: latent kernel [h, w, in, out] (or [in, out]).
        centred: whether the kernel has been centred over its input channels.
        centre: centre and clamp it first, which is not differentiated.
        gradient: what the latent kernel receives, with g the gradient of the binary kernel, a the
            channel's scale and n = h·w·in the fan-in.

            `"plain"`: a·g where |W| <= 1; the scale is a constant (larq's `magnitude_aware_sign`).

            `"xnor"`: the derivative through the scale too, a·g·[|W| <= 1] + sign(W)·Σ(g·sign(W))/n,
            times n·(1 − 1/in), as in XNOR-Net's and BNAS' programs. With SGD this factor sets how
            fast latent kernels move; Adam is invariant to it. 1 − 1/in stems from the centring, and
            is omitted without it.

    Returns:
        Tensor of the kernel's shape with two values per output channel, ±a.
    """
    value, back = _traced_sign_scale(gradient, centred, centre)

    def quantize():
        return value(kernel), lambda upstream: [back(kernel, upstream)]

    return with_gradient("SignScale", quantize, [kernel])


@functools.cache
def _traced_sign_scale(gradient: str, centred: bool, centre: bool) -> tuple[Callable, Callable]:
    """Value and gradient, traced once for each shape."""

    def parts(latent):
        latent = centre_and_clip(latent) if centre else latent
        axes = list(range(len(latent.shape) - 1))
        scale = tf.reduce_mean(tf.abs(latent), axis=axes, keepdims=True)
        return latent, axes, lq.math.sign(latent), scale

    def value(latent):
        _, _, signs, scale = parts(latent)
        return signs * scale

    def back(latent, upstream):
        latent, axes, signs, scale = parts(latent)  # the centred one
        result = scale * tf.cast(tf.abs(latent) <= 1.0, latent.dtype) * upstream
        if gradient == "xnor":
            fan_in = math.prod(latent.shape[:-1])
            factor = fan_in * (1.0 - 1.0 / latent.shape[-2] if centred else 1.0)
            result += signs * tf.reduce_mean(upstream * signs, axis=axes, keepdims=True)
            result *= factor
        return result

    return traced_by_shape(value), traced_by_shape(back)


@register
class SignScale(lq.quantizers.Quantizer):
    """Kernel quantizer sign(W)·mean(|W|) per output channel, W centred and clamped.

    Args:
        gradient: `"xnor"` or `"plain"`, see `sign_scale`.
        centre: centre and clamp the latent kernel before the sign. The constraint `CenterClip` does
            so after each update; here it is for kernels just initialised or imported. It is not
            differentiated: the papers' programs change the latent weight in place.

    Raises:
        BnasLarqError: an unknown gradient.

    Example:
        >>> kernel = tf.constant([[0.5, -0.25], [0.0, 0.75]])  # [in, out]
        >>> SignScale()(kernel).numpy().tolist()
        [[0.25, -0.5], [-0.25, 0.5]]
    """

    precision = 1

    def __init__(self, gradient: str = "xnor", centre: bool = True, **kwargs) -> None:
        if gradient not in GRADIENTS:
            raise BnasLarqError(
                "A kernel gradient is 'plain' or 'xnor'. "
                f"Received: {gradient!r}; {nearest(gradient, GRADIENTS)}"
            )
        super().__init__(**kwargs)
        self.gradient, self.centre = gradient, centre

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(sign_scale(inputs, self.gradient, self.centre, self.centre))

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return shape[-1]

    def get_config(self) -> dict:
        return {**super().get_config(), "gradient": self.gradient, "centre": self.centre}


@register
class DepthwiseQuantizer(lq.quantizers.Quantizer):
    """Applies a kernel quantizer to depthwise kernels, [h, w, in, multiplier].

    The quantizer sees each of the in·multiplier filters, which read one input channel each, as an
    output channel: [h, w, 1, in·multiplier]. One that centres over the input channels gives exactly
    0, and a gradient of 0.

    Args:
        quantizer: for kernels [h, w, in, out]; an object, or its configuration.

    Example:
        >>> kernel = tf.constant([0.5, -0.25], shape=[1, 1, 2, 1])
        >>> DepthwiseQuantizer(SignScale(centre=False))(kernel).numpy().ravel().tolist()
        [0.5, -0.25]
    """

    def __init__(self, quantizer: lq.quantizers.Quantizer | dict, **kwargs) -> None:
        super().__init__(**kwargs)
        if isinstance(quantizer, dict):
            quantizer = keras.utils.deserialize_keras_object(quantizer)
        self.quantizer = quantizer
        self.precision = quantizer.precision

    def build(self, input_shape) -> None:
        if not self.quantizer.built:
            self.quantizer.build(_filters_last(input_shape))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.reshape(self.quantizer(self.filters_last(inputs)), inputs.shape)

    def filters_last(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel as its quantizer sees it, [h, w, 1, in·multiplier]."""
        return tf.reshape(kernel, _filters_last(kernel.shape))

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return number_of_scales(self.quantizer, _filters_last(shape))

    def get_config(self) -> dict:
        quantizer = keras.utils.serialize_keras_object(self.quantizer)
        return {**super().get_config(), "quantizer": quantizer}


def _filters_last(shape: Sequence[int]) -> list[int]:
    return [*shape[:2], 1, shape[2] * shape[3]]


def number_of_scales(quantizer: object, shape: Sequence[int]) -> int:
    """How many scales a quantised kernel of this shape keeps besides its signs."""
    if hasattr(quantizer, "scales"):
        return quantizer.scales(shape)
    return shape[-1] if isinstance(quantizer, lq.quantizers.MagnitudeAwareSign) else 0


def nothing(**settings: object) -> None:
    """Factory of what a scheme omits."""


def no_layers(*place: object) -> tuple[()]:
    """Factory of layers that a scheme does not have."""
    return ()


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a convolution is binarised: factories, because every layer owns its quantizers.

    A factory may return None, to omit that part.

    Attributes:
        input_quantizer, kernel_quantizer, kernel_constraint, kernel_regularizer: of a convolution.
        depthwise_quantizer, depthwise_constraint: of a depthwise convolution, if they differ. The
            quantizer is wrapped in a `DepthwiseQuantizer`.
        by_layer: whether output channels of a kernel are quantised together. Quantizers are then
            made with `parts=`, the number of layers whose filters a kernel of the supernet holds.
        real_kernel_quantizer: of kernels that stay real, see `SchemeOptions`. If `kernel_quantizer`
            has weights, it holds them, so that weight files fit real and binary kernels.
        one_size: whether its weights fit images of one size only.
        own_sign: whether options cannot change the gradient of its sign.
        behind_signs: whether `behind` makes sense behind signs only.
        in_front: from a name to layers in front of a convolution's sign.
        behind: from a name and a convolution to links of a chain behind it. Depthwise convolutions
            and factorised reductions have no layers around them.
        convolution: makes the convolution, in place of an ordinary one: from filters and a kernel
            size, and the keywords `name`, `strides`, `dilation`, `padding` and those of
            `QuantConv2D` that quantise it. Depthwise convolutions and factorised reductions stay
            ordinary ones.
        channel_multiple: channels in and out of such a convolution are a multiple of it.

    Example:
        >>> settings = get_scheme("xnor").kernel_settings()
        >>> [type(part).__name__ for part in settings.values()]
        ['SignScale', 'WeightClip', 'NoneType']
    """

    input_quantizer: Callable[[], object]
    kernel_quantizer: Callable[..., object]
    kernel_constraint: Callable[[], object]
    kernel_regularizer: Callable[[], object] = nothing
    depthwise_quantizer: Callable[..., object] | None = None
    depthwise_constraint: Callable[[], object] | None = None
    by_layer: bool = False
    real_kernel_quantizer: Callable[..., object] = nothing
    one_size: bool = False
    own_sign: bool = False
    behind_signs: bool = False
    in_front: Callable[[str], Sequence[object]] = no_layers
    behind: Callable[[str, lq.layers.QuantConv2D], Sequence[object]] = no_layers
    convolution: Callable[..., keras.layers.Layer] | None = None
    channel_multiple: int = 1

    def with_options(self, options: SchemeOptions) -> Scheme:
        """This scheme with what the options change; BnasLarqError if it has no sign to change."""
        if options == UNCHANGED:
            return self
        if self.input_quantizer is nothing:
            raise BnasLarqError(
                "A scheme that binarises nothing has no activations or kernels to change. "
                f"Received: {options}. Use another scheme, such as sign-scale."
            )
        changes: dict[str, object] = {}
        if options.activations != "sign":
            changes |= {"behind": no_layers} if self.behind_signs else {}
        elif self.own_sign and dataclasses.replace(options, kernels="binary") != UNCHANGED:
            raise BnasLarqError(
                "A scheme with a sign of its own has its gradient, too. Received: "
                f"activation_gradient={options.activation_gradient!r}, "
                f"activation_clip={options.activation_clip}. Remove them, or use sign-scale."
            )
        if dataclasses.replace(options, kernels="binary") != UNCHANGED:
            changes["input_quantizer"] = options.activation
        if options.kernels == "real":
            changes["kernel_quantizer"] = self.real_kernel_quantizer
            changes |= {"kernel_constraint": nothing, "kernel_regularizer": nothing}
            changes |= {"depthwise_quantizer": None, "depthwise_constraint": None}
        return dataclasses.replace(self, **changes)

    def kernel_settings(self, parts: int = 1) -> dict[str, object]:
        """Arguments of `QuantConv2D` for its kernel."""
        return {
            "kernel_quantizer": self.kernel_quantizer(**self._parts(parts)),
            "kernel_constraint": self.kernel_constraint(),
            "kernel_regularizer": self.kernel_regularizer(),
        }

    def depthwise_settings(self, parts: int = 1) -> dict[str, object]:
        """Arguments of `QuantDepthwiseConv2D` for its kernel."""
        quantizer = (self.depthwise_quantizer or self.kernel_quantizer)(**self._parts(parts))
        return {
            "depthwise_quantizer": quantizer and DepthwiseQuantizer(quantizer),
            "depthwise_constraint": (self.depthwise_constraint or self.kernel_constraint)(),
            "depthwise_regularizer": self.kernel_regularizer(),
        }

    def _parts(self, parts: int) -> dict[str, int]:
        return {"parts": parts} if self.by_layer else {}


_SCHEMES: dict[str, Scheme] = {}


def register_scheme(name: str, scheme: Scheme) -> None:
    """Register a binarisation scheme under `name`, for recipes and layers."""
    _SCHEMES[name] = scheme


def get_scheme(name: str, options: SchemeOptions = UNCHANGED) -> Scheme:
    """The scheme registered as `name`, with what the options change.

    BnasLarqError for an unknown name, with the nearest known one; or as `Scheme.with_options`.
    """
    if name not in _SCHEMES:
        raise BnasLarqError(
            "A binarisation scheme is registered by name. "
            f"Received: {name!r}; {nearest(name, _SCHEMES)}"
        )
    return _SCHEMES[name].with_options(options)


def check_searchable(name: str, options: SchemeOptions = UNCHANGED) -> None:
    """Raise BnasLarqError for a scheme with convolutions of its own, or with layers around them,
    and as `get_scheme`."""
    scheme = get_scheme(name, options)
    if (scheme.in_front, scheme.behind, scheme.convolution) != (no_layers, no_layers, None):
        raise BnasLarqError(
            "A supernet's candidates are ordinary convolutions without layers of their scheme "
            f"around them. Received: {name!r}. Search with sign-scale, and give it to the final "
            "network."
        )


def scheme_names() -> tuple[str, ...]:
    """Names of all registered schemes."""
    return tuple(_SCHEMES)


def _sign_scale_scheme(gradient: str, centre: bool, centre_depthwise: bool) -> Scheme:
    clip = functools.partial(lq.constraints.WeightClip, 1.0)
    return Scheme(
        input_quantizer=lq.quantizers.SteSign,
        kernel_quantizer=functools.partial(SignScale, gradient, centre),
        kernel_constraint=CenterClip if centre else clip,
        depthwise_quantizer=functools.partial(SignScale, gradient, centre_depthwise),
        depthwise_constraint=(
            functools.partial(CenterClip, depthwise=True) if centre_depthwise else clip
        ),
    )


register_scheme("sign-scale", _sign_scale_scheme("xnor", True, False))
register_scheme("sign-scale-plain", _sign_scale_scheme("plain", True, False))
register_scheme("sign-scale-centred", _sign_scale_scheme("xnor", True, True))
register_scheme("xnor", _sign_scale_scheme("xnor", False, False))
register_scheme("full-precision", Scheme(nothing, nothing, nothing))
