"""PCNN: binary kernels by a learned projection, and the projection loss that trains it.

Source: Gu et al., "Projection Convolutional Neural Networks for 1-bit CNNs via Discrete Back
Propagation", arXiv 1811.12755; with a single projection per layer, but for those of
`bnas_larq.layers.projected_convolution`.

A layer's latent kernel C becomes Ĉ = a·sign(W̄∘C): a is the mean of |C| over the whole layer, W the
projection, shared by the filters of the layer, W̄ its mean over the input channels. Besides the task
loss L_S, a projection loss keeps C and Ĉ close:

    L_P = λ/2·‖Ĉ − W∘(C + η·δ)‖²,    δ = ∂L_S/∂Ĉ

δ is known only in the backward pass, so L_P is no ordinary function of the forward pass. Here one
function, `pcnn_projection`, returns both Ĉ and the distance ½‖Ĉ − W∘C‖², and its custom gradient
gets the upstream gradients of both: δ of Ĉ, and λ of the distance, if a `ProjectionLoss` is part of
the objective. With Ĉ and δ held constant in L_P, as in the paper, the gradients are exact:

    ∂L/∂C = δ∘1(|W̄∘C| ≤ 1)∘W̄ + λ·R∘W,          R = W∘(C + η·δ) − Ĉ
    ∂L/∂W = mean over the input channels of Σ δ∘1(|W̄∘C| ≤ 1)∘C + λ·Σ R∘(C + η·δ)

(sums over the filters; the first terms are the straight-through estimator, without the factor a).
Only the reported value of the loss uses δ = 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, lq, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers.quantizers import DepthwiseQuantizer, Scheme, register_scheme
from bnas_larq.strategies import OfReplica


def filters_of_part(filters: int, parts: int) -> int:
    """How many of a kernel's filters belong to each of the `parts` layers that share it;
    BnasLarqError if they do not divide."""
    if filters % parts:
        raise BnasLarqError(
            "A kernel's filters must divide into equal parts, one for each layer. "
            f"Received: {filters} filters, parts={parts}."
        )
    return filters // parts


def quantizer_and_latent(
    kernel: tf.Variable, kind: type[lq.quantizers.Quantizer]
) -> tuple[lq.quantizers.Quantizer, tf.Tensor]:
    """For a kernel's regulariser: the kernel's quantizer, and the latent kernel as that sees it.

    BnasLarqError unless the quantizer is of the `kind` whose weights the regulariser needs.
    """
    quantizer = getattr(kernel, "quantizer", None)
    with lq.context.quantized_scope(False):
        latent = tf.convert_to_tensor(kernel)
    if isinstance(quantizer, DepthwiseQuantizer):
        quantizer, latent = quantizer.quantizer, quantizer.filters_last(latent)
    if not isinstance(quantizer, kind):
        raise BnasLarqError(
            f"This loss belongs to a kernel that {kind.__name__} quantises. "
            f"Received: {getattr(kernel, 'name', kernel)!r} with {type(quantizer).__name__}. "
            f"Give the layer kernel_quantizer={kind.__name__}()."
        )
    if not quantizer.built:
        quantizer.build(latent.shape)
    return quantizer, latent


def pcnn_projection(
    kernel: tf.Tensor, projection: tf.Tensor, step: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """The binary kernel of a latent one and their distance, with the gradients given above.

    Args:
        kernel: C, [h, w, in, out] or [in, out].
        projection: W, positive, [h, w, in, parts] or [in, parts]. The kernel holds the filters of
            `parts` layers, one layer after the other along `out`, each with its own scale.
        step: η.

    Returns:
        Ĉ of the kernel's shape, ±a with one a for each part; ½‖Ĉ − W∘C‖², a scalar, whose gradient
        is that of ½‖Ĉ − W∘(C + η·δ)‖².
    """
    parts = projection.shape[-1]
    shape = [*kernel.shape[:-1], parts, kernel.shape[-1] // parts]
    channels = len(shape) - 3  # axis of the input channels
    others = [axis for axis in range(len(shape)) if axis != len(shape) - 2]

    @tf.custom_gradient
    def project(kernel, projection):
        latent = tf.reshape(kernel, shape)
        weights = projection[..., None]
        mean = tf.reduce_mean(weights, axis=channels, keepdims=True)
        scale = tf.reduce_mean(tf.abs(latent), axis=others, keepdims=True)
        binary = scale * lq.math.sign(mean * latent)
        distance = 0.5 * tf.reduce_sum(tf.square(binary - weights * latent))

        def grad(received, factor):
            delta = tf.reshape(received, shape)
            passed = delta * tf.cast(tf.abs(mean * latent) <= 1.0, delta.dtype)
            ahead = latent + step * delta
            rest = factor * (weights * ahead - binary)
            dkernel = passed * mean + rest * weights
            task = tf.reduce_mean(passed * latent, axis=channels, keepdims=True)
            dprojection = tf.reduce_sum(task + rest * ahead, axis=-1)
            return tf.reshape(dkernel, kernel.shape), dprojection

        return (tf.reshape(binary, kernel.shape), distance), grad

    return project(kernel, projection)


@register
class Magnitude(keras.constraints.Constraint):
    """Keeps a weight positive by dropping its sign: W ← |W|, as PCNN does with its projection.

    Example:
        >>> Magnitude()(tf.constant([-0.5, 2.0])).numpy().tolist()
        [0.5, 2.0]
    """

    def __call__(self, weight: tf.Tensor) -> tf.Tensor:
        return tf.abs(weight)


@register
class PCNNProjection(lq.quantizers.Quantizer):
    """Kernel quantizer a·sign(W̄∘C) with a learned projection W, which starts at 1 (ours).

    Alone it trains W through the straight-through estimator only; the kernel regulariser
    `ProjectionLoss` adds the paper's projection loss. W is needed for training only: a deployed
    kernel is its signs and one scale.

    Args:
        step: η of the projection loss; ours: 0.025, the learning rate that searches begin with.
        parts: how many layers' filters a kernel holds side by side, each with a projection and a
            scale of its own. The supernet convolves the kernels of several edges at once.
        projections: J, how many projections the filters have. The binary kernel has J times as
            many filters, those of one projection behind those of another. The J gradients of C add
            up. With W > 0 all would have the signs of C, so that more than one are free in sign,
            and start at ±1 at random for each position of the window, the first at 1 (ours).

    Raises:
        BnasLarqError: filters that cannot be cut into so many parts (when the layer is built), or
            several parts with several projections.

    Example:
        >>> PCNNProjection()(tf.constant([[0.5, -0.25], [0.25, 1.0]])).numpy().tolist()
        [[0.5, -0.5], [0.5, 0.5]]
    """

    precision = 1

    def __init__(self, step: float = 0.025, parts: int = 1, projections: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)
        if projections < 1 or parts > 1 < projections:
            raise BnasLarqError(
                "A PCNN kernel has 1 projection or more, and one for each part of several. "
                f"Received: parts={parts}, projections={projections}."
            )
        self.step, self.parts, self.projections = step, parts, projections
        # In a plain object, in which Keras tracks nothing.
        self._uses = OfReplica(None)

    def build(self, input_shape) -> None:
        *window, filters = input_shape
        filters_of_part(filters, self.parts)
        self.projection = self.add_weight(
            "projection",
            [*window, self.parts * self.projections],
            initializer="ones" if self.projections == 1 else _random_signs,
            constraint=Magnitude() if self.projections == 1 else None,
            trainable=self.precision == 1,
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        binary, self.latest = self._project(inputs)
        return super().call(binary)

    @property
    def latest(self) -> tf.Tensor | None:
        """The distance from the latest use of the kernel: through it the projection loss receives
        δ. To reuse a kernel that was quantised earlier, assign its distance again."""
        return self._uses.value

    @latest.setter
    def latest(self, distance: tf.Tensor | None) -> None:
        self._uses.value = distance

    def distance(self, kernel: tf.Tensor) -> tf.Tensor:
        """½‖Ĉ − W∘C‖² of the latent kernel. If the kernel was used before, in the same graph and
        under the same tape, its gradient is that of the projection loss, with δ of the latest use.
        Otherwise δ is 0."""
        _, distance = self._project(kernel)
        latest = self.latest
        if latest is None or not _is_here(latest):
            return distance
        # The latest value may be of an earlier step, if the kernel was not quantised since.
        return latest + tf.stop_gradient(distance - latest)

    def _project(self, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        repeated = tf.concat([kernel] * self.projections, axis=-1)
        return pcnn_projection(repeated, tf.convert_to_tensor(self.projection), self.step)

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a kernel of this shape has."""
        return self.parts * self.projections

    def get_config(self) -> dict:
        keys = ("step", "parts", "projections")
        return {**super().get_config(), **{key: getattr(self, key) for key in keys}}


def _random_signs(shape: Sequence[int], dtype: object = None) -> tf.Tensor:
    """Initial projections: the first 1, the others ±1 at each position, for all channels alike."""
    *window, channels, projections = shape
    drawn = keras.backend.random_uniform([*window, 1, projections - 1], -1.0, 1.0, dtype)
    signs = tf.concat([tf.ones([*window, 1, 1], drawn.dtype), lq.math.sign(drawn)], axis=-1)
    return tf.repeat(signs, channels, axis=-2)


@register
class HeldProjection(PCNNProjection):
    """Holds the projection of a kernel that stays real: weight files then fit both stages.

    Example:
        >>> quantizer = HeldProjection()
        >>> quantizer(tf.constant([[0.5, -0.25]])).numpy().tolist()
        [[0.5, -0.25]]
        >>> [weight.trainable for weight in quantizer.weights]
        [False]
    """

    precision = None

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.concat([inputs] * self.projections, axis=-1)

    def scales(self, shape: Sequence[int]) -> int:
        """A real kernel has no scales."""
        return 0


def _is_here(tensor: tf.Tensor) -> bool:
    """Whether the tensor belongs to the present graph, or is eager now."""
    graph = getattr(tensor, "graph", None)  # eager tensors have none
    return graph is (None if tf.executing_eagerly() else tf.compat.v1.get_default_graph())


@register
class ProjectionLoss(keras.regularizers.Regularizer):
    """PCNN's projection loss, as the regulariser of a kernel whose quantizer is `PCNNProjection`.

    Its value is that with δ = 0: λ/2·‖Ĉ − W∘C‖².

    Args:
        weight: λ (1e-4 in the paper).

    Raises:
        BnasLarqError: a kernel with another quantizer (when the loss is computed).

    Example:
        >>> kernel = {"kernel_quantizer": PCNNProjection(), "kernel_constraint": "weight_clip"}
        >>> layer = lq.layers.QuantConv2D(2, 3, kernel_regularizer=ProjectionLoss(), **kernel)
        >>> layer(tf.ones([1, 4, 4, 1])).shape, len(layer.losses)
        (TensorShape([1, 2, 2, 2]), 1)
    """

    def __init__(self, weight: float = 1e-4) -> None:
        self.weight = weight

    def __call__(self, kernel: tf.Variable) -> tf.Tensor:
        quantizer, latent = quantizer_and_latent(kernel, PCNNProjection)
        return self.weight * quantizer.distance(latent)

    def get_config(self) -> dict:
        return {"weight": self.weight}


register_scheme(
    "pcnn",
    Scheme(
        input_quantizer=lq.quantizers.SteSign,
        kernel_quantizer=PCNNProjection,
        kernel_constraint=lq.constraints.WeightClip,
        kernel_regularizer=ProjectionLoss,
        by_layer=True,
        real_kernel_quantizer=HeldProjection,
    ),
)
