"""Learning from a teacher: what it says about a batch, and the student's loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bnas_larq.backend import keras, tf
from bnas_larq.data import Normalization
from bnas_larq.errors import RecipeError
from bnas_larq.strategies import examples_seen, mean_loss, replicas
from bnas_larq.teacher_settings import TeacherSettings

#: Below it a squared distance is 0, whose root has no gradient.
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network that others learn from.

    Attributes:
        model: images to logits, or to their softmax; not trained.
        settings: what is learnt from it.
        own: how its images are normalised.
        shared: how the student's images, which it is given, are normalised.
    """

    model: keras.Model
    settings: TeacherSettings
    own: Normalization = Normalization()
    shared: Normalization = Normalization()

    def images(self, images: tf.Tensor) -> tf.Tensor:
        """The student's images as the teacher knows them, float32."""
        if self.own == self.shared:
            return images
        own, shared = (np.array((part.mean, part.std)) for part in (self.own, self.shared))
        scale, shift = shared[1] / own[1], (shared[0] - own[0]) / own[1]
        # Whole rows: see `Normalization.apply`.
        scale, shift = (
            np.tile(part.astype(np.float32), (images.shape[-2], 1)) for part in (scale, shift)
        )
        return images * scale + shift

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """Logits, up to a constant, from the model's outputs."""
        last = self.model.layers[-1]
        softmax = getattr(last, "activation", None) is keras.activations.softmax
        if softmax or isinstance(last, keras.layers.Softmax):
            return tf.math.log(tf.maximum(outputs, 1e-30))
        return outputs

    def predict(self, images: tf.Tensor) -> np.ndarray:
        """Logits [batch, classes] for the student's images."""
        return self.logits(self.model(self.images(images), training=False)).numpy()


class Distilled(keras.Model):
    """A student that learns from a teacher: its own layers and weights, and another training step.

    Batches are (images, labels), or (images, labels, the teacher's logits).

    Args:
        student: a functional model from images to logits.
        teacher: neither tracked nor saved with the student.
        loss: of labels and logits.
    """

    def __init__(
        self, student: keras.Model, teacher: Teacher, loss: Callable[..., tf.Tensor]
    ) -> None:
        super().__init__(student.inputs, student.outputs, name=student.name)
        # A plain object, whose models Keras does not track.
        self.lesson = _Lesson(student, teacher, loss)

    @property
    def attended(self) -> list[tf.Tensor]:
        """The student's outputs that the loss compares, besides the logits; read by
        `bnas_larq.networks.fast_training`, which does not see the lesson's models."""
        return self.lesson.student.outputs[1:]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Without the compiled loss' own mean: Keras reports the last one of a name, and that one
        is not updated in training."""
        others = (metric for metric in super().metrics if metric.name != self.lesson.mean.name)
        return [self.lesson.mean, *others]

    def train_step(self, data: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
        images, labels, *logits = data
        known = self.lesson.known(images, *logits)
        with tf.GradientTape() as tape:
            # A model of one output returns no list.
            outputs = tf.nest.flatten(self.lesson.student(images, training=True))
            loss = self.lesson.loss(labels, outputs, known)
            loss = tf.add_n([loss, *self.losses])
            share = loss if replicas() == 1 else loss / replicas()
        self.optimizer.minimize(share, self.trainable_variables, tape=tape)
        return self._measured(loss, labels, outputs[0])

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        images, labels = data
        logits = self(images, training=False)
        loss = self.compute_loss(images, labels, logits)
        # Keras' share of the mean over all replicas.
        loss = loss if replicas() == 1 else loss * replicas()
        return self._measured(loss, labels, logits, examples_seen(labels))

    def _measured(
        self, loss: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor, seen: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        self.lesson.mean.update_state(loss, sample_weight=seen)
        self.compiled_metrics.update_state(labels, logits)
        return {metric.name: metric.result() for metric in self.metrics}


class _Lesson:
    """What a `Distilled` model learns: outputs are lists of logits and attended layers."""

    def __init__(
        self, student: keras.Model, teacher: Teacher, loss: Callable[..., tf.Tensor]
    ) -> None:
        settings = teacher.settings
        pairs = {}
        if settings.attention:
            pairs = paired_layers(student.layers, teacher.model.layers, settings.layers)
        outputs = [student.get_layer(name).output for name in pairs]
        self.student = keras.Model(student.inputs, [student.output, *outputs])
        outputs = [teacher.model.get_layer(name).output for name in pairs.values()]
        self.known_points = keras.Model(teacher.model.inputs, [teacher.model.output, *outputs])
        self.teacher, self.labels_loss = teacher, loss
        self.mean = keras.metrics.Mean(name="loss")

    def known(self, images: tf.Tensor, logits: tf.Tensor | None = None) -> list[tf.Tensor]:
        """The teacher's outputs, which no gradient enters."""
        if logits is not None:
            return [logits]
        points = self.known_points(self.teacher.images(images), training=False)
        outputs, *attended = tf.nest.flatten(points)
        return [self.teacher.logits(outputs), *attended]

    def loss(
        self, labels: tf.Tensor, outputs: list[tf.Tensor], known: list[tf.Tensor]
    ) -> tf.Tensor:
        """The mean loss of a batch; see `TeacherSettings`."""
        settings = self.teacher.settings
        known = [tf.stop_gradient(part) for part in known]
        loss = tf.constant(0.0)
        if settings.weight:
            divergence = soft_divergence(known[0], outputs[0], settings.temperature)
            loss += settings.weight * divergence
        if settings.cross_entropy:
            loss += settings.cross_entropy * mean_loss(self.labels_loss, labels, outputs[0])
        for own, other in zip(outputs[1:], known[1:], strict=True):
            loss += settings.attention * attention_distance(own, other)
        return loss


def soft_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """T²·KL(teacher ‖ student) of softmaxes at temperature T; the mean over a batch of logits
    [batch, classes].

    Example:
        >>> logits = tf.math.log([[0.5, 0.5]]), tf.math.log([[0.25, 0.75]])
        >>> round(float(soft_divergence(*logits, temperature=1.0)), 4)  # 0.5 ln 2 + 0.5 ln 2/3
        0.1438
    """
    teacher = tf.nn.log_softmax(teacher / temperature)
    difference = teacher - tf.nn.log_softmax(student / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * difference, axis=-1)
    return temperature**2 * tf.reduce_mean(divergence)


def attention_distance(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """Distance of two normalised attention maps, the mean over feature maps [batch, height, width,
    channels] of one resolution; see `TeacherSettings`."""

    def attention(features: tf.Tensor) -> tf.Tensor:
        energy = tf.reduce_sum(tf.square(tf.cast(features, tf.float32)), axis=-1)
        flat = tf.reshape(energy, [-1, energy.shape[1] * energy.shape[2]])
        return tf.math.l2_normalize(flat, axis=-1)

    squared = tf.reduce_sum(tf.square(attention(student) - attention(teacher)), axis=-1)
    return tf.reduce_mean(tf.sqrt(tf.maximum(squared, _TINY)))


def paired_layers(
    student: Sequence[keras.layers.Layer],
    teacher: Sequence[keras.layers.Layer],
    names: Mapping[str, str] | None,
) -> dict[str, str]:
    """Names of the layers whose attention is compared, the student's to the teacher's.

    Args:
        student, teacher: all their layers.
        names: those of the recipe; None: by resolution, see `TeacherSettings`.

    Raises:
        RecipeError: there is no such layer, two have not the same resolution, or none fits.
    """
    if names is None:
        own, other = _by_resolution(student), _by_resolution(teacher)
        names = {own[size]: other[size] for size in own if size in other}
    for pair in names.items():
        sizes = [_size(layers, name) for layers, name in zip((student, teacher), pair, strict=True)]
        if None in sizes or sizes[0] != sizes[1]:
            raise RecipeError(
                "Attention compares layers of images of one size. Received: "
                f"{_words(pair[0], sizes[0])} and the teacher's {_words(pair[1], sizes[1])}. "
                "Correct teacher.layers."
            )
    if not names:
        raise RecipeError(
            "Attention compares layers of one size. Received: a teacher and a student that have "
            "none in common. Set teacher.attention to 0."
        )
    return dict(names)


def _words(name: str, size: tuple[int, int] | None) -> str:
    return f"{name!r}, " + (f"{size[0]}×{size[1]}" if size else "which is no layer of images")


def _size(layers: Sequence[keras.layers.Layer], name: str) -> tuple[int, int] | None:
    """Height and width of a layer's output; None without such a layer, or for other outputs."""
    layer = next((layer for layer in layers if layer.name == name), None)
    shape = getattr(layer, "output_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or None in shape[1:3]:
        return None
    return shape[1:3]


def _by_resolution(layers: Sequence[keras.layers.Layer]) -> dict[tuple[int, int], str]:
    """The layer that ends each resolution: the last that adds or concatenates, or the last."""
    merging = (keras.layers.Add, keras.layers.Concatenate)
    last, merged = {}, {}
    for layer in layers:
        size = None if isinstance(layer, keras.layers.InputLayer) else _size(layers, layer.name)
        if size is not None and min(size) > 1:
            last[size] = layer.name
            if isinstance(layer, merging):
                merged[size] = layer.name
    return {**last, **merged}
