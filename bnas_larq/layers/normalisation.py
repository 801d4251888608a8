"""The arithmetic of BatchNorm in training, in few passes over memory and with any number of
channels.

oneDNN normalises sixteen channels at a time, and needs up to five times as long where their number
is not a multiple. Several neighbouring pixels together have a multiple: their statistics are taken
as if their channels were different ones, and then joined.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bnas_larq.backend import tf
from bnas_larq.layers.traced import in_one_pass, traced_by_shape

#: Channels of a vector register of float32 with 512 bits.
_LANES = 16
#: Into how many parts images are cut for sums.
_PARTS = 64


class Moments(NamedTuple):
    """Statistics of a batch.

    Attributes:
        mean, variance: float32 [channels].
        unbiased: the variance with Bessel's correction.
        count: number of values of a channel, float32 [].
    """

    mean: tf.Tensor
    variance: tf.Tensor
    unbiased: tf.Tensor
    count: tf.Tensor


class Standardisation(NamedTuple):
    """What BatchNorm does to the channels of a batch: (x − mean)·factor + offset.

    Attributes:
        mean, factor, offset: float32 [channels].
        deviation: root of the batch's variance plus epsilon, float32 [channels].
        count: number of values of a channel, float32 [].
    """

    mean: tf.Tensor
    factor: tf.Tensor
    offset: tf.Tensor
    deviation: tf.Tensor
    count: tf.Tensor


def phases(shape: tf.TensorShape) -> int:
    """How many neighbouring pixels of images of this shape have a multiple of sixteen channels
    together; 1 if the images cannot be cut so."""
    _, height, width, channels = shape
    pixels = _LANES // math.gcd(_LANES, channels)
    return pixels if None not in (height, width) and not height * width % pixels else 1


def moments(images: tf.Tensor) -> Moments:
    """Statistics of images [batch, height, width, channels] of any float type over all but the last
    axis. Those of a tensor are computed once, for all layers that read it."""
    place = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    known, found = getattr(images, "_bnas_moments", (None, None))
    if found is None or known is not place:
        found = Moments(*_moments(images))
        images._bnas_moments = place, found
    return found


@traced_by_shape
def _moments(images: tf.Tensor) -> tuple[tf.Tensor, ...]:
    channels, pixels = images.shape[-1], phases(images.shape)
    joint = pixels * channels
    outputs = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(images, [-1, 1, 1, joint]),
        scale=tf.ones([joint]),
        offset=tf.zeros([joint]),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        is_training=True,
    )
    count = tf.cast(tf.size(images) // channels, tf.float32)
    each = count / pixels
    means = tf.reshape(outputs.batch_mean, [pixels, channels])
    # The operation's variance has Bessel's correction.
    variances = tf.reshape(outputs.batch_variance, [pixels, channels]) * ((each - 1.0) / each)
    mean = tf.reduce_mean(means, axis=0)
    variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)
    return mean, variance, variance * (count / tf.maximum(count - 1.0, 1.0)), count


def gradients(
    images: tf.Tensor, upstream: tf.Tensor, own: Standardisation, bound: float | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gradients of images, scale and offset from that of BatchNorm's outputs; with a `bound`, from
    that of their signs, which passes where |outputs| <= bound."""
    if bound is None:
        products = _products(images, upstream, own.mean, own.deviation)
    else:
        upstream, products = _passed_and_products(images, upstream, *own[:4], bound)
    offset, scale = channel_sums(upstream), channel_sums(products)
    means = offset / own.count, scale / own.count
    inputs = _through_statistics(images, upstream, own.mean, own.deviation, own.factor, *means)
    return inputs, scale, offset


def channel_sums(images: tf.Tensor) -> tf.Tensor:
    """Sums over batch, height and width, float32 [channels]: as matrix products, which read the
    images about twice as fast as a reduction. In bfloat16 the sum of each part is rounded."""
    pixels = images.shape[:3].num_elements()
    # Enough parts for all cores, or with an unknown batch one for each image.
    part = pixels // math.gcd(pixels, _PARTS) if pixels else math.prod(images.shape[1:3])
    parts = tf.reshape(images, [-1, part, images.shape[-1]])
    sums = tf.matmul(tf.ones(tf.stack([tf.shape(parts)[0], 1, part]), images.dtype), parts)
    return tf.reduce_sum(tf.cast(sums, tf.float32), [0, 1])


@in_one_pass
def times(images, factor):
    """Images of any float type, which the product has too, times a float32 factor."""
    return tf.cast(tf.cast(images, tf.float32) * factor, images.dtype)


@in_one_pass
def signs_of(values):
    """The signs of values of any float type, ±1 of this type, with sign(0) = 1."""
    return tf.where(values >= 0, tf.ones_like(values), -tf.ones_like(values))


@in_one_pass
def passed(values, upstream, bound):
    """The gradient `upstream` of signs where |values| <= bound, else 0."""
    inside = tf.abs(tf.cast(values, tf.float32)) <= bound
    return tf.where(inside, upstream, tf.zeros_like(upstream))


@in_one_pass
def standardised(images, mean, factor, offset):
    """(images − mean)·factor + offset per channel, in the type of the images."""
    return tf.cast(_affine(images, mean, factor, offset), images.dtype)


@in_one_pass
def standardised_signs(images, mean, factor, offset):
    """The signs of `standardised`, see `signs_of`."""
    return tf.cast(tf.where(_affine(images, mean, factor, offset) >= 0.0, 1.0, -1.0), images.dtype)


@in_one_pass
def _passed_and_products(images, upstream, mean, factor, offset, deviation, bound):
    inside = tf.abs(_affine(images, mean, factor, offset)) <= bound
    gradient = tf.where(inside, tf.cast(upstream, tf.float32), 0.0)
    products = gradient * _affine(images, mean, 1.0 / deviation, 0.0)
    return tf.cast(gradient, images.dtype), tf.cast(products, images.dtype)


@in_one_pass
def _products(images, upstream, mean, deviation):
    normalised = _affine(images, mean, 1.0 / deviation, 0.0)
    return tf.cast(tf.cast(upstream, tf.float32) * normalised, images.dtype)


@in_one_pass
def _through_statistics(images, gradient, mean, deviation, factor, mean_gradient, mean_product):
    normalised = _affine(images, mean, 1.0 / deviation, 0.0)
    centred = tf.cast(gradient, tf.float32) - mean_gradient - normalised * mean_product
    return tf.cast(factor * centred, images.dtype)


def _affine(images, mean, factor, offset):
    return (tf.cast(images, tf.float32) - mean) * factor + offset
