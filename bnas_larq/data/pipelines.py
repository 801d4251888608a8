"""Batches: endless training streams that start at any epoch, and finite evaluation data sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.augmentation import Augmentation, random_boxes
from bnas_larq.data.examples import Examples
from bnas_larq.data.mixup import mix_up
from bnas_larq.data.normalization import Normalization
from bnas_larq.data.shards import Shard, distributed
from bnas_larq.errors import DataError

#: Float32 images that a core augments at a time; what fits into its cache is several times faster.
PART_BYTES = 8_000_000
#: Batches from this size on are not read ahead, or worked on, by as many as there are cores.
LARGE_BATCH_BYTES = 32_000_000


class EpochPipeline:
    """A training stream for `fit(steps_per_epoch=…, initial_epoch=e)`: epoch e is a function of e.

    Args:
        epoch: makes one epoch of at least `steps_per_epoch` batches from its number and that of the
            batches to skip, scalar int64 tensors; with a `Shard` as third argument its parts of
            them, a batch for each replica that the shard feeds.
        steps_per_epoch: batches per epoch.
    """

    def __init__(self, epoch: Callable[..., tf.data.Dataset], steps_per_epoch: int):
        self._epoch = epoch
        self.steps_per_epoch = steps_per_epoch

    def epoch(
        self, epoch: int | tf.Tensor, first: int | tf.Tensor = 0, shard: Shard | None = None
    ) -> tf.data.Dataset:
        """The `steps_per_epoch` batches of one epoch, from the batch `first` on; those before it
        are not read. With `shard`, its parts of them."""
        epoch, first = tf.cast(epoch, tf.int64), tf.cast(first, tf.int64)
        left = self.steps_per_epoch - first
        if shard is None:
            return self._epoch(epoch, first).take(left)
        return self._epoch(epoch, first, shard).take(left * shard.fed)

    def dataset(
        self, start_epoch: int = 0, start_step: int = 0, shard: Shard | None = None
    ) -> tf.data.Dataset:
        """The endless stream from the batch `start_step` of `start_epoch` on; with `shard`, its
        parts of it."""
        batches = tf.data.Dataset.range(start_epoch, tf.int64.max).flat_map(
            lambda epoch: self.epoch(epoch, tf.where(epoch == start_epoch, start_step, 0), shard)
        )
        if shard is not None:
            # Else the processes of a strategy would ask each other in every step whether it ends.
            endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            batches = batches.apply(endless)
        return _finish(batches)


def training_pipeline(
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    normalization: Normalization,
    augmentation: Augmentation | None = None,
    mixup: float = 0.0,
    num_classes: int | None = None,
    views: int | None = None,
    attach: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
) -> EpochPipeline:
    """Shuffled, augmented, normalised batches: (float32 [batch, height, width, 3], int64 [batch]).

    With `mixup`, the α of `mix_up`, labels are shares of the classes: float32 [batch, num_classes].
    With `views`, epoch e augments as epoch e mod `views` does. `attach` makes a third part of each
    batch from the view and the stable indices.

    The last, smaller batch of an epoch is dropped. Batches are prefetched across the end of an
    epoch, so that training does not wait there for examples in memory. Random resized crops are cut
    from pictures in their own size.

    Raises:
        DataError: `batch_size` is below 1 or above the number of examples, a reflected border is
            as wide as the image, a crop is larger than it, or pictures to be cropped are in memory
            and already resized.
    """
    _check_batch_size(batch_size)
    if batch_size > examples.num_examples:
        raise DataError(
            f"A batch cannot be larger than the training part. Received: batch size {batch_size} "
            f"for {examples.num_examples} examples. Lower the batch size, or raise the limit."
        )
    augmentation = augmentation or Augmentation()
    height, width, _ = examples.image_shape
    if augmentation.crop_mode == "reflect" and augmentation.crop_padding >= min(height, width):
        raise DataError(
            "A reflected border is narrower than the image. Received: crop_padding "
            f"{augmentation.crop_padding} for {height}×{width} pixels. Lower it."
        )
    if (augmentation.crop_size or 0) > min(height, width):
        raise DataError(
            "A crop is no larger than the image. Received: crop_size "
            f"{augmentation.crop_size} for {height}×{width} pixels. Lower it."
        )
    cuts_originals = augmentation.random_resized_crop and examples.resized
    if cuts_originals and not examples.streamed:
        raise DataError(
            "Random resized crops are cut from pictures in their own size. Received: pictures in "
            "memory, already resized. Load them with keep_originals=True."
        )

    def whole(*parts: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(tf.reshape(part, [batch_size, *part.shape[2:]]) for part in parts)

    def epoch(number: tf.Tensor, first: tf.Tensor, shard: Shard | None = None) -> tf.data.Dataset:
        view = number if views is None else number % views
        parts = 1 if shard else _parts(batch_size, examples.image_shape)
        order = {"epoch": number, "shuffle": True, "drop_remainder": True, "first": first * parts}
        if shard is not None:
            # Mixup needs the image that follows the shard's last.
            order |= {"shard": shard, "following": int(bool(mixup))}
        size = batch_size // parts
        batches = _augmented(examples, size, seed, view, normalization, augmentation, order)
        if parts > 1:
            batches = batches.batch(parts, drop_remainder=True).map(whole)

        def finish(images: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor):
            given = () if attach is None else (attach(view, indices),)
            if mixup:
                draws = {"seed": seed, "epoch": view}
                share = {"alpha": mixup, "num_classes": num_classes}
                images, labels = mix_up(images, labels, indices, **share, **draws)
            if mixup and shard is not None:
                images, labels, *given = (part[:-1] for part in (images, labels, *given))
            return images, labels, *given

        return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return EpochPipeline(epoch, examples.num_examples // batch_size)


def view_images(
    examples: Examples,
    view: int,
    *,
    seed: int,
    normalization: Normalization,
    augmentation: Augmentation,
) -> tf.data.Dataset:
    """All examples once in stored order, augmented as in the epoch `view` of `training_pipeline`:
    float32 [≤ batch, height, width, 3]."""
    batches = _augmented(examples, EVALUATION_BATCH, seed, view, normalization, augmentation, {})
    return _finish(batches.map(lambda images, _, __: images))


def _augmented(
    examples: Examples,
    batch_size: int,
    seed: int,
    view: int | tf.Tensor,
    normalization: Normalization,
    augmentation: Augmentation,
    order: Mapping[str, Any],
) -> tf.data.Dataset:
    """Batches (images, labels, indices), augmented as `view` says, in an `order` for
    `Examples.batches`."""
    cuts_originals = augmentation.random_resized_crop and examples.resized
    after_crops = dataclasses.replace(
        augmentation, random_resized_crop=augmentation.random_resized_crop and not cuts_originals
    )
    draws = {"seed": seed, "epoch": view}

    def box(index: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        return random_boxes(index[None], height, width, **draws)[0]

    def prepare(images: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor):
        images = normalization.apply(after_crops.apply(images, indices, **draws))
        return after_crops.cut_out(images, indices, **draws), labels, indices

    cropped = examples.cropped(box) if cuts_originals else examples
    batches = cropped.batches(batch_size, seed=seed, **order)
    return batches.map(
        prepare, num_parallel_calls=_parallel(batch_size, examples.image_shape), deterministic=True
    )


def _bytes(batch_size: int, shape: Sequence[int]) -> int:
    """Of a batch of float32 images."""
    return 4 * batch_size * math.prod(shape)


def _parts(batch_size: int, shape: Sequence[int]) -> int:
    """Equal parts in which a batch is augmented: each core works on one, in several copies."""
    divisors = (parts for parts in range(1, batch_size) if not batch_size % parts)
    fitting = (n for n in divisors if _bytes(batch_size // n, shape) <= PART_BYTES)
    return next(fitting, batch_size)


def _parallel(batch_size: int, shape: Sequence[int]) -> int:
    """How many batches are worked on at a time: of large ones a few, however many cores."""
    return tf.data.AUTOTUNE if _bytes(batch_size, shape) <= LARGE_BATCH_BYTES else 2


def bilevel_pipeline(
    weights_pipeline: EpochPipeline, alpha_pipeline: EpochPipeline
) -> EpochPipeline:
    """Both halves of a search side by side: ((images, labels) for weights, (images, labels) for α).

    An epoch ends with the shorter of the two.
    """
    steps = min(weights_pipeline.steps_per_epoch, alpha_pipeline.steps_per_epoch)

    def epoch(number: tf.Tensor, first: tf.Tensor, *shard: Shard) -> tf.data.Dataset:
        halves = weights_pipeline, alpha_pipeline
        return tf.data.Dataset.zip(tuple(half.epoch(number, first, *shard) for half in halves))

    return EpochPipeline(epoch, steps)


#: Used by every evaluation of a network, because another size may round differently. Larger batches
#: gain nothing on a CPU.
EVALUATION_BATCH = 250


def evaluation_dataset(
    examples: Examples,
    batch_size: int,
    normalization: Normalization,
    *,
    shuffle_seed: int | None = None,
    crop_size: int | None = None,
) -> tf.data.Dataset:
    """All examples once: (float32 [≤ batch, height, width, 3], int64 [≤ batch]); DataError if
    `batch_size` is below 1.

    Args:
        crop_size: side of a square to cut from the middle; None for whole images.
        shuffle_seed: of a fixed shuffled order, the same in every pass; None for the stored order,
            which may be class by class.
    """
    _check_batch_size(batch_size)

    def prepare(images: tf.Tensor, labels: tf.Tensor, _: tf.Tensor):
        if crop_size:
            top, left = ((side - crop_size) // 2 for side in images.shape[1:3])
            images = images[:, top : top + crop_size, left : left + crop_size]
        return normalization.apply(images), labels

    batches = examples.batches(batch_size, seed=shuffle_seed or 0, shuffle=shuffle_seed is not None)
    parallel = _parallel(batch_size, examples.image_shape)
    return _finish(batches.map(prepare, num_parallel_calls=parallel, deterministic=True))


class EvaluationPipeline:
    """The batches of `evaluation_dataset`, also for the replicas of a strategy, with arguments as
    of that function."""

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        normalization: Normalization,
        *,
        crop_size: int | None = None,
    ) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.normalization, self.crop_size = normalization, crop_size

    def dataset(self, shard: Shard | None = None) -> tf.data.Dataset:
        """All examples once; with `shard`, those that it reads, in `steps` batches of nearly equal
        size for each replica. DataError if there are fewer examples than that."""
        if shard is None:
            return self._batches(self.examples, self.batch_size)
        # None is empty: oneDNN's convolutions do not take that.
        own = self.examples.subset(shard.positions(len(self.examples)))
        rows, larger = divmod(len(own), self.steps * shard.fed)
        if not rows:
            raise DataError(
                "Every replica evaluates some images. "
                f"Received: {len(self.examples)} images for {shard.replicas} replicas. "
                "Give more images."
            )
        end = larger * (rows + 1)
        others = self._batches(own.subset(np.arange(end, len(own))), rows)
        if not larger:
            return others
        return self._batches(own.subset(np.arange(end)), rows + 1).concatenate(others)

    @property
    def steps(self) -> int:
        """Number of batches."""
        return -(-len(self.examples) // self.batch_size)

    def _batches(self, examples: Examples, rows: int) -> tf.data.Dataset:
        return evaluation_dataset(examples, rows, self.normalization, crop_size=self.crop_size)

    def for_fit(self) -> dict[str, Any]:
        """The arguments with which `keras.Model.fit` evaluates, under the present strategy."""
        data = distributed(self.dataset)
        known = isinstance(data, tf.data.Dataset)
        return {"validation_data": data, "validation_steps": None if known else self.steps}


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise DataError(
            f"A batch holds at least one example. Received: batch size {batch_size}. Use 64, for "
            "example."
        )


def _finish(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # tf.distribute shards by example: image folders and memory have no file shards.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    specs = tf.nest.flatten(dataset.element_spec)
    large = any(
        spec.dtype.size * math.prod(size or 1 for size in spec.shape) > LARGE_BATCH_BYTES
        for spec in specs
    )
    return dataset.prefetch(2 if large else tf.data.AUTOTUNE).with_options(options)
