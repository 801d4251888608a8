"""The embedded data set: scikit-learn's 8×8 digits, real images that need no download."""

from __future__ import annotations

import numpy as np

from bnas_larq.data.examples import InMemoryExamples, cut, first_permuted
from bnas_larq.data.images import resize_batch
from bnas_larq.data.splits import TEST_FRACTION, TEST_SEED, Splits


def load_digits(*, image_size: tuple[int, int] | None, limit: int | None, seed: int) -> Splits:
    """The 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), grey 0 to 16 turned into RGB 0
    to 255.

    The test part is a fixed stratified fifth, whatever the seed.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    grey = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    if image_size is not None and image_size != images.shape[1:3]:
        images = resize_batch(images, image_size)
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
