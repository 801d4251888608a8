"""Layered drawing of a small directed graph (Sugiyama, Tagawa and Toda, IEEE SMC-11, 1981).

Columns are given. An edge that passes a column gets a waypoint there; the order within the columns
is chosen for few crossings, and vertices are pulled towards their neighbours, so that no edge runs
through a box.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnas_larq.errors import BnasLarqError

_STARTS = 8
_SWEEPS = 8
_PULLS = 400
#: The work grows with its square. BNAS' cells have some 90.
_MAX_LINKS = 700
#: Height that an edge takes where it passes a column.
_WAYPOINT_HEIGHT = 0.06
#: How strongly a link is held level, by the number of its ends that are waypoints.
_WEIGHTS = (1.0, 4.0, 60.0)

Link = tuple[Hashable, Hashable]


class Waypoint(NamedTuple):
    """Where the edge from `source` to `target` passes a column."""

    source: Hashable
    target: Hashable
    column: int


class Layout(NamedTuple):
    """Where vertices and edges lie.

    Attributes:
        y: height of the middle of each vertex and waypoint, growing upwards.
        paths: edge → its ends with the waypoints between them, in order.
        column: number of the column of each vertex and waypoint, from 0.
    """

    y: dict[Hashable, float]
    paths: dict[Link, list[Hashable]]
    column: dict[Hashable, int]


def layered_layout(
    column: Mapping[Hashable, int],
    edges: Sequence[Link],
    heights: Mapping[Hashable, float],
    gap: float,
) -> Layout:
    """Find the heights of vertices whose columns are given.

    Args:
        column: column of each vertex. The first vertex ends up above the second one.
        edges: pairs (from, to), each to a higher column.
        heights: height of each vertex' box.
        gap: free space between two neighbours of a column.

    Raises:
        BnasLarqError: the graph is too large to be laid out in seconds.
    """
    columns, heights, paths = dict(column), dict(heights), {}
    for source, target in edges:
        between = range(columns[source] + 1, columns[target])
        waypoints = [Waypoint(source, target, number) for number in between]
        columns.update((waypoint, waypoint.column) for waypoint in waypoints)
        heights.update((waypoint, _WAYPOINT_HEIGHT) for waypoint in waypoints)
        paths[source, target] = [source, *waypoints, target]
    links = [link for path in paths.values() for link in zip(path, path[1:], strict=False)]
    if len(links) > _MAX_LINKS:
        raise BnasLarqError(
            f"A graph of at most {_MAX_LINKS} lines from column to column is drawn. "
            f"Received: {len(links)}. Draw a smaller cell."
        )
    y = _heights(_order(columns, links), links, heights, gap)
    first, second = list(column)[:2]
    if y[first] < y[second]:
        y = {vertex: -value for vertex, value in y.items()}
    return Layout(y, paths, columns)


def _order(columns: Mapping[Hashable, int], links: Sequence[Link]) -> list[list[Hashable]]:
    """Vertices of each column from bottom to top, with few crossings: from several starts, sweeps
    of barycentres to and fro, then swaps of neighbours."""
    number = {vertex: i for i, vertex in enumerate(columns)}
    layers: list[list[int]] = [[] for _ in range(max(columns.values()) + 1)]
    for vertex, column in columns.items():
        layers[column].append(number[vertex])
    before: dict[int, list[int]] = {}
    after: dict[int, list[int]] = {}
    for source, target in links:
        before.setdefault(number[target], []).append(number[source])
        after.setdefault(number[source], []).append(number[target])
    pairs = _pairs_between_same_columns(columns, links)
    generator = random.Random(0)
    best, fewest = layers, None
    for _ in range(_STARTS):
        for sweep in range(_SWEEPS):
            rank = _ranks(layers)
            neighbours = before if sweep % 2 == 0 else after
            for layer in layers if sweep % 2 == 0 else layers[::-1]:
                barycentre = {
                    v: rank[neighbours[v]].mean() if v in neighbours else rank[v] for v in layer
                }
                layer.sort(key=barycentre.get)
                rank[layer] = range(len(layer))
        crossings = _swap_neighbours(layers, pairs)
        if fewest is None or crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
        for layer in layers:
            generator.shuffle(layer)
    vertices = list(columns)
    return [[vertices[v] for v in layer] for layer in best]


def _pairs_between_same_columns(
    columns: Mapping[Hashable, int], links: Sequence[Link]
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the first and of the second link of all pairs that may cross."""
    number = {vertex: i for i, vertex in enumerate(columns)}
    ends = np.array([(number[source], number[target]) for source, target in links])
    column = np.array([columns[source] for source, _ in links])
    first, second = np.triu_indices(len(links), 1)
    same = column[first] == column[second]
    return ends[first[same]], ends[second[same]]


def _ranks(layers: Sequence[Sequence[int]]) -> np.ndarray:
    """Position of each vertex in its column."""
    rank = np.zeros(sum(map(len, layers)))
    for layer in layers:
        rank[layer] = range(len(layer))
    return rank


def _swap_neighbours(layers: list[list[int]], pairs: tuple[np.ndarray, np.ndarray]) -> int:
    """Swap neighbours as long as that removes crossings of pairs of links; how many are left."""

    def crossings() -> int:
        turns = rank[pairs[0]] - rank[pairs[1]]
        return int((turns[:, 0] * turns[:, 1] < 0).sum())

    rank = _ranks(layers)
    fewest, improved = crossings(), True
    while improved:
        improved = False
        for layer in layers:
            for i in range(len(layer) - 1):
                low, high = layer[i : i + 2]
                rank[[low, high]] = i + 1, i
                swapped = crossings()
                if swapped < fewest:
                    fewest, improved = swapped, True
                    layer[i : i + 2] = high, low
                else:
                    rank[[low, high]] = i, i + 1
    return fewest


def _heights(
    layers: Sequence[Sequence[Hashable]],
    links: Sequence[Link],
    heights: Mapping[Hashable, float],
    gap: float,
) -> dict[Hashable, float]:
    """Heights of all vertices: the least sum of squared slopes that order and distances allow.

    A quadratic programme, solved in its dual one constraint at a time (Hildreth 1957). Links
    between two waypoints weigh much more than others, so that long edges run level.
    """
    number = {vertex: i for i, vertex in enumerate(v for layer in layers for v in layer)}
    slopes = 1e-3 * np.eye(len(number))
    for a, b in links:
        weight = _WEIGHTS[isinstance(a, Waypoint) + isinstance(b, Waypoint)]
        i, j = number[a], number[b]
        slopes[[i, j], [i, j]] += weight
        slopes[[i, j], [j, i]] -= weight
    pairs = [pair for layer in layers for pair in zip(layer, layer[1:], strict=False)]
    apart = np.zeros((len(pairs), len(number)))
    for row, (low, high) in enumerate(pairs):
        apart[row, number[low]], apart[row, number[high]] = -1.0, 1.0
    distance = np.array([gap + (heights[low] + heights[high]) / 2 for low, high in pairs])
    reply = np.linalg.solve(slopes, apart.T)
    matrix = apart @ reply
    force = np.zeros(len(pairs))
    for _ in range(_PULLS):
        for row in range(len(pairs)):
            missing = distance[row] - matrix[row] @ force
            force[row] = max(0.0, force[row] + missing / matrix[row, row])
    return dict(zip(number, (reply @ force).tolist(), strict=True))
