"""Mixup of a batch, whose shares follow the run's seed as the augmentation's draws do."""

from __future__ import annotations

from bnas_larq.backend import tf
from bnas_larq.data.augmentation import MIXUP_DRAW
from bnas_larq.data.draws import uniforms


def mix_up(
    images: tf.Tensor,
    labels: tf.Tensor,
    indices: tf.Tensor,
    *,
    alpha: float,
    num_classes: int,
    seed: int,
    epoch: int | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix each image of a shuffled batch with the next one, as λ·own + (1 − λ)·next, λ from
    Beta(α, α) (mixup, arXiv 1710.09412; here each image has its own λ).

    Args:
        images: float32 [batch, height, width, 3].
        labels: int64 [batch].
        indices, seed, epoch: as of `Augmentation.apply`.

    Returns:
        The images, and the shares of their classes, float32 [batch, num_classes].
    """
    draws = uniforms(seed, epoch, indices, MIXUP_DRAW + 1)[:, MIXUP_DRAW]
    own = beta_quantile(draws, alpha)[:, None]

    def mixed(values: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        return own * values + (1.0 - own) * tf.roll(values, -1, axis=0)

    return mixed(images, own[:, :, None, None]), mixed(tf.one_hot(labels, num_classes), own)


def beta_quantile(probability: tf.Tensor, alpha: float) -> tf.Tensor:
    """Where the distribution function of Beta(α, α) has a value, by bisection; TensorFlow has only
    the function itself, and its generator of gamma draws depends on an image's place in the batch.
    """
    low, high = tf.zeros_like(probability), tf.ones_like(probability)
    alpha = tf.fill(tf.shape(probability), alpha)
    for _ in range(24):  # bits of float32
        middle = 0.5 * (low + high)
        below = tf.math.betainc(alpha, alpha, middle) < probability
        low, high = tf.where(below, middle, low), tf.where(below, high, middle)
    return 0.5 * (low + high)
