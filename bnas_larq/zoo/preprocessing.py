"""From image files to a network's input, and from its output to class names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bnas_larq.backend import keras, tf
from bnas_larq.data import Normalization
from bnas_larq.data.geometry import CENTER_CROP, Geometry
from bnas_larq.data.images import read_image_file
from bnas_larq.errors import DataError, ZooError, one_line
from bnas_larq.zoo import pretrained

#: The usual means and deviations of ImageNet, which the authors used too.
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
IMAGENET_CLASSES = 1000


def load_image(
    path: str | os.PathLike,
    size: int | tuple[int, int] | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Read an image file as uint8 [height, width, 3], upright and without transparency.

    Args:
        path: a PNG, JPEG, TIFF, WebP or other file that Pillow decodes itself.
        size: height and width to stretch it to, or one number for both; None keeps its own, which
            `preprocess_input` needs for networks that were evaluated on centre crops.
        background: red, green and blue behind what is transparent.

    Raises:
        DataError: no such file, or no readable image.

    Example:
        >>> from bnas_larq.resources import zoo_dir
        >>> picture = zoo_dir() / "bnasd-digits-small" / "train_curves.png"
        >>> load_image(picture, size=32).shape
        (32, 32, 3)
    """
    sizes = (size, size) if isinstance(size, int) else size
    if sizes is not None and (len(sizes) != 2 or min(sizes) < 1):
        raise DataError(
            "Images are stretched to a height and a width above 0. "
            f"Received: size={size!r}. Give for example 32, or None to keep the image's own."
        )
    path = Path(path)
    if not path.is_file():
        raise DataError(f"An image is a file. Received: {path}. Check the path.")
    return read_image_file(path, Geometry(sizes, background=background))


def preprocess_input(
    images: Any, weights: str | os.PathLike = "imagenet", *, variant: str | None = None
) -> Any:
    """Prepare images as the networks trained on `weights` expect them.

    Where the network was evaluated on centre crops (`data.evaluation: center-crop`), images of
    another size than its input are cropped and scaled to it, as in that evaluation. Others keep
    their size: stretch them with `load_image`.

    Args:
        images: [..., height, width, 3], uint8 or float with values 0 to 255 (not 0 to 1): a NumPy
            array, a tensor (also inside `tf.data`), or a Keras tensor.
        weights: as for the factories: a data set's or entry's name, or an entry's or run's folder.
            "imagenet" always means the usual means and deviations of ImageNet.
        variant: with a data set's name, the variant whose entry is meant, such as "bnas-d"; default
            the entry that `find_entry` prefers.

    Returns:
        `(images / 255 - mean) / std` as float32, an array or a tensor like `images`.

    Raises:
        DataError: not images with three channels, or a Keras tensor to be cropped.
        ZooError: no such weights are published.

    Example:
        >>> images = np.full([1, 2, 2, 3], 255, np.uint8)
        >>> print(preprocess_input(images, "imagenet")[0, 0, 0])
        [2.248... 2.428... 2.6...]
    """
    if not _is_tensor(images):
        images = np.asarray(images)
    if len(images.shape) < 3 or images.shape[-1] != 3:
        raise DataError(
            "Images are [..., height, width, 3]. "
            f"Received: shape {tuple(images.shape)}. Convert them to RGB, channels last."
        )
    normalization = IMAGENET
    if weights != "imagenet":
        source = pretrained.find(weights, variant)
        normalization = source.normalization
        if source.network.geometry.evaluation == CENTER_CROP:
            images = _center_crops(images, source.network.geometry)
    if isinstance(images, np.ndarray):
        return normalization.apply(tf.constant(images)).numpy()
    return normalization.apply(images)


def decode_predictions(
    predictions: Any,
    weights: str | os.PathLike = "imagenet",
    top: int = 5,
    *,
    variant: str | None = None,
) -> list[list[tuple[str, str, float]]]:
    """Name the best classes of every image.

    Args:
        predictions: [batch, classes], the output of a network with its classifier.
        weights, variant: as for `preprocess_input`.
        top: number of classes to name, at most as many as there are.

    Returns:
        For each image a list of (class, description, score), best first, as in Keras. The class is
        the WordNet id for ImageNet's 1000 classes, else its number as text; the score is the
        network's output: a probability, or a logit with `classifier_activation=None`.

    Raises:
        ZooError: no such weights are published, or they have another number of classes.

    Example:
        >>> decode_predictions([[0.1, 0, 0, 0.8, 0, 0, 0, 0.1, 0, 0]], "digits", top=2)
        [[('3', '3', 0.8), ('0', '0', 0.1)]]
    """
    scores = np.asarray(predictions)
    if scores.ndim != 2 or top < 1:
        raise ZooError(
            "Predictions are [batch, classes], and at least one is decoded. "
            f"Received: shape {scores.shape}, top={top}. Give a batch, also for one image."
        )
    names = _class_names(weights, variant, scores.shape[1])
    if len(names) != scores.shape[1]:
        raise ZooError(
            f"Predictions have one column for each class. Received: {scores.shape[1]} columns for "
            f"the {len(names)} classes of {str(weights)!r}. Give the weights that made them."
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in order]
        for row, order in zip(scores, best, strict=True)
    ]


def _center_crops(images: Any, geometry: Geometry) -> Any:
    """Images [..., height, width, 3] at the size of a network, cropped unless they have it."""
    if tuple(images.shape[-3:-1]) == geometry.size:
        return images

    def crop(images: np.ndarray) -> np.ndarray:
        pixels = np.clip(np.rint(images), 0, 255).astype(np.uint8)
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        cropped = np.array([geometry.apply(Image.fromarray(picture)) for picture in flat], np.uint8)
        return cropped.reshape(*pixels.shape[:-3], *geometry.size, 3)

    if isinstance(images, np.ndarray):
        return crop(images)
    if not isinstance(images, tf.Tensor):  # a Keras tensor
        raise DataError(
            "Centre crops cannot be part of a Keras model. Received: a Keras tensor of shape "
            f"{tuple(images.shape)} for a network that takes {geometry.size}. Prepare the images "
            "before the model."
        )
    cropped = tf.numpy_function(crop, [images], tf.uint8, stateful=False)
    return tf.ensure_shape(cropped, (*images.shape[:-3], *geometry.size, 3))


def _is_tensor(images: Any) -> bool:
    """Whether `images` is a tensor of TensorFlow or Keras, not numbers."""
    try:
        return tf.is_tensor(images) or keras.backend.is_keras_tensor(images)
    except ValueError:
        return False


def _class_names(
    weights: str | os.PathLike, variant: str | None, columns: int
) -> list[tuple[str, str]]:
    """(class, description) of every output."""
    if weights == "imagenet" and columns == IMAGENET_CLASSES:
        return _imagenet_names()
    source = pretrained.find(weights, variant)
    names = source.network.class_names
    of_imagenet = source.entry is not None and source.entry.dataset == "imagenet"
    if of_imagenet and len(names) == IMAGENET_CLASSES:
        return _imagenet_names()
    return [(str(number), name) for number, name in enumerate(names)]


def _imagenet_names() -> list[tuple[str, str]]:
    """Keras' list of ImageNet's classes, which it downloads once."""
    decode = keras.applications.imagenet_utils.decode_predictions
    try:
        decoded = decode(-np.arange(IMAGENET_CLASSES)[None], top=IMAGENET_CLASSES)[0]
    except Exception as error:  # Keras' download raises a bare Exception without a network
        raise ZooError(
            "The names of ImageNet's classes are downloaded by Keras once. "
            f"Received: {one_line(error)[:160]}. Connect to the internet, or take the arg-max."
        ) from error
    return [(wordnet, description) for wordnet, description, _ in decoded]
