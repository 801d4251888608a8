"""Draws a cell as a graph from left to right, in the manner of the DARTS and BNAS papers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from bnas_larq.genotype import Edge, Genotype
from bnas_larq.report.cell_layout import Layout, place
from bnas_larq.report.figure_style import GREY, INK, new_figure, operation_colour, save_figure
from bnas_larq.spaces import ZEROISE

# All measures in inches: the axes have the size of the figure, so one unit is one inch.
_FONT = 9.0
_BOX_HEIGHT = 0.34
_LABEL_HEIGHT = 0.25
_VERTICAL_GAP = 0.14
_COLUMN_GAP = 0.5
_MARGIN = 0.25
_TITLE_HEIGHT = 0.3

OLDER, NEWER, CONCAT, OUTPUT, SHORTCUT = "older", "newer", "concat", "output", "shortcut"


def draw_cell(
    cell: Sequence[Sequence[Edge]], title: str, *, shortcut: bool = False, subtitle: str = ""
) -> Figure:
    """Draw a cell as a graph: inputs, a circle for each node, a coloured label on each edge.

    Zeroise edges are dashed and grey, and so is the outline of a node that receives nothing else.

    Args:
        cell: the edges of each node, as in `Genotype.normal`.
        title: heading of the picture.
        shortcut: draw the inter-cell shortcut of the BNAS template (arXiv 2002.06963), which adds
            the previous cell's output to this cell's.
        subtitle: a smaller line beside the title.
    """
    graph = _CellGraph(cell, shortcut)
    x, width = graph.horizontal()
    layout = graph.layout
    extent = [
        (layout.y[vertex] - height / 2, layout.y[vertex] + height / 2)
        for vertex, height in graph.heights.items()
    ]
    extent += [
        (layout.y[point], layout.y[point]) for path in layout.waypoints.values() for point in path
    ]
    bottom, top = min(low for low, _ in extent), max(high for _, high in extent)
    head = _text_width(title, _FONT + 3) + _text_width(subtitle, _FONT) + 0.2
    size = max(width, head) + 2 * _MARGIN, top - bottom + 2 * _MARGIN + _TITLE_HEIGHT
    figure = new_figure(*size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, size[0] - _MARGIN)
    axes.set_ylim(bottom - _MARGIN, bottom - _MARGIN + size[1])
    heading = top + _MARGIN - 0.02
    axes.text(0, heading, title, fontsize=_FONT + 3, color=INK, weight="bold", va="baseline")
    if subtitle:
        after = 1.12 * _text_width(title, _FONT + 3) + 0.15
        axes.text(after, heading, subtitle, fontsize=_FONT, color="#52606d", va="baseline")
    for edge, path in layout.waypoints.items():
        _draw_edge(axes, graph, x, edge, path)
    for vertex in graph.labels:
        _draw_box(axes, graph, x, vertex)
    return figure


def save_cell_pictures(
    genotype: Genotype, folder: str | Path, *, shortcut: bool = True
) -> list[Path]:
    """Write `cell_normal` and `cell_reduce` as PNG and SVG into a folder; the four paths.

    Raises:
        RunError: a file cannot be written.
    """
    folder = Path(folder)
    paths = []
    for kind, cell, note in (
        ("normal", genotype.normal, ""),
        ("reduce", genotype.reduce, "edges from the two inputs have stride 2"),
    ):
        title = "Normal cell" if kind == "normal" else "Reduction cell"
        figure = draw_cell(cell, title, shortcut=shortcut, subtitle=note)
        paths += [
            save_figure(figure, folder / f"cell_{kind}.{suffix}") for suffix in ("png", "svg")
        ]
    return paths


class _CellGraph:
    """The picture's vertices (inputs, nodes, labels, concatenation, output) and their columns."""

    def __init__(self, cell: Sequence[Sequence[Edge]], shortcut: bool) -> None:
        self.labels: dict[Hashable, str] = {OLDER: "$c_{k-2}$", NEWER: "$c_{k-1}$"}
        self.operation: dict[Hashable, str] = {}
        self.empty = {i for i, node in enumerate(cell) if all(edge.op == ZEROISE for edge in node)}
        self.shortcut = shortcut
        column: dict[Hashable, int] = {OLDER: 0, NEWER: 0}
        edges: list[tuple[Hashable, Hashable]] = []
        states: list[Hashable] = [OLDER, NEWER]
        for index, node in enumerate(cell):
            column[index] = 2 + max(column[states[edge.state]] for edge in node)
            self.labels[index] = str(index)
            for number, edge in enumerate(node):
                label = (index, number)
                column[label] = column[index] - 1
                self.labels[label], self.operation[label] = edge.op, edge.op
                edges += [(states[edge.state], label), (label, index)]
            states.append(index)
        last = max(column.values())
        column[CONCAT], self.labels[CONCAT] = last + 1, "concat"
        column[OUTPUT], self.labels[OUTPUT] = last + 2, "$c_k$"
        edges += [(index, CONCAT) for index in range(len(cell))] + [(CONCAT, OUTPUT)]
        if shortcut:
            self.labels[SHORTCUT] = "shortcut"
            column[SHORTCUT] = last + 1
            edges += [(NEWER, SHORTCUT), (SHORTCUT, OUTPUT)]
        self.column = column
        self.heights = {
            vertex: _LABEL_HEIGHT if self.is_label(vertex) else _BOX_HEIGHT
            for vertex in self.labels
        }
        self.layout: Layout = place(column, edges, self.heights, _VERTICAL_GAP, 0.06)

    def is_label(self, vertex: Hashable) -> bool:
        """Whether it is an edge's label rather than a box."""
        return vertex in self.operation or vertex == SHORTCUT

    def width(self, vertex: Hashable) -> float:
        """Width of a vertex' box."""
        if isinstance(vertex, int):
            return _BOX_HEIGHT
        return _text_width(self.labels[vertex], _FONT) + 0.18

    def colour(self, vertex: Hashable) -> str:
        """Colour of a label and of the edge on which it sits."""
        return operation_colour(self.operation[vertex]) if vertex in self.operation else INK

    def horizontal(self) -> tuple[dict[int, tuple[float, float]], float]:
        """Left and right end of each column, and the width of all."""
        ends, position = {}, 0.0
        for column in range(max(self.column.values()) + 1):
            width = max(self.width(vertex) for vertex, c in self.column.items() if c == column)
            ends[column] = (position, position + width)
            position += width + _COLUMN_GAP
        return ends, position - _COLUMN_GAP


def _text_width(text: str, size: float) -> float:
    """Width of a text in inches."""
    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text else 0.0


def _draw_edge(axes: Axes, graph: _CellGraph, x: dict, edge: tuple, path: list) -> None:
    """A smooth line that is level within the columns it passes and turns between them."""
    y, columns = graph.layout.y, graph.layout.column
    label = next((end for end in edge if graph.is_label(end)), None)
    points: list[tuple[float, float]] = []
    for position, vertex in enumerate(path):
        left, right = x[columns[vertex]]
        middle = (left + right) / 2
        half = graph.width(vertex) / 2 if vertex in graph.labels else 0.0
        # Level within the column's whole width, so that no line runs behind a neighbour's box.
        if position > 0:
            points += [(left, y[vertex]), (middle - half, y[vertex])]
        if position < len(path) - 1:
            points += [(middle + half, y[vertex]), (right, y[vertex])]
    vertices, codes = [points[0]], [Outline.MOVETO]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if y0 == y1:
            vertices.append((x1, y1))
            codes.append(Outline.LINETO)
        else:
            bend = (x1 - x0) / 2
            vertices += [(x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
            codes += [Outline.CURVE4] * 3
    zero = graph.operation.get(label) == ZEROISE
    thin = label == SHORTCUT
    axes.add_patch(
        PathPatch(
            Outline(vertices, codes),
            fill=False,
            edgecolor=graph.colour(label) if label is not None else "#7b8794",
            linewidth=0.9 if thin or label is None else 1.6,
            linestyle=(0, (4, 2.5)) if zero else "-",
            zorder=1 if zero else 2,
            capstyle="butt",
        )
    )
    if not graph.is_label(edge[1]):
        tip, base = points[-1], 0.09
        axes.fill(
            [tip[0], tip[0] - base, tip[0] - base],
            [tip[1], tip[1] + base / 2.2, tip[1] - base / 2.2],
            color=graph.colour(label) if label is not None else "#7b8794",
            linewidth=0,
            zorder=3,
        )


def _draw_box(axes: Axes, graph: _CellGraph, x: dict, vertex: Hashable) -> None:
    """An input, node, concatenation or output as a box, or an edge's label on its edge."""
    left, right = x[graph.column[vertex]]
    middle, y = (left + right) / 2, graph.layout.y[vertex]
    width, height = graph.width(vertex), graph.heights[vertex]
    label = graph.is_label(vertex)
    empty = vertex in graph.empty or graph.operation.get(vertex) == ZEROISE
    if label:
        face, line = "white", graph.colour(vertex)
    elif isinstance(vertex, int):
        face, line = "#e4ecf7", GREY if empty else "#3e5c89"
    else:
        face, line = (
            ("#dff0e0", "#3f7d45") if vertex not in (CONCAT, OUTPUT) else ("#fdf2d0", "#b58a1b")
        )
    style = {
        "facecolor": "#f5f7fa" if empty and not label else face,
        "edgecolor": line,
        "linewidth": 0.8 if vertex == SHORTCUT else 1.2,
        "linestyle": (0, (3, 2)) if empty else "-",
        "zorder": 4,
    }
    if isinstance(vertex, int):
        axes.add_patch(Circle((middle, y), height / 2, **style))
    else:
        corner = (middle - width / 2, y - height / 2)
        rounded = "round,pad=0,rounding_size=0.07"
        axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=rounded, **style))
    colour = "#697684" if empty else INK
    axes.text(
        middle,
        y,
        graph.labels[vertex],
        fontsize=_FONT,
        color=colour,
        ha="center",
        va="center",
        zorder=5,
    )
