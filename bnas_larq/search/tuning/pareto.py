"""The Pareto front of accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (accuracy, cost) points that no other one dominates, cheapest first.

    A point is dominated by another one that is at least as accurate and at most as costly, and
    better in one of the two. Equal points do not dominate each other.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
    front: list[int] = []
    for index in order:
        accuracy, cost = points[index]
        # Only the last one can dominate: it is the most accurate of the cheaper ones.
        best = points[front[-1]] if front else None
        if best is None or accuracy > best[0] or (accuracy, cost) == best:
            front.append(index)
    return front
