"""The part of a picture that a network is evaluated on, and how it is scaled."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bnas_larq.data.geometry import Geometry
from bnas_larq.errors import DataError


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 5, width // 5, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def test_a_centre_crop_is_a_short_side_of_256_and_its_middle():
    whole = picture(300, 450)
    short = whole.resize((384, 256), Image.Resampling.BILINEAR)
    expected = np.array(short.crop(((384 - 224) // 2, 16, (384 + 224) // 2, 256 - 16)))
    found = Geometry((224, 224), "center-crop").apply(whole)
    assert found.shape == (224, 224, 3) and found.dtype == np.uint8
    assert abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "share", "whole", "box"),
    [
        ((224, 224), 0.875, (375, 500), (23.4375, (500 - 328.125) / 2, 328.125, 328.125)),
        ((224, 224), 1.0, (500, 375), ((500 - 375) / 2, 0, 375, 375)),
        ((100, 50), 1.0, (300, 300), (0, 75, 300, 150)),
        ((10, 30), 0.5, (100, 100), (50 - 50 / 6, 25, 100 / 6, 50)),
        ((8, 8), 1.0, (1, 900), (0, (900 - 1) / 2, 1, 1)),
    ],
)
def test_the_box_keeps_the_proportions_of_the_input(size, share, whole, box):
    assert Geometry(size, "center-crop", share).box(*whole) == pytest.approx(box)
    found = Geometry(size, "center-crop", share).apply(Image.new("RGB", whole[::-1]))
    assert found.shape == (*size, 3)


@pytest.mark.parametrize("share", [0.3, 0.875, 1.0])
def test_rounding_never_leaves_the_picture(share):
    geometry = Geometry((37, 61), "center-crop", share)
    for height, width in np.random.default_rng(1).integers(5, 120, (200, 2)).tolist():
        assert geometry.apply(Image.new("RGB", (width, height), "white")).min() == 255


def test_stretching_shows_the_whole_picture():
    whole = picture(40, 60)
    expected = np.array(whole.resize((32, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Geometry((24, 32)).apply(whole), expected)


@pytest.mark.parametrize("evaluation", ["resize", "center-crop"])
def test_pictures_of_the_size_stay_as_they_are(evaluation):
    whole = picture(40, 60)
    geometry = Geometry((40, 60), evaluation)
    np.testing.assert_array_equal(geometry.apply(whole), np.array(whole))
    np.testing.assert_array_equal(geometry.apply(Image.fromarray(geometry.apply(whole))), whole)


def test_earlier_descriptions_mean_stretching():
    assert Geometry.described((8, 8), {"name": "digits"}) == Geometry((8, 8), "resize")
    described = {"evaluation": "center-crop", "crop_share": 0.9}
    assert Geometry.described((8, 8), described) == Geometry((8, 8), "center-crop", 0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8), "centre"), "Images are evaluated by 'resize' or by 'center-crop'"),
        (((8, 8), "center-crop", 0), "crop_share above 0"),
        (((8, 8), "center-crop", 1.5), "crop_share above 0"),
        ((None, "center-crop"), "A centre crop needs a size"),
    ],
)
def test_impossible_geometries_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Geometry(*arguments)
