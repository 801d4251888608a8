"""JPEGs of varied sizes and 1,000 classes, as a TFDS data set and as a folder: a small ImageNet.

No class has two pictures in a part, so that a part and a label name a picture.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 1000
TEST = 12
#: The folder has a training picture of every class, the TFDS set of some.
TRAIN = {"tfds": 64, "imagenet": 8, "folder": CLASSES}
#: Of the TFDS sets; that of ImageNet has its parts and features, and is read by TFDS' own class.
NAMES = {"tfds": "varied_pictures", "imagenet": "imagenet2012"}


class VariedPictures:
    """Writes them below `root` when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def source(self, kind: str) -> dict[str, str]:
        """`name` and `data_dir` of the data set; `kind` is "tfds", "imagenet" or "folder"."""
        folder = self._root / kind
        if not folder.is_dir():
            _write_folder(folder) if kind == "folder" else _write_tfds(folder, kind)
        return {"name": NAMES.get(kind, kind), "data_dir": str(folder)}

    def jpeg(self, part: str, label: int) -> bytes:
        """A picture of the part "train" or "test", soft and of its own size and colours."""
        number = label + CLASSES * (part == "test")
        height, width = 70 + 37 * number % 90, 60 + 53 * number % 130
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        picture.save(stream, "JPEG")
        return stream.getvalue()


def _labels(count: int) -> list[int]:
    """Labels of all 1,000 classes, however few pictures there are."""
    return [257 * number % CLASSES for number in range(count)]


def _write_tfds(folder: Path, kind: str) -> None:
    import tensorflow_datasets as tfds

    pictures = VariedPictures(folder)
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=CLASSES),
    }
    parts = {"train": "train", "test": "test"}
    if kind == "imagenet":
        features["file_name"] = tfds.features.Text()
        parts = {"train": "train", "validation": "test"}

    def example(part: str, label: int) -> dict:
        values = {"image": io.BytesIO(pictures.jpeg(part, label)), "label": label}
        return {**values, "file_name": f"{label}.jpeg"} if kind == "imagenet" else values

    tfds.dataset_builders.AdhocBuilder(
        name=NAMES[kind],
        version="5.1.0" if kind == "imagenet" else "1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            name: [
                (label, example(part, label))
                for label in _labels(TRAIN[kind] if part == "train" else TEST)
            ]
            for name, part in parts.items()
        },
        data_dir=str(folder),
    ).download_and_prepare()


def _write_folder(folder: Path) -> None:
    pictures = VariedPictures(folder)
    for part, count in (("train", TRAIN["folder"]), ("test", TEST)):
        for label in _labels(count):
            path = folder / part / f"class_{label:04d}" / "picture.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(pictures.jpeg(part, label))
