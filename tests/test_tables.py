from __future__ import annotations

import math

import pytest

from bnas_larq.tables import align, number_text, scientific


@pytest.mark.parametrize(
    ("number", "text"), [(147_588_096, "1.476e8"), (0, "0.000e0"), (9_999_999, "1.000e7")]
)
def test_scientific(number, text):
    assert scientific(number) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("test.accuracy", 0.98765, "98.77 %"),
        ("train_seconds", 5.25, "5.2 s"),
        ("wall_seconds", 3725.0, "1 h 2 min"),
        ("bytes", 1500, "1,500 (1.5 kB)"),
        ("binary_macs", 123456, "123,456"),
        ("epochs", 50, "50"),
        ("loss", 0.0485119496, "0.0485119"),
        ("loss", math.nan, "nan"),
        ("finished", True, "yes"),
        ("genotype", None, "–"),
    ],
)
def test_number_text(key, value, text):
    assert number_text(key, value) == text


def test_align():
    assert align([("name", "n"), ("a", "100")], left=1) == ["name    n", "a     100"]
