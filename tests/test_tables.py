from __future__ import annotations

import pytest

from bnas_larq.tables import align, scientific


@pytest.mark.parametrize(
    ("number", "text"), [(147_588_096, "1.476e8"), (0, "0.000e0"), (9_999_999, "1.000e7")]
)
def test_scientific(number, text):
    assert scientific(number) == text


def test_align():
    assert align([("name", "n"), ("a", "100")], left=1) == ["name    n", "a     100"]
