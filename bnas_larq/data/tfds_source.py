"""Image classification sets of TensorFlow Datasets, offline if prepared under `data_dir`."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.dataset import TEST_FRACTION, TEST_SEED, Splits, check_class_names
from bnas_larq.data.examples import cut, data_errors, first_permuted
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.tfds_records import RecordExamples, Records
from bnas_larq.errors import DataError, nearest, one_line
from bnas_larq.files import expand_home
from bnas_larq.setting_types import MAX_CLASSES

OWN_NAMES = ("digits", "folder")


def load_tfds(
    name: str, *, data_dir: str | None, geometry: Geometry, limit: int | None, seed: int
) -> Splits:
    """Read a TFDS data set by its name (`cifar10`, `imagenet2012`, `my_set/config:1.0.0`).

    The test part is the split "test", or "validation" if "test" is missing or has no labels (as in
    ImageNet), or else a fixed fifth of the training split. A labelled "validation" next to a
    labelled "test" becomes the validation part.

    Raises:
        DataError: unknown name, not prepared and not downloadable, no image or no class label,
            images of differing sizes without a size in `geometry`, damaged records.
    """
    builder = find_builder(name, data_dir)
    try:
        with data_errors():
            return _load(builder, name, geometry, limit, seed)
    except tf.errors.OpError as error:
        raise DataError(
            f"A TFDS data set must be readable. Received: {name!r} in {builder.data_path} "
            f"({one_line(error.message)[:200]}). Prepare the data set again."
        ) from error


def _load(builder: Any, name: str, geometry: Geometry, limit: int | None, seed: int) -> Splits:
    image_key, label_key = image_and_label(builder, name)
    labels = builder.info.features[label_key]
    count = labels.num_classes
    if not 2 <= count <= MAX_CLASSES:
        rule = "at least two classes" if count < 2 else f"at most {MAX_CLASSES:,} classes"
        raise DataError(
            f"A data set needs {rule}. Received: {name} with {count}. Choose another one."
        )
    class_names = tuple(labels.names)
    check_class_names(class_names, name)
    splits = {
        split: Records(builder, split, image_key, label_key, geometry.background)
        for split in builder.info.splits
        if builder.info.splits[split].num_examples
    }
    if "train" not in splits:
        raise DataError(
            f"A data set needs a split named 'train'. Received: {name} with "
            f"{', '.join(splits) or 'none'}. Choose another data set or configuration."
        )
    if not splits["train"].is_labelled():
        raise DataError(
            f"Images need labels. Received: {name}, whose training images have none. Choose a "
            "labelled data set."
        )
    held_out = [
        part for part in ("test", "validation") if part in splits and splits[part].is_labelled()
    ]
    declared = declared_size(builder, image_key)
    resized = geometry.size not in (None, declared)
    if geometry.size is None:
        size = declared or splits["train"].peeked_size()
        geometry = dataclasses.replace(geometry, size=size)

    def examples(part: str, positions: np.ndarray) -> RecordExamples:
        return RecordExamples(splits[part], positions, geometry, resized=resized)

    def whole(part: str) -> np.ndarray:
        return np.arange(len(splits[part].index.labels))

    train = whole("train")
    if held_out:
        test = examples(held_out[0], whole(held_out[0]))
    else:
        chosen = _fixed_fifth(builder, splits["train"].index.labels)
        test, train = examples("train", train[chosen]), train[~chosen]
    train = examples("train", train[first_permuted(len(train), limit, seed)])
    validation = examples("validation", whole("validation")) if len(held_out) == 2 else None
    return Splits(class_names, train, validation, test)


def _fixed_fifth(builder: Any, labels: np.ndarray) -> np.ndarray:
    """Which records of the training split are the test part: booleans [records].

    TFDS shuffles records when it writes them, so that a range is a fair sample; earlier releases
    chose it, and their networks must not be tested on what they were trained on. Records in the
    order of their making may be sorted by class.
    """
    if builder.info.disable_shuffling:
        return cut(len(labels), TEST_FRACTION, TEST_SEED, labels)
    chosen = np.zeros(len(labels), bool)
    start = np.random.RandomState(TEST_SEED).randint(len(labels))
    chosen[(start + np.arange(round(TEST_FRACTION * len(labels)))) % len(labels)] = True
    return chosen


def find_builder(name: str, data_dir: str | None) -> Any:
    """The prepared `tfds.core.DatasetBuilder` of a name, downloaded if necessary.

    `data_dir` is where TFDS keeps data sets, or the folder of one prepared version.

    Raises:
        DataError: unknown name, damaged description, or neither prepared nor downloadable.
    """
    import tensorflow_datasets as tfds

    folder = None if data_dir is None else Path(expand_home(data_dir))
    try:
        with _own_features_only():
            if folder is not None and (folder / "dataset_info.json").is_file():
                return tfds.builder_from_directory(folder)
            builder = tfds.builder(name, data_dir=data_dir)
    except DataError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            "The data set must be 'digits', 'folder' or a TFDS name. "
            f"Received: {name!r}; {_hint(name, folder)}"
        ) from error
    except Exception as error:  # foreign code: damaged descriptions fail in many ways
        raise DataError(
            f"A TFDS data set needs a readable description. Received: {name!r} "
            f"({one_line(error)[:200]}). Check the name, its version, and --data-dir."
        ) from error
    if builder.is_prepared():
        return builder
    try:
        _check_network(builder)
        builder.download_and_prepare()
    except Exception as error:  # foreign code again: no network, no disk, no manual download
        raise DataError(
            f"A TFDS data set must be prepared under data_dir or downloadable. Received: {name!r}, "
            f"not found in {builder.data_path}, and the download failed "
            f"({one_line(error)[:200]}). Set --data-dir to the prepared data set."
        ) from error
    return builder


@contextlib.contextmanager
def _own_features_only() -> Iterator[None]:
    """Have TFDS refuse features of other modules, which it would import if a file names them."""
    import tensorflow_datasets as tfds

    connector = tfds.features.FeatureConnector
    original, find = vars(connector)["cls_from_name"], connector.cls_from_name

    def find_own(class_name: str) -> Any:
        if not class_name.startswith("tensorflow_datasets.core.features."):
            raise DataError(
                "A TFDS data set has features of TFDS alone. "
                f"Received: {class_name!r} in its features.json. Choose another data set."
            )
        return find(class_name)

    connector.cls_from_name = staticmethod(find_own)
    try:
        yield
    finally:
        connector.cls_from_name = original


def _hint(name: str, folder: Path | None) -> str:
    """The way out of an unknown name; `folder` is where data sets are."""
    import tensorflow_datasets as tfds

    known = {*OWN_NAMES, *tfds.list_builders(with_community_datasets=False)}
    if folder is not None and folder.is_dir():
        prepared = sorted((folder / name).glob("**/dataset_info.json"))
        if prepared:
            return f"TFDS does not find it by this name. Give --data-dir {prepared[-1].parent}."
        known |= {entry.name for entry in folder.iterdir() if entry.is_dir()} - {name}
    hint = nearest(name, known)
    if hint.startswith("did you mean"):
        return hint
    return "see https://www.tensorflow.org/datasets for the known names."


def _check_network(builder: Any) -> None:
    """Fail at once without name resolution: TFDS would retry its download for minutes."""
    if urllib.request.getproxies():
        return
    urls = getattr(builder, "url_infos", None) or ()
    for host in sorted({urllib.parse.urlsplit(url).hostname or "" for url in urls} - {""})[:2]:
        socket.getaddrinfo(host, 443)


def image_and_label(builder: Any, name: str) -> tuple[str, str]:
    """Keys of the image and the class label: TFDS' supervised pair, or else the only ones."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    pair = builder.info.supervised_keys
    keys = []
    for kind, position, usual, noun in (
        (tfds.features.Image, 0, "image", "an image"),
        (tfds.features.ClassLabel, -1, "label", "a class label"),
    ):
        candidates = [key for key, feature in features.items() if isinstance(feature, kind)]
        if pair and pair[position] in candidates:
            keys.append(pair[position])
        elif usual in candidates:
            keys.append(usual)
        elif len(candidates) == 1:
            keys.append(candidates[0])
        else:
            raise DataError(
                f"An image classification set has {noun} per example. Received: {name!r} with "
                f"{', '.join(features)}. Choose a labelled image data set."
            )
    image, label = keys
    if features[image].np_dtype != np.uint8:
        raise DataError(
            f"Images must have 8 bits per channel. Received: {name!r} with "
            f"{features[image].np_dtype}. Choose another data set or configuration."
        )
    return image, label


def declared_size(builder: Any, image_key: str) -> tuple[int, int] | None:
    """(height, width) if the data set declares one for all images."""
    height, width = builder.info.features[image_key].shape[:2]
    return (height, width) if height and width else None
