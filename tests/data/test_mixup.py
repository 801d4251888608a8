"""Mixup, cutout, alternating flips and reflected borders against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.data import Augmentation, Normalization, training_pipeline
from bnas_larq.data.augmentation import MIXUP_DRAW
from bnas_larq.data.draws import uniforms
from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.data.mixup import beta_quantile, mix_up
from bnas_larq.errors import DataError

INDICES = tf.constant([5, 3, 900_000, 0, 7, 1], tf.int64)
DRAWS = {"seed": 3, "epoch": 2}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 7, 3), np.uint8)


def test_quantiles_of_beta():
    """Beta(1, 1) is uniform, Beta(1/2, 1/2) the arcsine law."""
    shares = tf.constant([0.01, 0.25, 0.5, 0.9])
    np.testing.assert_allclose(beta_quantile(shares, 1.0), shares, atol=1e-6)
    arcsine = np.sin(np.pi / 2 * shares.numpy()) ** 2
    np.testing.assert_allclose(beta_quantile(shares, 0.5), arcsine, atol=1e-5)


def test_each_image_is_mixed_with_the_next(images):
    labels = tf.constant([0, 1, 2, 0, 1, 2], tf.int64)
    options = {"alpha": 1.0, "num_classes": 3}
    mixed, shares = mix_up(tf.cast(images, tf.float32), labels, INDICES, **options, **DRAWS)
    # Of Beta(1, 1) the quantile is the draw itself.
    own = uniforms(3, 2, INDICES, MIXUP_DRAW + 1).numpy()[:, MIXUP_DRAW]
    for row, share in enumerate(own):
        other = (row + 1) % 6
        expected = share * images[row] + (1 - share) * images[other]
        np.testing.assert_allclose(mixed[row], expected, atol=1e-3)
        classes = share * np.eye(3)[labels[row]] + (1 - share) * np.eye(3)[labels[other]]
        np.testing.assert_allclose(shares[row], classes, atol=1e-5)


def test_cutout_blanks_a_square_around_a_pixel(images):
    """Clipped at the border, as in the paper."""
    ones = tf.ones([1000, 9, 7, 3])
    indices = tf.range(1000, dtype=tf.int64)
    cut = Augmentation(cutout=4).cut_out(ones, indices, **DRAWS).numpy()
    assert set(np.unique(cut)) == {0.0, 1.0}
    blank = (cut == 0).all(-1)
    np.testing.assert_array_equal(blank, (cut == 0).any(-1))
    rows, columns = blank.any(2).sum(1), blank.any(1).sum(1)
    np.testing.assert_array_equal(blank.sum((1, 2)), rows * columns)
    # The pixel at 0, 1, …, 8 has 2, 3, 4, 4, 4, 4, 4, 4, 3 of the rows from 2 before to 1 after it.
    assert set(rows) == {2, 3, 4} and set(columns) == {2, 3, 4}
    assert rows.mean() == pytest.approx((2 + 3 * 2 + 4 * 6) / 9, abs=0.1)


def test_cutout_comes_after_normalisation(images):
    examples = InMemoryExamples(images, np.arange(6) % 2)
    normalization = Normalization((0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
    cut, plain = (
        next(
            iter(
                training_pipeline(
                    examples,
                    batch_size=6,
                    seed=1,
                    normalization=normalization,
                    augmentation=Augmentation(cutout=size),
                ).epoch(0)
            )
        )[0].numpy()
        for size in (3, 0)
    )
    changed = (cut != plain).any(-1)
    assert changed.any((1, 2)).all() and (cut[changed] == 0).all()


def test_alternating_flips(images):
    """As random ones in the first epoch; then each image turns every time."""
    augmentation = Augmentation(flip="alternating")
    epochs = [
        augmentation.apply(images, INDICES, seed=1, epoch=epoch).numpy() for epoch in range(3)
    ]
    np.testing.assert_array_equal(epochs[1], epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    random = Augmentation(flip=True).apply(images, INDICES, seed=1, epoch=0)
    np.testing.assert_array_equal(epochs[0], random)
    np.testing.assert_array_equal(
        augmentation.apply(images, INDICES, seed=1, epoch=tf.constant(1, tf.int64)), epochs[1]
    )


def test_reflected_borders(images):
    crops = [
        Augmentation(crop_padding=2, crop_mode=mode).apply(images, INDICES, **DRAWS).numpy()
        for mode in ("reflect", "black")
    ]
    corners = (uniforms(3, 2, INDICES, 2).numpy() * 5).astype(int)
    for mode, crop in zip(("reflect", "constant"), crops, strict=True):
        padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], mode)
        for row, (top, left) in enumerate(corners):
            np.testing.assert_array_equal(crop[row], padded[row, top : top + 9, left : left + 7])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_mode": "reflect"}, "Only padded crops have a mode"),
        ({"crop_mode": "mirror", "crop_padding": 1}, "crop_mode is one of black, reflect"),
        ({"flip": "always"}, "flip is one of False, True, alternating"),
        ({"cutout": -1}, "cutout is the side of a square"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**settings)


def test_a_reflected_border_fits_the_image(images):
    examples = InMemoryExamples(images, np.arange(6) % 2)
    augmentation = Augmentation(crop_padding=7, crop_mode="reflect")
    with pytest.raises(
        DataError, match="narrower than the image. Received: crop_padding 7 for 9×7"
    ):
        training_pipeline(
            examples,
            batch_size=2,
            seed=0,
            normalization=Normalization(),
            augmentation=augmentation,
        )
