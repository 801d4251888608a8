"""Finds or downloads a TFDS data set by name, and its images and labels."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from bnas_larq.errors import DataError, nearest, one_line

OWN_NAMES = ("digits", "folder")


def find_builder(name: str, data_dir: str | None) -> Any:
    """The prepared `tfds.core.DatasetBuilder` of a name, downloaded if need be.

    `data_dir` is where TFDS keeps data sets, or the folder of one prepared version.

    Raises:
        DataError: unknown name, damaged description, or neither prepared nor downloadable.
    """
    import tensorflow_datasets as tfds

    try:
        if data_dir is not None and (Path(data_dir).expanduser() / "dataset_info.json").is_file():
            return tfds.builder_from_directory(Path(data_dir).expanduser())
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = {*OWN_NAMES, *tfds.list_builders(with_community_datasets=False)}
        if data_dir is not None and Path(data_dir).expanduser().is_dir():
            known |= {
                entry.name for entry in Path(data_dir).expanduser().iterdir() if entry.is_dir()
            }
        hint = nearest(name, known)
        if not hint.startswith("did you mean"):
            hint = "see https://www.tensorflow.org/datasets for the known names."
        raise DataError(
            f"The data set must be 'digits', 'folder' or a TFDS name. Received: {name!r}; {hint}"
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
            f"({one_line(error)[:200]}). "
            "Give --data-dir with the prepared data set."
        ) from error
    return builder


def _check_network(builder: Any) -> None:
    """Fail at once where names cannot be resolved; TFDS would repeat its download for minutes."""
    if urllib.request.getproxies():
        return
    urls = getattr(builder, "url_infos", None) or ()
    for host in sorted({urllib.parse.urlsplit(url).hostname or "" for url in urls} - {""})[:2]:
        socket.getaddrinfo(host, 443)


def image_and_label(builder: Any, name: str) -> tuple[str, str]:
    """Keys of the image and the class label: TFDS' supervised pair, else the only ones."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    found = []
    for kind, place, usual, what in (
        (tfds.features.Image, 0, "image", "an image"),
        (tfds.features.ClassLabel, -1, "label", "a class label"),
    ):
        candidates = [key for key, feature in features.items() if isinstance(feature, kind)]
        pair = builder.info.supervised_keys
        if pair and pair[place] in candidates:
            found.append(pair[place])
        elif usual in candidates:
            found.append(usual)
        elif len(candidates) == 1:
            found.append(candidates[0])
        else:
            raise DataError(
                f"An image classification set has {what} per example. Received: {name!r} with "
                f"{', '.join(features)}. Choose a labelled image data set."
            )
    if features[found[0]].np_dtype != np.uint8:
        raise DataError(
            f"Images must have 8 bits per channel. Received: {name!r} with "
            f"{features[found[0]].np_dtype}. Choose another data set or configuration."
        )
    return found[0], found[1]


def declared_size(builder: Any, image_key: str) -> tuple[int, int] | None:
    """(height, width) if the data set declares one for all images."""
    height, width = builder.info.features[image_key].shape[:2]
    return (height, width) if height and width else None
