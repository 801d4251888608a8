"""`load_dataset`: the embedded digits, a folder of class folders, or a TFDS data set by name."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data.dataset import TEST_FRACTION, TEST_SEED, ImageDataset, Splits
from bnas_larq.data.decoding import WHITE
from bnas_larq.data.examples import Examples, InMemoryExamples, cut, first_permuted
from bnas_larq.data.folder import load_folder
from bnas_larq.data.geometry import CROP_SHARE, RESIZE, Geometry
from bnas_larq.data.images import resize
from bnas_larq.data.streams import Memory
from bnas_larq.data.tfds_source import load_tfds
from bnas_larq.data_settings import DataSettings
from bnas_larq.errors import DataError


def load_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    evaluation: str = RESIZE,
    crop_share: float = CROP_SHARE,
    validation_fraction: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    memory_limit_mb: int = 2000,
    keep_originals: bool = False,
    background: tuple[int, int, int] = WHITE,
) -> ImageDataset:
    """Load a data set and split off its validation part.

    Args:
        name: "digits" (scikit-learn's, embedded), "folder" (with `data_dir`), or a TFDS name such
            as "cifar10".
        data_dir: the folder of class folders, or where TFDS keeps prepared data sets.
        image_size: side, or (height, width), of all images; required if pictures differ in size.
        evaluation: how a picture of another size gets it, except where training crops at random:
            "resize" stretches the picture, "center-crop" keeps its proportions and cuts the middle
            out, `crop_share` of what fits; see `bnas_larq.data.geometry.Geometry`.
        crop_share: above 0, at most 1; 0.875 is a crop of 224 from a short side of 256.
        validation_fraction: share of the training part that becomes `validation`; 0 for none. A
            data set that has both a validation and a test part keeps its own.
        seed: of the validation split and of `limit`. The test part never depends on it.
        limit: number of training examples to keep, drawn by `seed` before validation is split off.
        memory_limit_mb: parts are kept in memory while they fit into this many megabytes together;
            others are decoded in every epoch. Loading a part takes twice its size, and what eight
            threads decode; of pictures above 16 megapixels, one is decoded at a time. The images of
            each part and their order are the same either way.
        keep_originals: for `Augmentation(random_resized_crop=True)`, which cuts from pictures in
            their own size: where that is another size, training pictures are decoded in every
            epoch, whatever the memory.
        background: red, green and blue, 0 to 255, behind transparent images.

    Raises:
        DataError: the data cannot be read as labelled images, or an argument is out of range.

    Example:
        >>> data = load_dataset("digits", image_size=16)
        >>> data.num_classes, data.image_shape
        (10, (16, 16, 3))
        >>> len(data.train), len(data.validation), len(data.test)
        (1294, 144, 359)
    """
    size = image_sides(image_size)
    if not 0.0 <= validation_fraction < 1.0:
        raise DataError(
            "validation_fraction must be at least 0 and below 1. "
            f"Received: {validation_fraction}. Use 0.1, or 0 for no validation part."
        )
    if limit is not None and limit < 1:
        raise DataError(f"limit counts training examples. Received: {limit}. Omit it to use all.")
    geometry = Geometry(size, evaluation, crop_share, tuple(background))
    options = {"geometry": geometry, "limit": limit, "seed": seed}
    if name == "digits":
        if data_dir is not None:
            raise DataError(
                "The embedded digits are in no folder. "
                f"Received: the data set digits with the folder {data_dir}. Omit one of them."
            )
        splits = load_digits(**options)
    elif name == "folder":
        splits = load_folder(data_dir, **options)
    else:
        splits = load_tfds(name, data_dir=data_dir, **options)
    memory = Memory(memory_limit_mb)
    train, validation, unsplit = splits.train, splits.validation, None
    if not (keep_originals and train.resized):
        train = memory.hold(train)
    if validation_fraction == 0.0:
        validation = None
    elif validation is None:
        unsplit = train
        validation, train = train.split(validation_fraction, seed)
    else:
        validation = memory.hold(validation)
    names, test = splits.class_names, memory.hold(splits.test)
    _warn_of_empty_classes(names, train)
    shape = train.image_shape
    geometry = dataclasses.replace(geometry, size=shape[:2])
    parts, files = (train, validation, test), splits.test_files
    return ImageDataset(name, names, shape, *parts, geometry, unsplit, files)


def _warn_of_empty_classes(names: Sequence[str], train: Examples) -> None:
    present = set(train.labels.tolist())
    missing = [name for label, name in enumerate(names) if label not in present]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        warnings.warn(
            f"data: {len(missing)} of {len(names)} classes have no training image, and are never "
            f"predicted: {', '.join(missing[:10])}{more}. Add images or remove these classes.",
            stacklevel=3,
        )


def load_described(
    settings: DataSettings, seed: int, *, keep_originals: bool = False
) -> ImageDataset:
    """Load the data set of a recipe's section `data`; see `load_dataset` for errors.

    Originals are also kept if the section's own augmentation cuts from them.
    """
    return load_dataset(
        seed=seed,
        keep_originals=keep_originals or settings.augmentation.random_resized_crop,
        **settings.model_dump(exclude={"augmentation"}),
    )


def load_moved(
    settings: DataSettings, seed: int, data_dir: str | Path, described: Mapping[str, Any]
) -> ImageDataset:
    """Load a recipe's data set from where it is now.

    Args:
        described: what `ImageDataset.describe` said of it.

    Raises:
        DataError: as of `load_dataset`, or other test images than described.
    """
    if settings.name == "digits":
        raise DataError(
            f"The embedded digits are in no folder. Received: {data_dir}. Omit --data-dir."
        )
    settings = settings.model_copy(update={"data_dir": str(data_dir)})
    data = load_described(settings, seed)
    recorded = (described.get("fingerprints") or {}).get("test")
    if recorded not in (None, data.test.fingerprint()):
        raise DataError(
            "Images that were moved must be the same. "
            f"Received: other test images in {data_dir} than the network was trained beside. "
            "Correct --data-dir."
        )
    return data


def load_digits(*, geometry: Geometry, limit: int | None, seed: int) -> Splits:
    """The 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998) as RGB, 0 to 255.

    The test part is a fixed stratified fifth, whatever the seed.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    grey = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    if geometry.size not in (None, images.shape[1:3]):
        if geometry.evaluation == RESIZE:
            images = resize(tf.constant(images), geometry.size).numpy()
        else:
            images = np.stack([geometry.apply(Image.fromarray(image)) for image in images])
    labels = bunch.target.astype(np.int64)
    everything = InMemoryExamples(images, labels)
    test = cut(len(labels), TEST_FRACTION, TEST_SEED, labels)
    train = everything.subset(np.flatnonzero(~test))
    return Splits(
        class_names=tuple(str(name) for name in bunch.target_names),
        train=train.subset(first_permuted(train.num_examples, limit, seed)),
        validation=None,
        test=everything.subset(np.flatnonzero(test)),
    )


def image_sides(image_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) of a size that may be one side; DataError unless it is a size."""
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise DataError(
            f"image_size is one side or (height, width) in pixels. Received: {image_size}. Use 32, "
            "for example."
        )
    return sides
