"""BONN: binary kernels and features with Bayesian losses.

Source: Gu et al., "Bayesian Optimized 1-Bit CNNs", arXiv 1908.06314. Besides the task loss L_S, two
losses are minimised:

    L_B = λ/2·Σ_i {‖X̂_i − w∘X_i‖² + ν·Σ_k [(X_k ∓ μ_i)²/σ_i² + log σ_i²]}           kernels
        + θ/2·Σ_m {‖f_m − c_m‖² + Σ_k [(f_mk − c_mk)²/σ_mk² + log σ_mk²]}           features

(eq. 9). X_i is filter i of a layer's latent kernel, with K weights, w a vector of a filter's size
that all filters of the layer share, X̂ = sign(w∘X). The weights X_k ≥ 0 should be near +μ_i, the
others near −μ_i, with deviation σ_i. With X̂ held constant, as in the paper, the gradients are

    ∂L/∂X = ∂L_S/∂X̂∘1(|w∘X| ≤ 1)∘w + λ·{(w∘X − X̂)∘w + ν·(X ∓ μ)/σ²}                 (eq. 11 to 13)
    ∂L/∂w = Σ_i {∂L_S/∂X̂_i∘1(|w∘X_i| ≤ 1)∘X_i + λ·(w∘X_i − X̂_i)∘X_i}                (eq. 14 to 16)
    ∂L/∂μ = λ·ν/K·Σ_k (μ ∓ X_k)/σ²,    ∂L/∂σ = λ·ν/K·Σ_k [1/σ − (X_k ∓ μ)²/σ³]      (eq. 17, 18)

where the last two are means over a filter, not the sums that L_B has. The convolution's output is
divided by w̄, the mean of w, through which no gradient goes: the kernel in use is X̂/w̄.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.layers.margin_head import moved_centers
from bnas_larq.layers.projection import Magnitude, filters_of_part, quantizer_and_latent
from bnas_larq.layers.quantizers import Scheme, register_scheme

#: Smallest σ (ours): the losses divide by its square.
LEAST_DEVIATION = 1e-3


def bonn_kernel(kernel: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """X̂/w̄ of a latent kernel, with the gradients of X and w given above.

    Args:
        kernel: X, [h, w, in, out] or [in, out].
        multiplier: w, positive, [h, w, in, parts] or [in, parts]. The kernel holds the filters of
            `parts` layers, one layer after the other along `out`.

    Returns:
        Of the kernel's shape, ±1/w̄ with one w̄ for each part.
    """
    signs = lq.quantizers.ste_sign(_by_part(kernel, multiplier) * multiplier[..., None])
    mean = tf.reduce_mean(multiplier, axis=list(range(len(kernel.shape) - 1)))[:, None]
    return tf.reshape(signs / tf.stop_gradient(mean), kernel.shape)


def bayesian_kernel_loss(
    kernel: tf.Tensor,
    multiplier: tf.Tensor,
    mean: tf.Tensor,
    deviation: tf.Tensor,
    prior_weight: float = 1e-3,
) -> tf.Tensor:
    """L_B of a kernel for λ = 1, a scalar, with the gradients of X, w, μ and σ given above.

    Args:
        kernel, multiplier: as of `bonn_kernel`.
        mean, deviation: μ and σ, [out].
        prior_weight: ν.
    """
    elements = math.prod(kernel.shape[:-1])
    mean, deviation = (_with_share(x, 1.0 / elements) for x in (mean, deviation))
    product = tf.reshape(_by_part(kernel, multiplier) * multiplier[..., None], kernel.shape)
    signs = tf.stop_gradient(lq.math.sign(product))
    spread = tf.reduce_sum(tf.square((kernel - signs * mean) / deviation))
    spread += 2.0 * elements * tf.reduce_sum(tf.math.log(deviation))
    return 0.5 * (tf.reduce_sum(tf.square(signs - product)) + prior_weight * spread)


def _by_part(kernel: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """[h, w, in, parts, filters of a part]"""
    return tf.reshape(kernel, [*multiplier.shape, -1])


def _with_share(inputs: tf.Tensor, share: float) -> tf.Tensor:
    """The inputs, which receive only this share of the gradient."""
    constant = tf.stop_gradient(inputs)
    return constant + share * (inputs - constant)


def bayesian_feature_loss(
    features: tf.Tensor, centres: tf.Tensor, deviations: tf.Tensor
) -> tf.Tensor:
    """L_B of features for θ = 1: ½·{‖f − c‖² + Σ_k [(f_k − c_k)²/σ_k² + log σ_k²]}.

    Args:
        features, centres, deviations: f, c and σ of each sample, [batch, features].

    Returns:
        [batch].
    """
    squares = tf.square(features - centres)
    spread = squares / tf.square(deviations) + 2.0 * tf.math.log(deviations)
    return 0.5 * tf.reduce_sum(squares + spread, axis=-1)


@register
class AtLeast(keras.constraints.Constraint):
    """Keeps a weight at or above a minimum.

    Example:
        >>> AtLeast(0.5)(tf.constant([-1.0, 2.0])).numpy().tolist()
        [0.5, 2.0]
    """

    def __init__(self, minimum: float = LEAST_DEVIATION) -> None:
        self.minimum = minimum

    def __call__(self, weight: tf.Tensor) -> tf.Tensor:
        return tf.maximum(weight, self.minimum)

    def get_config(self) -> dict:
        return {"minimum": self.minimum}


@register
class BONNKernel(lq.quantizers.Quantizer):
    """Kernel quantizer sign(w∘X)/w̄ with a learned vector w > 0, for the loss `BayesianKernelLoss`,
    whose μ and σ it holds, too (arXiv 1908.06314).

    They start at w = 1/mean|X| of the layer, μ = mean|X| and σ = std|X| of a filter (w and σ are
    ours: the paper starts σ at the variance), each as expected of kernels from U(−1/√n, 1/√n), n
    the fan-in, from which this package's networks start: 2√n, 1/(2√n) and 1/√(12n). `start`
    computes them for any other kernel. All are needed for training only: a deployed kernel is its
    signs and one scale.

    Args:
        parts: how many layers' filters a kernel holds side by side, each with a w of its own. The
            supernet convolves the kernels of several edges at once.

    Raises:
        BnasLarqError: filters that cannot be cut into so many parts (when the layer is built).

    Example:
        >>> quantizer = BONNKernel()
        >>> kernel = tf.constant([[0.5, -0.25], [0.25, -1.0]])
        >>> quantizer.start(kernel)
        >>> quantizer(kernel).numpy().tolist()
        [[0.5, -0.5], [0.5, -0.5]]
    """

    precision = 1

    def __init__(self, parts: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.parts = parts

    def build(self, input_shape) -> None:
        *window, filters = input_shape
        filters_of_part(filters, self.parts)
        root = math.sqrt(math.prod(window))
        least = AtLeast(LEAST_DEVIATION)
        for key, shape, first, constraint in (
            ("multiplier", [*window, self.parts], 2.0 * root, Magnitude()),
            ("mean", [filters], 0.5 / root, None),
            ("deviation", [filters], 1.0 / (math.sqrt(12.0) * root), least),
        ):
            weight = self.add_weight(
                key,
                shape,
                initializer=keras.initializers.Constant(first),
                constraint=constraint,
                trainable=self.precision == 1,
            )
            setattr(self, key, weight)
        super().build(input_shape)

    def start(self, kernel: tf.Tensor) -> None:
        """Set w, μ and σ to what they are at the beginning, for this latent kernel."""
        if not self.built:
            self.build(kernel.shape)
        size = tf.abs(tf.convert_to_tensor(kernel))
        axes = list(range(len(size.shape) - 1))
        self.mean.assign(tf.reduce_mean(size, axes))
        self.deviation.assign(tf.maximum(tf.math.reduce_std(size, axes), LEAST_DEVIATION))
        of_layers = tf.reduce_mean(tf.reshape(self.mean, [self.parts, -1]), axis=1)
        self.multiplier.assign(tf.broadcast_to(1.0 / of_layers, self.multiplier.shape))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return bonn_kernel(inputs, tf.convert_to_tensor(self.multiplier))

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return self.parts

    def get_config(self) -> dict:
        return {**super().get_config(), "parts": self.parts}


@register
class HeldBONNKernel(BONNKernel):
    """Holds w, μ and σ of a kernel that stays real: weight files then fit both stages, and a binary
    stage begins with those of the kernel that a real stage has trained.

    Example:
        >>> quantizer = HeldBONNKernel()
        >>> quantizer(tf.constant([[0.5, -0.25], [0.25, -1.0]]), training=True).numpy().tolist()
        [[0.5, -0.25], [0.25, -1.0]]
        >>> quantizer.mean.numpy().tolist()
        [0.375, 0.625]
    """

    precision = None

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training:
            self.start(tf.stop_gradient(inputs))
        return inputs

    def scales(self, shape: Sequence[int]) -> int:
        """A real kernel has no scales."""
        return 0


@register
class BayesianKernelLoss(keras.regularizers.Regularizer):
    """BONN's kernel loss, as the regulariser of a kernel whose quantizer is `BONNKernel`.

    Args:
        weight: λ (1e-4 in the paper).
        prior_weight: ν (1e-3 for ResNet-18, 1e-4 for WideResNet).

    Raises:
        BnasLarqError: a kernel with another quantizer (when the loss is computed).

    Example:
        >>> kernel = {"kernel_quantizer": BONNKernel(), "kernel_constraint": "weight_clip"}
        >>> layer = lq.layers.QuantConv2D(2, 3, kernel_regularizer=BayesianKernelLoss(), **kernel)
        >>> layer(tf.ones([1, 4, 4, 1])).shape, len(layer.losses)
        (TensorShape([1, 2, 2, 2]), 1)
    """

    def __init__(self, weight: float = 1e-4, prior_weight: float = 1e-3) -> None:
        self.weight, self.prior_weight = weight, prior_weight

    def __call__(self, kernel: tf.Variable) -> tf.Tensor:
        quantizer, latent = quantizer_and_latent(kernel, BONNKernel)
        weights = quantizer.multiplier, quantizer.mean, quantizer.deviation
        weights = map(tf.convert_to_tensor, weights)
        return self.weight * bayesian_kernel_loss(latent, *weights, self.prior_weight)

    def get_config(self) -> dict:
        return {"weight": self.weight, "prior_weight": self.prior_weight}


@register
class BayesianFeatureLoss(keras.layers.Layer):
    """BONN's feature loss: a centre and deviations of the features of each class. It stands beside
    a network in training, on what its dense layer reads.

    Deviations σ start at 1 and are trained. Centres c start at 0 and move in training as in the
    centre loss (Wen et al., ECCV 2016, eq. 4), by a share of Σ(c − f)/(1 + n) over the n samples of
    their class in a batch.

    Args:
        classes: number of classes.
        weight: θ (1e-3 in the paper).
        centre_rate: the share by which centres move (0.5 in the centre loss).

    Input shape: features [batch, features] and integer labels [batch], as a pair. Output shape:
    [batch].

    Example:
        >>> layer = BayesianFeatureLoss(classes=2, weight=1.0)
        >>> layer([tf.constant([[1.0, 0.0]]), tf.constant([1])], training=True).numpy().tolist()
        [1.0]
        >>> layer.centres.numpy().tolist()
        [[0.0, 0.0], [0.25, 0.0]]
    """

    def __init__(
        self, classes: int, weight: float = 1e-3, centre_rate: float = 0.5, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.classes, self.weight, self.centre_rate = classes, weight, centre_rate

    def build(self, input_shape) -> None:
        shape = [self.classes, input_shape[0][-1]]
        self.centres = self.add_weight("centres", shape, initializer="zeros", trainable=False)
        self.deviations = self.add_weight(
            "deviations", shape, initializer="ones", constraint=AtLeast(LEAST_DEVIATION)
        )
        super().build(input_shape)

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        features, labels = inputs[0], tf.cast(inputs[1], tf.int32)
        centres = tf.gather(tf.convert_to_tensor(self.centres), labels)
        deviations = tf.gather(tf.convert_to_tensor(self.deviations), labels)
        if training:
            known = tf.stop_gradient(features), labels
            self.centres.assign(moved_centers(self.centres, *known, self.centre_rate))
        return self.weight * bayesian_feature_loss(features, centres, deviations)

    def get_config(self) -> dict:
        keys = ("classes", "weight", "centre_rate")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


register_scheme(
    "bonn",
    Scheme(
        input_quantizer=lq.quantizers.SteSign,
        kernel_quantizer=BONNKernel,
        # Ours. The paper trains w and σ at a tenth of the rate, which recipes cannot say.
        kernel_constraint=lq.constraints.WeightClip,
        kernel_regularizer=BayesianKernelLoss,
        by_layer=True,
        real_kernel_quantizer=HeldBONNKernel,
    ),
)
