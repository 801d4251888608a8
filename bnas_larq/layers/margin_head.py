"""Training heads of embedding networks, which separate the classes' directions by a margin.

ArcFace: Deng et al., arXiv 1801.07698, eq. 3; CosFace: Wang et al., arXiv 1801.09414, eq. 4;
centre loss: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition",
ECCV 2016, eqs. 2 to 4. With cosθ_j between an embedding and the weights of class j, and y the
embedding's class, the logits are s·cosθ_j except for class y:

    ArcFace  s·cos(θ_y + m),  and s·(cosθ_y − m·sin(π − m)) where cosθ_y ≤ cos(π − m)
    CosFace  s·(cosθ_y − m)

cos(θ + m) rises again beyond θ = π − m; the second line of ArcFace, which is its authors'
program's, keeps the logit falling there. Heads are needed in training only: what is deployed is the
embedding network in front of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.strategies import sums

#: Below it the sine is held constant: its slope at θ = 0 is infinite.
_LEAST_SQUARED_SINE = 1e-12


def cosines(embeddings: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """cosθ between embeddings [batch, features] and the columns of a kernel [features, classes]:
    [batch, classes].

    Example:
        >>> cosines(tf.constant([[3.0, 4.0]]), tf.constant([[2.0, 0.0], [0.0, 1.0]])).numpy()
        array([[0.6, 0.8]], dtype=float32)
    """
    return tf.math.l2_normalize(embeddings, axis=1) @ tf.math.l2_normalize(kernel, axis=0)


def arcface(
    cosine: tf.Tensor, labels: tf.Tensor, scale: float = 64.0, margin: float = 0.5
) -> tf.Tensor:
    """ArcFace's logits, see the formula above.

    Args:
        cosine: cosθ, [batch, classes].
        labels: integer [batch].
        scale: s.
        margin: m in radians, at least 0 and below π.

    Example:
        >>> logits = arcface(tf.constant([[0.6, 0.2]]), tf.constant([0]), scale=1.0, margin=0.5)
        >>> [round(value, 4) for value in logits.numpy()[0].tolist()]  # cos(acos(0.6) + 0.5), 0.2
        [0.143, 0.2]
    """

    def target(own: tf.Tensor) -> tf.Tensor:
        sine = tf.sqrt(tf.maximum(1.0 - tf.square(own), _LEAST_SQUARED_SINE))
        turned = own * math.cos(margin) - sine * math.sin(margin)
        lowered = own - margin * math.sin(math.pi - margin)
        return tf.where(own > math.cos(math.pi - margin), turned, lowered)

    return _logits(cosine, labels, scale, target)


def cosface(
    cosine: tf.Tensor, labels: tf.Tensor, scale: float = 64.0, margin: float = 0.4
) -> tf.Tensor:
    """CosFace's logits, see the formula above.

    Args:
        cosine: cosθ, [batch, classes].
        labels: integer [batch].
        scale: s.
        margin: m, at least 0.

    Example:
        >>> cosface(tf.constant([[0.5, 0.25]]), tf.constant([0]), scale=4.0, margin=0.25).numpy()
        array([[1., 1.]], dtype=float32)
    """
    return _logits(cosine, labels, scale, lambda own: own - margin)


def _logits(
    cosine: tf.Tensor, labels: tf.Tensor, scale: float, target: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    own = tf.gather(cosine, labels, batch_dims=1)[:, None]
    is_own = tf.one_hot(labels, cosine.shape[1], on_value=True, off_value=False, dtype=tf.bool)
    return scale * tf.where(is_own, target(own), cosine)


#: Margin → its function.
MARGINS = {"arcface": arcface, "cosface": cosface}
_DEFAULTS = {"arcface": 0.5, "cosface": 0.4}


@register
class MarginHead(keras.layers.Layer):
    """Logits of classes with weights of length 1 for embeddings scaled to length 1, with a margin
    in training; without it, in inference, they are s·cosθ.

    Args:
        num_classes: number of classes.
        kind: of the margin, `"arcface"` or `"cosface"`.
        scale: s, above 0; as published 64. Small data sets train better with 16 to 30 (ours).
        margin: m; default as published, 0.5 of ArcFace and 0.4 of CosFace. 0 for none.

    Input shape: embeddings [batch, features] and integer labels [batch], as a list; in inference
        embeddings alone suffice.
    Output shape: [batch, num_classes].

    Raises:
        BnasLarqError: an unknown kind, a value out of range, or training without labels (when the
            layer is called).

    Example:
        >>> head = MarginHead(2, "cosface", scale=10.0, margin=0.25)
        >>> embeddings = tf.constant([[1.0, 0.0]])
        >>> plain = head(embeddings)
        >>> (plain - head([embeddings, tf.constant([1])], training=True)).numpy().round(3)
        array([[0. , 2.5]], dtype=float32)
    """

    def __init__(
        self,
        num_classes: int,
        kind: str = "arcface",
        scale: float = 64.0,
        margin: float | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        if kind not in MARGINS:
            raise BnasLarqError(
                f"A margin is one of {', '.join(MARGINS)}. "
                f"Received: {kind!r}; {nearest(str(kind), MARGINS)}"
            )
        margin = _DEFAULTS[kind] if margin is None else margin
        if num_classes < 2 or not scale > 0 or not 0 <= margin < math.pi:
            raise BnasLarqError(
                "A margin head has two classes at least, a scale above 0 and a margin of at least "
                f"0 and below π. Received: num_classes={num_classes}, scale={scale}, "
                f"margin={margin}."
            )
        self.num_classes, self.kind, self.scale, self.margin = num_classes, kind, scale, margin

    def build(self, input_shape) -> None:
        features = _embedding_shape(input_shape)[-1]
        self.kernel = self.add_weight(
            "kernel", [features, self.num_classes], initializer="glorot_uniform"
        )
        super().build(input_shape)

    def call(
        self, inputs: tf.Tensor | Sequence[tf.Tensor], training: bool | None = None
    ) -> tf.Tensor:
        embeddings, *labels = tf.nest.flatten(inputs)
        cosine = cosines(embeddings, self.kernel)
        if not training:
            return self.scale * cosine
        if not labels:
            raise BnasLarqError(
                "A margin needs to know the classes. Received: embeddings alone, in training. "
                "Call the head on [embeddings, labels]."
            )
        return MARGINS[self.kind](cosine, labels[0], self.scale, self.margin)

    def get_config(self) -> dict:
        own = {"num_classes": self.num_classes, "kind": self.kind}
        return {**super().get_config(), **own, "scale": self.scale, "margin": self.margin}


def moved_centers(
    centers: tf.Tensor, embeddings: tf.Tensor, labels: tf.Tensor, rate: float = 0.5
) -> tf.Tensor:
    """Class centres after a batch: c_j ← c_j − α·Σ_{y=j}(c_j − x) / (1 + n_j), with the n_j
    embeddings x of class j in the batch, under a strategy in those of all replicas.

    Args:
        centers: c, [classes, features].
        embeddings: x, [batch, features].
        labels: integer [batch].
        rate: α.

    Example:
        >>> moved_centers(tf.zeros([2, 1]), tf.constant([[4.0]]), tf.constant([0])).numpy().ravel()
        array([1., 0.], dtype=float32)
    """
    away = tf.gather(centers, labels) - embeddings
    classes = centers.shape[0]
    total = tf.math.unsorted_segment_sum(away, labels, classes)
    count = tf.math.unsorted_segment_sum(tf.ones_like(labels, centers.dtype), labels, classes)
    total, count = sums([total, count])
    return centers - rate * total / (1.0 + count[:, None])


@register
class CenterLoss(keras.layers.Layer):
    """Adds the centre loss λ/2·mean ‖x − c_y‖² of embeddings to the model's losses, and moves the
    centres in training; returns the embeddings as they are.

    Its gradient λ·(x − c_y)/batch enters the embeddings only: centres move by `moved_centers`,
    after their loss. They begin at 0 (ours).

    Args:
        num_classes: number of classes.
        weight: λ, with the mean over the batch.
        rate: α of the centres; 0.5 as published.

    Input shape: embeddings [batch, features] and integer labels [batch], as a list.
    Output shape: [batch, features].

    Example:
        >>> layer = CenterLoss(3, weight=0.1)
        >>> outputs = layer([tf.constant([[3.0, 4.0]]), tf.constant([2])], training=True)
        >>> float(layer.losses[0])  # 0.1 / 2 * (9 + 16)
        1.25
        >>> layer.centers.numpy()[2].tolist()  # 0.5 * (3, 4) / (1 + 1)
        [0.75, 1.0]
    """

    def __init__(self, num_classes: int, weight: float = 0.01, rate: float = 0.5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.weight, self.rate = num_classes, weight, rate

    def build(self, input_shape) -> None:
        shape = [self.num_classes, _embedding_shape(input_shape)[-1]]
        self.centers = self.add_weight("centers", shape, initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        embeddings, labels = inputs
        centers = tf.convert_to_tensor(self.centers)
        away = embeddings - tf.gather(centers, labels)
        self.add_loss(self.weight / 2 * tf.reduce_mean(tf.reduce_sum(tf.square(away), axis=1)))
        if training:
            self.centers.assign(
                moved_centers(centers, tf.stop_gradient(embeddings), labels, self.rate)
            )
        return tf.identity(embeddings)

    def get_config(self) -> dict:
        own = {"num_classes": self.num_classes, "weight": self.weight, "rate": self.rate}
        return {**super().get_config(), **own}


def _embedding_shape(input_shape) -> Sequence[int | None]:
    """The shape of the embeddings, which may stand in front of those of labels."""
    return input_shape[0] if isinstance(input_shape, list) else input_shape
