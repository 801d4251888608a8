"""Places the boxes of a small directed graph in columns so that no edge runs through a box.

The layered drawing of Sugiyama, Tagawa and Toda (IEEE SMC-11, 1981): every box gets a column, edges
that pass columns get a waypoint in each, an order within the columns is sought with few crossings,
and boxes are pulled towards their neighbours as far as their distances allow.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_STARTS = 8
_SWEEPS = 8
_PULLS = 400


#: How strongly a link is held level, by the number of its ends that are waypoints.
_PULL_OF_WAYPOINTS = (1.0, 4.0, 60.0)


class Waypoint(NamedTuple):
    """A place where the edge from `source` to `target` passes a column."""

    source: Hashable
    target: Hashable
    column: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything is.

    Attributes:
        y: height of each vertex' middle, growing upwards.
        waypoints: for each edge the vertices it passes in order, its ends included; those between
            are waypoints, one for each column, and have a `y` too.
        column: number of each vertex' column, from 0.
    """

    y: dict[Hashable, float]
    waypoints: dict[tuple[Hashable, Hashable], list[Hashable]]
    column: dict[Hashable, int]


def place(
    column: Mapping[Hashable, int],
    edges: Sequence[tuple[Hashable, Hashable]],
    heights: Mapping[Hashable, float],
    gap: float,
    waypoint_height: float,
) -> Layout:
    """Find the heights of vertices whose columns are given.

    Args:
        column: column of each vertex. The first vertex given ends up above the second one.
        edges: pairs (from, to), each going to a higher column.
        heights: height of each vertex' box.
        gap: free space between two neighbours of a column.
        waypoint_height: height that an edge takes where it passes a column.
    """
    columns = dict(column)
    heights = dict(heights)
    waypoints = {}
    for source, target in edges:
        passed = [
            Waypoint(source, target, number)
            for number in range(columns[source] + 1, columns[target])
        ]
        for point in passed:
            columns[point], heights[point] = point.column, waypoint_height
        waypoints[source, target] = [source, *passed, target]
    links = [pair for path in waypoints.values() for pair in zip(path, path[1:], strict=False)]
    layers = _order(columns, links)
    y = _pull(layers, links, heights, gap)
    first, second = list(column)[:2]
    if y[first] < y[second]:
        y = {vertex: -value for vertex, value in y.items()}
    return Layout(y, waypoints, columns)


def _order(columns: Mapping[Hashable, int], links: Sequence[tuple]) -> list[list[Hashable]]:
    """Vertices of each column from bottom to top, with few crossings.

    From several first orders: sweeps of barycentres to and fro, then swaps of neighbours; the best
    is kept.
    """
    number = {vertex: i for i, vertex in enumerate(columns)}
    layers: list[list[int]] = [[] for _ in range(max(columns.values()) + 1)]
    for vertex, column in columns.items():
        layers[column].append(number[vertex])
    ends = np.array([(number[a], number[b]) for a, b in links])
    crossings = _Crossings(ends, np.array([columns[a] for a, _ in links]))
    before, after = _neighbours(ends[:, ::-1]), _neighbours(ends)
    generator = random.Random(0)
    best, fewest = layers, None
    for _ in range(_STARTS):
        for sweep in range(_SWEEPS):
            rank = crossings.ranks(layers)
            known = before if sweep % 2 == 0 else after
            for layer in layers if sweep % 2 == 0 else layers[::-1]:
                wish = {v: rank[known[v]].mean() if v in known else rank[v] for v in layer}
                layer.sort(key=wish.get)
                rank[layer] = range(len(layer))
        count = crossings.swap(layers)
        if fewest is None or count < fewest:
            best, fewest = [list(layer) for layer in layers], count
        for layer in layers:
            generator.shuffle(layer)
    vertices = list(columns)
    return [[vertices[v] for v in layer] for layer in best]


def _neighbours(ends: np.ndarray) -> dict[int, list[int]]:
    """The second ends of all links of each first end."""
    found: dict[int, list[int]] = {}
    for a, b in ends.tolist():
        found.setdefault(a, []).append(b)
    return found


class _Crossings:
    """Counts the pairs of links that cross, for changing orders of the same vertices."""

    def __init__(self, ends: np.ndarray, column: np.ndarray) -> None:
        p, q = np.triu_indices(len(ends), 1)
        same = column[p] == column[q]
        self.first, self.second = ends[p[same]], ends[q[same]]
        self.size = int(ends.max()) + 1

    def ranks(self, layers: Sequence[Sequence[int]]) -> np.ndarray:
        """Place of each vertex in its column."""
        rank = np.zeros(self.size)
        for layer in layers:
            rank[layer] = range(len(layer))
        return rank

    def count(self, rank: np.ndarray) -> int:
        """Number of crossing pairs."""
        turns = rank[self.first] - rank[self.second]
        return int((turns[:, 0] * turns[:, 1] < 0).sum())

    def swap(self, layers: list[list[int]]) -> int:
        """Exchange neighbours as long as that removes crossings; the number that is left."""
        rank = self.ranks(layers)
        count, improved = self.count(rank), True
        while improved:
            improved = False
            for layer in layers:
                for i in range(len(layer) - 1):
                    pair = layer[i : i + 2]
                    rank[pair] = i + 1, i
                    changed = self.count(rank)
                    if changed < count:
                        count, improved = changed, True
                        layer[i : i + 2] = pair[::-1]
                    else:
                        rank[pair] = i, i + 1
        return count


def _pull(
    layers: Sequence[Sequence[Hashable]],
    links: Sequence[tuple],
    heights: Mapping[Hashable, float],
    gap: float,
) -> dict[Hashable, float]:
    """Heights of all vertices: the least sum of squared slopes that order and distances allow.

    A quadratic programme, solved in its dual one constraint at a time (Hildreth 1957). Links
    between two waypoints weigh much more than others, so that long edges run level.
    """
    number = {vertex: i for i, vertex in enumerate(v for layer in layers for v in layer)}
    pull = 1e-3 * np.eye(len(number))
    for a, b in links:
        weight = _PULL_OF_WAYPOINTS[isinstance(a, Waypoint) + isinstance(b, Waypoint)]
        i, j = number[a], number[b]
        pull[[i, j], [i, j]] += weight
        pull[[i, j], [j, i]] -= weight
    pairs = [pair for layer in layers for pair in zip(layer, layer[1:], strict=False)]
    apart = np.zeros((len(pairs), len(number)))
    for row, (low, high) in enumerate(pairs):
        apart[row, number[low]], apart[row, number[high]] = -1.0, 1.0
    distance = np.array([gap + (heights[low] + heights[high]) / 2 for low, high in pairs])
    reply = np.linalg.solve(pull, apart.T)
    matrix = apart @ reply
    force = np.zeros(len(pairs))
    for _ in range(_PULLS):
        for row in range(len(pairs)):
            missing = distance[row] - matrix[row] @ force
            force[row] = max(0.0, force[row] + missing / matrix[row, row])
    return dict(zip(number, (reply @ force).tolist(), strict=True))
