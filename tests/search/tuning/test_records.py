"""The Pareto front against its definition."""

from __future__ import annotations

import random

import pytest

from bnas_larq.search.tuning import pareto_front


def by_definition(points):
    def dominated(point):
        return any(
            a >= point[0] and c <= point[1] and (a > point[0] or c < point[1]) for a, c in points
        )

    return {index for index, point in enumerate(points) if not dominated(point)}


@pytest.mark.parametrize("seed", range(50))
def test_equals_the_definition(seed):
    generator = random.Random(seed)
    # Few different values, so that equal accuracies, costs and points are frequent.
    points = [(generator.randrange(6) / 5, generator.randrange(6)) for _ in range(seed)]
    front = pareto_front(points)
    assert set(front) == by_definition(points) and len(set(front)) == len(front)
    assert [points[i][1] for i in front] == sorted(points[i][1] for i in front)


def test_by_hand():
    # Cheap and bad, dominated, good, equal to the good one, dearer and no better.
    points = [(0.5, 1.0), (0.4, 2.0), (0.9, 3.0), (0.9, 3.0), (0.9, 4.0)]
    assert pareto_front(points) == [0, 2, 3]
