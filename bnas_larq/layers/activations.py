"""What stands in front of a binary convolution: the sign with one of several gradients, or a real
function in its place while a network is trained in stages."""

from __future__ import annotations

import dataclasses
import math

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers.coupled_activation import ClippedRound

REAL_ACTIVATIONS = ("relu", "leaky-clip", "clip", "tanh")
ACTIVATIONS = ("sign", *REAL_ACTIVATIONS, "ternary")
KERNELS = ("binary", "real")
ACTIVATION_GRADIENTS = ("ste", "approx", "annealed")

#: Slope of `leaky-clip` outside ±b: Bi-Real Net's (arXiv 1808.00278, §4.1).
LEAK = 0.1


class AnnealingControl:
    """How far training has come, from 0 to 1, for all `AnnealedSign` of one model; a training
    callback sets it.

    Not a layer, so that its variable is no weight of the model: weight files do not hold it.
    """

    def __init__(self) -> None:
        self.progress = tf.Variable(0.0, trainable=False, dtype=tf.float32, name="progress")


class _EstimatedSign(lq.quantizers.Quantizer):
    """The sign, whose gradient is `slope` times the upstream gradient."""

    precision = 1

    def __init__(self, clip_value: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.clip_value = clip_value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def sign(x):
            def gradient(upstream):
                slope = self.slope(tf.cast(x, tf.float32))
                return upstream * tf.cast(slope, upstream.dtype)

            return lq.math.sign(x), gradient

        return sign(inputs)

    def slope(self, inputs: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError

    def get_config(self) -> dict:
        return {**super().get_config(), "clip_value": self.clip_value}


@register
class BoundedApproxSign(_EstimatedSign):
    """Sign with the gradient 2·(1 − |x|/b) where |x| <= b, else 0: Bi-Real Net's `ApproxSign`
    (arXiv 1808.00278, eq. 3), b times as wide (ours). With b = 1 it is larq's.

    Args:
        clip_value: b.

    Example:
        >>> quantizer = BoundedApproxSign(2.0)
        >>> x = tf.constant([-3.0, -0.5, 1.0])
        >>> quantizer(x).numpy().tolist(), quantizer.slope(x).numpy().tolist()
        ([-1.0, -1.0, 1.0], [0.0, 1.5, 1.0])
    """

    def slope(self, inputs: tf.Tensor) -> tf.Tensor:
        """d/dx, of the input's shape."""
        return 2.0 * tf.nn.relu(1.0 - tf.abs(inputs) / self.clip_value)


@register
class AnnealedSign(_EstimatedSign):
    """Sign with a gradient that sharpens over training: IR-Net's error decay estimator (arXiv
    1909.10788, §3.3).

    The gradient is that of k·tanh(t·x), with t = 0.1 at the beginning, 10 at the end and
    log-spaced between, and k = max(1/t, 1): first everything passes, in the end little but x = 0.

    Args:
        clip_value: b; the gradient at x is that at x/b (ours).
        control: the progress that all of a model share; None makes one for this quantizer.

    Example:
        >>> quantizer = AnnealedSign()
        >>> [float(quantizer.slope(tf.constant(x))) for x in (0.0, 1.0)]
        [1.0, 0.9900...]
        >>> quantizer.control.progress.assign(1.0).numpy()
        1.0
        >>> [float(quantizer.slope(tf.constant(x))) for x in (0.0, 1.0)]
        [10.0, 0.0]
    """

    def __init__(
        self, clip_value: float = 1.0, control: AnnealingControl | None = None, **kwargs
    ) -> None:
        super().__init__(clip_value, **kwargs)
        # A plain object, whose variable Keras does not track.
        self._control = control or AnnealingControl()

    @property
    def control(self) -> AnnealingControl:
        """The shared progress."""
        return self._control

    def slope(self, inputs: tf.Tensor) -> tf.Tensor:
        """d/dx, of the input's shape."""
        sharpness = tf.pow(10.0, 2.0 * self._control.progress - 1.0)
        bounded = tf.tanh(sharpness / self.clip_value * inputs)
        return tf.maximum(sharpness, 1.0) * (1.0 - tf.square(bounded))


@register
class RealActivation(lq.quantizers.Quantizer):
    """A real function in place of the sign, with which the stages before the binary ones train.

    Args:
        kind: `"relu"`, `"tanh"` (Real-to-Binary, arXiv 2003.11535), `"clip"` to ±b, or
            `"leaky-clip"`, which has the slope 0.1 outside ±b (both Bi-Real Net, arXiv 1808.00278,
            with b = 1).
        clip_value: b.

    Raises:
        BnasLarqError: another kind.

    Example:
        >>> RealActivation("leaky-clip")(tf.constant([-3.0, 0.5])).numpy().round(3).tolist()
        [-1.2..., 0.5]
    """

    def __init__(self, kind: str, clip_value: float = 1.0, **kwargs) -> None:
        if kind not in REAL_ACTIVATIONS:
            raise BnasLarqError(
                f"A real activation is one of {', '.join(REAL_ACTIVATIONS)}. "
                f"Received: {kind!r}; {nearest(str(kind), REAL_ACTIVATIONS)}"
            )
        super().__init__(**kwargs, autocast=False)
        self.kind, self.clip_value = kind, clip_value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if self.kind == "relu":
            return tf.nn.relu(inputs)
        if self.kind == "tanh":
            return tf.tanh(inputs)
        clipped = tf.clip_by_value(inputs, -self.clip_value, self.clip_value)
        return clipped if self.kind == "clip" else clipped + LEAK * (inputs - clipped)

    def get_config(self) -> dict:
        return {**super().get_config(), "kind": self.kind, "clip_value": self.clip_value}


@dataclasses.dataclass(frozen=True)
class SchemeOptions:
    """What may be changed about a binarisation scheme; the defaults change nothing.

    Attributes:
        activations: what stands in front of each binary convolution: `"sign"`, a
            `RealActivation`, or `"ternary"`, BinaryDuo's `ClippedRound` to 0, ½ and 1.
        kernels: `"binary"`, or `"real"`: the latent kernels themselves, without quantizer and
            constraint, under the same names and in the same shapes.
        activation_gradient: of the sign: `"ste"` (passed where |x| <= b, larq's `SteSign`),
            `"approx"` (`BoundedApproxSign`) or `"annealed"` (`AnnealedSign`).
        activation_clip: b, the width of these gradients and of `clip` and `leaky-clip`.
        annealing: the progress that all annealed signs of a model share.

    Raises:
        BnasLarqError: an unknown name, or a b that is not above 0.

    Example:
        >>> SchemeOptions(activations="tanh", kernels="real").activation().kind
        'tanh'
    """

    activations: str = "sign"
    kernels: str = "binary"
    activation_gradient: str = "ste"
    activation_clip: float = 1.0
    annealing: AnnealingControl | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for key, known in (
            ("activations", ACTIVATIONS),
            ("kernels", KERNELS),
            ("activation_gradient", ACTIVATION_GRADIENTS),
        ):
            value = getattr(self, key)
            if value not in known:
                raise BnasLarqError(
                    f"A network's {key} is one of {', '.join(known)}. "
                    f"Received: {value!r}; {nearest(str(value), known)}"
                )
        if not 0.0 < self.activation_clip < math.inf:
            raise BnasLarqError(
                "The bound of an activation's gradient is a number above 0. "
                f"Received: activation_clip={self.activation_clip!r}. Use 1, or up to 3."
            )

    def activation(self) -> lq.quantizers.Quantizer:
        """A new input quantizer."""
        bound = self.activation_clip
        if self.activations == "ternary":
            return ClippedRound(2)
        if self.activations != "sign":
            return RealActivation(self.activations, bound)
        if self.activation_gradient == "annealed":
            return AnnealedSign(bound, self.annealing)
        kind = lq.quantizers.SteSign if self.activation_gradient == "ste" else BoundedApproxSign
        return kind(bound)


#: The options of a scheme as it is registered.
UNCHANGED = SchemeOptions()


def is_sign(quantizer: object) -> bool:
    """Whether an input quantizer gives the sign of its input: +1 wherever that is not negative."""
    larqs = lq.quantizers.SteSign, lq.quantizers.ApproxSign, lq.quantizers.SwishSign
    return isinstance(quantizer, (_EstimatedSign, *larqs))


def is_relu(layer: keras.layers.Layer) -> bool:
    """Whether a layer is max(0, x) and nothing else."""
    return (
        type(layer) is keras.layers.ReLU
        and layer.max_value is None
        and not layer.negative_slope
        and not layer.threshold
    )
