"""Stateless augmentation: what happens to an image depends on the seed, the epoch and its index.

A resumed run therefore repeats the batches of the uninterrupted one, whatever the number of
threads. Whole batches are processed at once (one gather for crop and flip), because the training
step needs the cores. For the same reason little here broadcasts along, or reduces over, the three
channels alone: TensorFlow's CPU kernels are several times slower where the innermost dimension has
three elements.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.draws import uniforms
from bnas_larq.errors import DataError

CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
#: Numbers of the draws of an image; those before are of `apply`.
_CUTOUT_DRAW, MIXUP_DRAW = 7 + 2 * CROP_ATTEMPTS, 9 + 2 * CROP_ATTEMPTS
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R 601, as Pillow and torchvision use it


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images; the default changes nothing.

    BNAS trains CIFAR with `crop_padding=4, flip=True`, and ImageNet with `random_resized_crop=True,
    flip=True, color_jitter=(0.4, 0.4, 0.4, 0.2)` (arXiv 2002.06963).

    Args:
        crop_padding: pixels added on every side before a crop.
        crop_size: side of the crop; None keeps the images' size.
        crop_mode: the added pixels are `"black"` before normalisation, as in torchvision, or
            `"reflect"` the image without repeating its border.
        flip: mirror left to right with probability 0.5; `"alternating"`: an image that is mirrored
            in one epoch is not in the next (airbench, arXiv 2404.00498).
        random_resized_crop: a box of 8 to 100 % of the area and an aspect ratio of 3/4 to 4/3,
            scaled to the images' size (bilinear). It is cut from the original picture, where that
            has another size (`bnas_larq.data.training_pipeline` sees to it).
        color_jitter: largest change of (brightness, contrast, saturation, hue); applied in this
            order.
        cutout: side of a square in pixels, around a random pixel, that becomes 0 after
            normalisation, the mean colour (arXiv 1708.04552).
    """

    crop_padding: int = 0
    crop_size: int | None = None
    crop_mode: str = "black"
    flip: bool | str = False
    random_resized_crop: bool = False
    color_jitter: tuple[float, float, float, float] | None = None
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise DataError(
                f"crop_padding counts pixels. Received: {self.crop_padding}. Use 0 for no crop, 4 "
                "for CIFAR."
            )
        for key in ("crop_padding", "crop_size"):
            if getattr(self, key) and self.random_resized_crop:
                raise DataError(
                    f"An augmentation crops in one way. Received: {key} and random_resized_crop. "
                    "Drop one of them."
                )
        for key, value, known in (
            ("crop_mode", self.crop_mode, ("black", "reflect")),
            ("flip", self.flip, (False, True, "alternating")),
        ):
            if value not in known:
                raise DataError(
                    f"{key} is one of {', '.join(map(str, known))}. Received: {value!r}."
                )
        if self.crop_mode != "black" and not self.crop_padding:
            raise DataError(
                "Only padded crops have a mode. "
                f"Received: crop_mode {self.crop_mode!r} without crop_padding. Omit it."
            )
        if self.cutout < 0:
            raise DataError(
                f"cutout is the side of a square in pixels. Received: {self.cutout}. Use 0 for "
                "none, 16 for CIFAR-10."
            )
        if self.color_jitter is not None:
            jitter = tuple(float(value) for value in self.color_jitter)
            if (
                len(jitter) != 4
                or not all(0 <= value < math.inf for value in jitter)
                or jitter[3] > 0.5
            ):
                raise DataError(
                    "color_jitter needs four numbers from 0 up (brightness, contrast, saturation, "
                    f"hue), hue at most 0.5. Received: {self.color_jitter}. "
                    "ImageNet uses (0.4, 0.4, 0.4, 0.2)."
                )
            object.__setattr__(self, "color_jitter", jitter)

    @property
    def is_identity(self) -> bool:
        """Whether images stay unchanged."""
        return self == Augmentation()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary of the arguments."""
        return dataclasses.asdict(self)

    def apply(
        self, images: tf.Tensor, indices: tf.Tensor, *, seed: int, epoch: int | tf.Tensor
    ) -> tf.Tensor:
        """Augment a batch, but for `cut_out`, which follows normalisation.

        Args:
            images: uint8 [batch, height, width, 3] with static height and width.
            indices: int64 [batch], the stable indices of the examples.
            seed: of the run.
            epoch: Python integer or scalar tensor.

        Returns:
            [batch, height, width, 3]: uint8, or float32 (0 to 255) after a resized crop or colour
            jitter.
        """
        if self.is_identity:
            return images
        draws = uniforms(seed, epoch, indices, 7)
        if self.random_resized_crop:
            boxes = random_boxes(indices, *images.shape[1:3], seed=seed, epoch=epoch)
            images = resized_crops(images, boxes)
        flipped = draws[:, 2] < 0.5 if self.flip else None
        if self.flip == "alternating":
            first = uniforms(seed, 0, indices, 3)[:, 2] < 0.5
            flipped = tf.math.logical_xor(first, tf.cast(epoch % 2, tf.bool))
        if self.crop_padding or self.crop_size:
            crop = self.crop_padding, flipped, self.crop_mode, self.crop_size
            images = crop_and_flip(images, draws[:, 0:2], *crop)
        elif self.flip:
            images = flip(images, flipped)
        if self.color_jitter is not None:
            images = jitter_colors(images, draws[:, 3:7], self.color_jitter)
        return images

    def cut_out(
        self, images: tf.Tensor, indices: tf.Tensor, *, seed: int, epoch: int | tf.Tensor
    ) -> tf.Tensor:
        """Set each normalised image's square of `cutout` to 0; arguments as of `apply`."""
        if not self.cutout:
            return images
        height, width = images.shape[1:3]
        draws = uniforms(seed, epoch, indices, _CUTOUT_DRAW + 2)[:, _CUTOUT_DRAW:]
        corner = tf.cast(draws * [height, width], tf.int32) - self.cutout // 2

        def inside(first: tf.Tensor, size: int) -> tf.Tensor:
            offset = tf.range(size)[None] - first[:, None]
            return (offset >= 0) & (offset < self.cutout)

        rows, columns = inside(corner[:, 0], height), inside(corner[:, 1], width)
        kept = tf.cast(~(rows[:, :, None] & columns[:, None, :]), images.dtype)
        return images * kept[..., None]


def crop_and_flip(
    images: tf.Tensor,
    draws: tf.Tensor,
    padding: int,
    flipped: tf.Tensor | None,
    mode: str = "black",
    size: int | None = None,
) -> tf.Tensor:
    """Crop padded images and mirror some of them, in one gather.

    Args:
        images: [batch, height, width, 3].
        draws: [batch, 2] uniform numbers that choose the corner.
        padding: pixels on every side.
        flipped: boolean [batch], or None.
        mode: of the border, see `Augmentation`.
        size: side of the crops; None for that of the images.
    """
    old_height, old_width = images.shape[1:3]
    height, width = (size, size) if size else (old_height, old_width)
    border = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    padded = tf.pad(images, border, "REFLECT" if mode == "reflect" else "CONSTANT")
    room = (old_height + 2 * padding - height, old_width + 2 * padding - width)
    corner = tf.cast(draws * tf.constant([side + 1.0 for side in room]), tf.int32)
    rows = corner[:, 0:1] + tf.range(height)[None]
    columns = tf.range(width)[None]
    if flipped is not None:
        columns = tf.where(flipped[:, None], width - 1 - columns, columns)
    columns = corner[:, 1:2] + columns
    pixels = rows[:, :, None] * (old_width + 2 * padding) + columns[:, None, :]
    flat = tf.reshape(padded, [-1, (old_height + 2 * padding) * (old_width + 2 * padding), 3])
    picked = tf.gather(flat, tf.reshape(pixels, [-1, height * width]), batch_dims=1)
    return tf.reshape(picked, [-1, height, width, 3])


def flip(images: tf.Tensor, flipped: tf.Tensor) -> tf.Tensor:
    """Mirror the images [batch, height, width, 3] where `flipped` [batch] is true.

    Whole images are moved, at half the cost of gathering pixels.
    """
    mirror = tf.cast(flipped, tf.int32)
    positions = tf.dynamic_partition(tf.range(tf.size(mirror)), mirror, 2)
    kept, turned = tf.dynamic_partition(images, mirror, 2)
    stitched = tf.dynamic_stitch(positions, [kept, tf.reverse(turned, [2])])
    return tf.ensure_shape(stitched, images.shape)


def random_boxes(
    indices: tf.Tensor,
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    *,
    seed: int,
    epoch: int | tf.Tensor,
) -> tf.Tensor:
    """The boxes of `Augmentation.random_resized_crop` in pictures of one height and width: int32
    [batch, 4] of (top, left, height, width). See `Augmentation.apply` for the arguments.
    """
    draws = uniforms(seed, epoch, indices, 7 + 2 * CROP_ATTEMPTS)
    return crop_boxes(draws[:, 7:], draws[:, 0:2], height, width)


def crop_boxes(
    attempts: tf.Tensor, corner: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor
) -> tf.Tensor:
    """Boxes of random area and aspect ratio: int32 [batch, 4] of (top, left, height, width).

    As in torchvision, the first of ten attempts that fits is taken, or else the largest central box
    of an allowed aspect ratio.

    Args:
        attempts: [batch, 20] uniform numbers: ten for the area, ten for the aspect ratio.
        corner: [batch, 2] uniform numbers for the upper left corner.
    """
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    low, high = CROP_AREA
    area = tf.cast(height * width, tf.float32) * (low + (high - low) * attempts[:, :CROP_ATTEMPTS])
    low, high = math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])
    aspect = tf.exp(low + (high - low) * attempts[:, CROP_ATTEMPTS:])
    tall = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    wide = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=1)
    exact_height, exact_width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    whole = tf.clip_by_value(exact_width / exact_height, *CROP_ASPECT)
    sides = tf.round([exact_width / whole, exact_height * whole])
    fallback = tf.minimum([height, width], tf.cast(sides, tf.int32))
    any_fits = tf.reduce_any(fits, axis=1)
    tall = tf.where(any_fits, tf.gather(tall, first, batch_dims=1), fallback[0])
    wide = tf.where(any_fits, tf.gather(wide, first, batch_dims=1), fallback[1])
    room = tf.cast(tf.stack([height - tall, width - wide], axis=1), tf.float32)
    centred = tf.cast(room / 2, tf.int32)
    origin = tf.where(any_fits[:, None], tf.cast(corner * (room + 1), tf.int32), centred)
    return tf.concat([origin, tall[:, None], wide[:, None]], axis=1)


def resized_crops(images: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Scale boxes [batch, 4] of (top, left, height, width) to full size; float32, 0 to 255."""
    height, width = images.shape[1:3]
    # A border of one pixel: rounding can put the last sample just outside the box, and
    # crop_and_resize paints black what lies outside the image.
    # (tf.concat, because the kernel of tf.pad(mode="SYMMETRIC") moves single bytes.)
    images = tf.concat([images[:, :1], images, images[:, -1:]], axis=1)
    images = tf.concat([images[:, :, :1], images, images[:, :, -1:]], axis=2)
    top, left, tall, wide = (tf.cast(part, tf.float32) for part in tf.unstack(boxes, axis=1))
    corners = [
        (top + 1) / (height + 1),
        (left + 1) / (width + 1),
        (top + tall) / (height + 1),
        (left + wide) / (width + 1),
    ]
    crops = tf.image.crop_and_resize(
        images, tf.stack(corners, axis=1), tf.range(tf.shape(images)[0]), (height, width)
    )
    return tf.ensure_shape(crops, [None, height, width, 3])


def jitter_colors(
    images: tf.Tensor, draws: tf.Tensor, strength: tuple[float, float, float, float]
) -> tf.Tensor:
    """Change brightness, contrast, saturation and hue, in this order; float32, 0 to 255.

    Args:
        images: [batch, height, width, 3], 0 to 255.
        draws: [batch, 4] uniform numbers.
        strength: the first three scale by a factor in `[max(0, 1 - s), 1 + s]`, hue turns by up to
            ±s of the circle.
    """
    # Planes of one channel: see the module's docstring.
    planes = [tf.cast(images[..., channel], tf.float32) for channel in range(3)]

    def factor(change: int) -> tf.Tensor:
        low, high = max(0.0, 1.0 - strength[change]), 1.0 + strength[change]
        return (low + (high - low) * draws[:, change])[:, None, None]

    def blend(planes: list[tf.Tensor], other: tf.Tensor, share: tf.Tensor) -> list[tf.Tensor]:
        rest = other * (1.0 - share)
        return [tf.clip_by_value(plane * share + rest, 0.0, 255.0) for plane in planes]

    def grey(planes: list[tf.Tensor]) -> tf.Tensor:
        red, green, blue = (plane * part for plane, part in zip(planes, GREY, strict=True))
        return red + green + blue

    if strength[0]:
        planes = [tf.minimum(plane * factor(0), 255.0) for plane in planes]
    if strength[1]:
        planes = blend(planes, tf.reduce_mean(grey(planes), [1, 2], keepdims=True), factor(1))
    if strength[2]:
        planes = blend(planes, grey(planes), factor(2))
    if strength[3]:
        turn = (2.0 * draws[:, 3] - 1.0)[:, None, None] * strength[3]
        turned = turn_hue(*(plane / 255.0 for plane in planes), turn)
        planes = [plane * 255.0 for plane in turned]
    return tf.stack(planes, axis=-1)


def turn_hue(red: tf.Tensor, green: tf.Tensor, blue: tf.Tensor, turn: tf.Tensor) -> list[tf.Tensor]:
    """Turn the hue of (hue, saturation, value) by a share of the circle: planes from 0 to 1.

    With the bits of `tf.image.rgb_to_hsv` and back, in a fraction of their time.
    """
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    saturation = tf.where(value > 0.0, chroma / value, 0.0)
    sixth = (1.0 / chroma) * np.float32(1 / 6)
    hue = tf.where(
        tf.equal(red, value),
        sixth * (green - blue),
        tf.where(
            tf.equal(green, value),
            sixth * (blue - red) + np.float32(2 / 6),
            sixth * (red - green) + np.float32(4 / 6),
        ),
    )
    hue = tf.where(chroma > 0.0, hue, 0.0)
    hue = tf.where(hue < 0.0, hue + 1.0, hue) + turn
    hue = (hue - tf.floor(hue)) * 6.0
    shares = tf.abs(hue - 3.0) - 1.0, 2.0 - tf.abs(hue - 2.0), 2.0 - tf.abs(hue - 4.0)
    rest = 1.0 - saturation
    return [(rest + saturation * tf.clip_by_value(share, 0.0, 1.0)) * value for share in shares]
