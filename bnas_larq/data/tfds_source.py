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
from bnas_larq.data.decoding import WHITE
from bnas_larq.data.examples import Examples, data_errors, first_permuted
from bnas_larq.data.streams import StreamedExamples
from bnas_larq.data.tfds_records import Records, is_labelled, peeked_size, read_into_memory
from bnas_larq.errors import DataError, nearest, one_line

OWN_NAMES = ("digits", "folder")
MAX_CLASSES = 100_000
RECORD_BYTES = 16  # that a TFRecord takes besides its content


def load_tfds(
    name: str,
    *,
    data_dir: str | None,
    image_size: tuple[int, int] | None,
    limit: int | None,
    seed: int,
    memory_limit_mb: int,
    background: tuple[int, int, int] = WHITE,
) -> Splits:
    """Read a TFDS data set by its name (`cifar10`, `imagenet2012`, `my_set/config:1.0.0`).

    The test part is the split "test", or "validation" if "test" is missing or has no labels (as in
    ImageNet), or else a fixed fifth of the training split. A labelled "validation" next to a
    labelled "test" becomes the validation part.

    Raises:
        DataError: unknown name, not prepared and not downloadable, no image or no class label,
            images of differing sizes without `image_size`, damaged records.
    """
    builder = find_builder(name, data_dir)
    try:
        with data_errors():
            return _load(builder, name, image_size, limit, seed, memory_limit_mb, background)
    except tf.errors.OpError as error:
        raise DataError(
            f"A TFDS data set must be readable. Received: {name!r} in {builder.data_path} "
            f"({one_line(error.message)[:200]}). Prepare the data set again."
        ) from error


def _load(
    builder: Any,
    name: str,
    image_size: tuple[int, int] | None,
    limit: int | None,
    seed: int,
    memory_limit_mb: int,
    background: tuple[int, int, int],
) -> Splits:
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
        split: Records(builder, split, image_key, label_key, background=background)
        for split in builder.info.splits
        if builder.info.splits[split].num_examples
    }
    for records in splits.values():
        _check_count(records)
    if "train" not in splits:
        raise DataError(
            f"A data set needs a split named 'train'. Received: {name} with "
            f"{', '.join(splits) or 'none'}. Choose another data set or configuration."
        )
    if not is_labelled(splits["train"]):
        raise DataError(
            f"Images need labels. Received: {name}, whose training images have none. Choose a "
            "labelled data set."
        )
    held_out = [
        part for part in ("test", "validation") if part in splits and is_labelled(splits[part])
    ]
    size = image_size or declared_size(builder, image_key) or peeked_size(splits["train"])
    splits = {
        part: dataclasses.replace(records, size=size, resizes=image_size is not None)
        for part, records in splits.items()
    }
    streams = {part: StreamedExamples.whole(records) for part, records in splits.items()}
    if held_out:
        train, test = streams["train"], streams[held_out[0]]
    else:
        # Ranges even if all fits into memory: the test part must not depend on the memory limit.
        test, train = streams["train"].split(TEST_FRACTION, TEST_SEED)
    budget = memory_limit_mb * 1_000_000

    def load(part: StreamedExamples, limit: int | None = None) -> Examples:
        """`limit` examples (all if None), in memory if they fit: first come, first served."""
        nonlocal budget
        chosen = first_permuted(part.num_examples, limit, seed)
        needed = len(chosen) * size[0] * size[1] * 3
        if needed > budget:
            return part.first(limit, seed)
        budget -= needed
        return read_into_memory(part.records, part.positions()[chosen])

    train = load(train, limit)
    test = load(test)
    validation = load(streams["validation"]) if len(held_out) == 2 else None
    return Splits(class_names, train, validation, test)


def find_builder(name: str, data_dir: str | None) -> Any:
    """The prepared `tfds.core.DatasetBuilder` of a name, downloaded if necessary.

    `data_dir` is where TFDS keeps data sets, or the folder of one prepared version.

    Raises:
        DataError: unknown name, damaged description, or neither prepared nor downloadable.
    """
    import tensorflow_datasets as tfds

    folder = None if data_dir is None else Path(data_dir).expanduser()
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


def _check_count(records: Records) -> None:
    """DataError for a split of more examples than its files have room for, before memory is."""
    split = records.builder.info.splits[records.split]
    size = sum(tf.io.gfile.stat(str(path)).length for path in split.filepaths)
    if not 0 <= records.num_examples * RECORD_BYTES <= size:
        raise DataError(
            "A split must hold as many examples as its description says. Received: "
            f"{records.num_examples} in {size} bytes of {records.name}. Prepare the data set again."
        )


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
