"""One split of a TFDS data set: where its records lie, and its pictures in any order."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from bnas_larq.backend import tf
from bnas_larq.data.decoding import WHITE
from bnas_larq.data.examples import outside_graphs
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import THREADS, composite
from bnas_larq.data.jpeg_crops import DEFAULT, decode_window, window_around
from bnas_larq.data.kept_index import INDEXED_FROM, keep_arrays, kept_arrays
from bnas_larq.data.streams import StreamedExamples
from bnas_larq.errors import DataError

PEEK = 64  # pictures to look at if a data set does not declare their size
FRAME = 8 + 4 + 4  # bytes that TFRecord files put around a record: its length and two checksums


@dataclasses.dataclass(frozen=True)
class Records:
    """One TFDS split in stored order."""

    builder: Any
    split: str
    image_key: str
    label_key: str
    background: tuple[int, int, int] = WHITE

    @property
    def name(self) -> str:
        """Name, configuration, version and split."""
        return f"{self.builder.info.full_name}/{self.split}"

    @property
    def files(self) -> list[str]:
        """Its TFRecord files in order; DataError if it is stored in another format."""
        stored = self.builder.info.file_format
        if stored is not None and stored.value != "tfrecord":
            raise DataError(
                f"A TFDS data set must be stored as TFRecord files. Received: {self.name}, stored "
                f"as {stored.value}. Prepare it again with file_format='tfrecord'."
            )
        return [str(path) for path in self.builder.info.splits[self.split].filepaths]

    @functools.cached_property
    def index(self) -> RecordIndex:
        """Place and label of every record. Reads all files once, without decoding pictures; those
        of a large data set only if they have changed since.

        Raises:
            DataError: records are missing, or a label is none of the classes.
        """
        files = self.files
        stats = [os.stat(file) for file in files]
        changes = np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats], np.int64)
        source = "records " + "\0".join([self.label_key, *map(os.path.realpath, files)])
        kept = kept_arrays(source)
        known = bool(kept) and np.array_equal(kept["changes"], changes)
        if known:
            cuts = np.cumsum(kept["counts"])[:-1]
            parts = list(
                zip(*(np.split(kept[key], cuts) for key in ("lengths", "labels")), strict=True)
            )
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                parts = list(pool.map(self._indexed, files))
        lengths, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        declared = self.builder.info.splits[self.split].num_examples
        if len(labels) != declared:
            raise DataError(
                "A split must hold as many examples as its description says. Received: "
                f"{len(labels)} instead of {declared} from {self.name}. Prepare the data set again."
            )
        classes = self.builder.info.features[self.label_key].num_classes
        unknown = labels[(labels < 0) | (labels >= classes)]
        if len(unknown):
            raise DataError(
                f"Every image needs a label from 0 to {classes - 1}. Received: another one in "
                f"{self.name} ({unknown[0]}). Prepare the data set again, or choose a labelled one."
            )
        counts = [len(part_labels) for _, part_labels in parts]
        if not known and len(labels) >= INDEXED_FROM:
            columns = {"counts": np.array(counts), "lengths": lengths, "labels": labels}
            keep_arrays(source, changes=changes, **columns)
        offsets = [np.cumsum(sizes + FRAME) - sizes - FRAME for sizes, _ in parts]
        return RecordIndex(
            np.repeat(np.arange(len(parts)), counts), np.concatenate(offsets), lengths, labels
        )

    def _indexed(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, labels) of the records of one file."""
        lengths, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for records in tf.data.TFRecordDataset(file).batch(1024):
            lengths.append(tf.strings.length(records).numpy())
            labels.append(self._label(records).numpy())
        return np.concatenate(lengths), np.concatenate(labels)

    def _label(self, records: tf.Tensor) -> tf.Tensor:
        """Labels of serialised records [batch]."""
        keys = {self.label_key: tf.io.FixedLenFeature((), tf.int64)}
        return tf.io.parse_example(records, keys)[self.label_key]

    def is_labelled(self) -> bool:
        """Whether the first example has a label; TFDS writes -1 for secret ones (ImageNet's
        test)."""
        first = tf.data.TFRecordDataset(self.files).take(1).batch(1)
        return all(int(label) >= 0 for records in first for label in self._label(records))

    def peeked_size(self) -> tuple[int, int]:
        """The common size of the first pictures, for data sets that declare none."""
        first = tf.data.TFRecordDataset(self.files).take(PEEK)
        sizes = {tuple(self.picture(record).shape[:2]) for record in first}
        if len(sizes) > 1:
            raise DataError(
                "Images of one data set must have one size. Received: "
                f"{' and '.join(map(str, sorted(sizes)[:2]))} in {self.name}. "
                "Set image_size to resize all of them."
            )
        return next(iter(sizes))

    @property
    def holds_jpegs(self) -> bool:
        """Whether its pictures are declared to be JPEGs in colours."""
        feature = self.builder.info.features[self.image_key]
        return feature.encoding_format == "jpeg" and feature.shape[-1] == 3

    def encoded(self, record: tf.Tensor) -> tf.Tensor:
        """The bytes of a serialised record's picture."""
        keys = {self.image_key: tf.io.FixedLenFeature((), tf.string)}
        return tf.io.parse_single_example(record, keys)[self.image_key]

    def picture(self, record: tf.Tensor) -> tf.Tensor:
        """The uint8 picture [height, width, 3] of a serialised record."""
        picture = self.builder.info.features[self.image_key].decode_example(self.encoded(record))
        channels = picture.shape[-1]
        if channels == 1:
            picture = tf.image.grayscale_to_rgb(picture)
        elif channels == 4:
            picture = composite(picture, self.background)
        return picture


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Of each record: the number of its file, its offset and length in bytes, and its label; all
    int64 [records]."""

    files: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class RecordExamples(StreamedExamples):
    """Records of a split, read one by one where they lie: a fast disk or memory helps.

    Args:
        records: the split.
        positions: ascending positions in it of the examples to hold.
        geometry, resized: see `StreamedExamples`.
    """

    def __init__(
        self, records: Records, positions: np.ndarray, geometry: Geometry, *, resized: bool
    ):
        index = records.index
        digest = hashlib.sha256(np.asarray(positions, "<i8").tobytes()).hexdigest()
        origin = f"{records.name}:{digest}"
        super().__init__(index.labels[positions], geometry, origin=origin, resized=resized)
        self._records = records
        with outside_graphs():
            self._files = tf.constant(records.files)
            self._places = [
                tf.convert_to_tensor(column[positions])
                for column in (index.files, index.offsets, index.lengths)
            ]

    def _read(self, index: tf.Tensor) -> tf.Tensor:
        record = self._record(index)

        def whole() -> tf.Tensor:
            picture = self._records.picture(record)
            if self.resized:
                box = self._box(index, tf.shape(picture)[:2])
                picture = tf.numpy_function(self._resize, [picture, *box], tf.uint8, stateful=False)
            return picture

        if self._boxes is None or not self._records.holds_jpegs:
            return tf.ensure_shape(whole(), self.image_shape)
        encoded = self._records.encoded(record)

        def part() -> tf.Tensor:
            size = tf.io.extract_jpeg_shape(encoded)[:2]
            (box,) = self._box(index, size)
            window, box = tf.numpy_function(
                lambda *given: window_around(*given, self.geometry.size),
                [box, size],
                (tf.int32, tf.int32),
                stateful=False,
            )
            picture = decode_window(encoded, window, DEFAULT)
            return tf.numpy_function(self._resize, [picture, box], tf.uint8, stateful=False)

        picture = tf.cond(tf.io.is_jpeg(encoded), part, whole)
        return tf.ensure_shape(picture, self.image_shape)

    def _resize(self, picture: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
        return self.geometry.apply(Image.fromarray(picture), box)

    def _record(self, index: tf.Tensor) -> tf.Tensor:
        """The serialised record of a scalar stable index."""
        file, offset, length = (tf.gather(column, index) for column in self._places)
        # The public class has no argument for the offset.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(self._files, file)],
            compression_type="",
            buffer_size=length + FRAME,
            byte_offsets=[offset],
        )
        records = tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string))
        return records.take(1).get_single_element()
