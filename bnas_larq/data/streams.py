"""Examples that are decoded in every epoch, and how parts of a data set get into memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np

from bnas_larq.backend import tf
from bnas_larq.data.examples import Examples, InMemoryExamples, data_errors
from bnas_larq.data.geometry import Geometry

#: (top, left, height, width), int32 [4], of the part to cut from the picture of a stable index and
#: of this height and width.
Boxes = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class StreamedExamples(Examples):
    """Pictures that are read, decoded and resized in every epoch, on the cores that train.

    Args:
        labels, origin: see `Examples`.
        geometry: how a picture becomes an image.
        resized: whether pictures may have other sizes than the geometry's.
    """

    streamed = True

    def __init__(self, labels: np.ndarray, geometry: Geometry, *, origin: str, resized: bool):
        super().__init__(labels, origin=origin)
        self.geometry = geometry
        self.image_shape = (*geometry.size, 3)
        self.resized = resized
        self._boxes: Boxes | None = None

    def cropped(self, boxes: Boxes) -> StreamedExamples:
        """The same examples with other parts of the original pictures, scaled to `image_shape`."""
        examples = copy.copy(self)
        examples._boxes = boxes
        return examples

    def _box(self, index: tf.Tensor, size: tf.Tensor) -> list[tf.Tensor]:
        """The box of a picture of `size`, int32 [2], if it is not the one that is evaluated."""
        return [] if self._boxes is None else [self._boxes(index, *tf.unstack(size, num=2))]


class Memory:
    """Room for parts of a data set: first come, first served."""

    def __init__(self, megabytes: int):
        self._left = megabytes * 1_000_000

    def hold(self, examples: Examples) -> Examples:
        """The examples, decoded into memory if they fit; DataError if one is unreadable."""
        needed = examples.num_examples * int(np.prod(examples.image_shape))
        if not examples.streamed or needed > self._left:
            return examples
        self._left -= needed
        images = np.empty((examples.num_examples, *examples.image_shape), np.uint8)
        row = 0
        with data_errors():
            for batch, _, _ in examples.batches(256).prefetch(2):
                images[row : row + len(batch)] = batch.numpy()
                row += len(batch)
        return InMemoryExamples(
            images, examples.labels, origin=examples._origin, resized=examples.resized
        )
