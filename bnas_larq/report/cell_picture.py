"""A cell drawn as a graph from left to right, as in the DARTS and BNAS papers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath

from bnas_larq.genotype import Edge, Genotype
from bnas_larq.report.cell_layout import Link, layered_layout
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
#: Fill and outline.
_NODE, _INPUT, _RESULT = ("#e4ecf7", "#3e5c89"), ("#dff0e0", "#3f7d45"), ("#fdf2d0", "#b58a1b")
_PLAIN_EDGE = "#7b8794"


def draw_cell(
    cell: Sequence[Sequence[Edge]], title: str, *, shortcut: bool = False, subtitle: str = ""
) -> Figure:
    """Draw a cell as a graph: inputs, a circle for each node, a coloured label on each edge.

    Zeroise edges are dashed and grey, as is the outline of a node that receives nothing else.

    Args:
        cell: the edges of each node, as in `Genotype.normal`.
        shortcut: draw the inter-cell shortcut of the BNAS template (arXiv 2002.06963), which adds
            the previous cell's output to this cell's.
        subtitle: a smaller line beside the title.
    """
    graph = _CellGraph(cell, shortcut)
    y = graph.layout.y
    ends = [
        (y[vertex] - height / 2, y[vertex] + height / 2) for vertex, height in graph.heights.items()
    ]
    ends += [(y[point], y[point]) for path in graph.layout.paths.values() for point in path]
    bottom, top = min(low for low, _ in ends), max(high for _, high in ends)
    head = _text_width(title, _FONT + 3) + _text_width(subtitle, _FONT) + 0.2
    width = max(graph.width, head) + 2 * _MARGIN
    height = top - bottom + 2 * _MARGIN + _TITLE_HEIGHT
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(bottom - _MARGIN, bottom - _MARGIN + height)
    heading = top + _MARGIN - 0.02
    axes.text(0, heading, title, fontsize=_FONT + 3, color=INK, weight="bold", va="baseline")
    if subtitle:
        left = 1.12 * _text_width(title, _FONT + 3) + 0.15
        axes.text(left, heading, subtitle, fontsize=_FONT, color="#52606d", va="baseline")
    for edge, path in graph.layout.paths.items():
        _draw_edge(axes, graph, edge, path)
    for vertex in graph.labels:
        _draw_vertex(axes, graph, vertex)
    return figure


def save_cell_pictures(
    genotype: Genotype, folder: str | Path, *, shortcut: bool = True
) -> list[Path]:
    """Write `cell_normal` and `cell_reduce` as PNG and SVG into a folder; the four paths."""
    strides = "edges from the two inputs have stride 2"
    figures = {
        "normal": draw_cell(genotype.normal, "Normal cell", shortcut=shortcut),
        "reduce": draw_cell(genotype.reduce, "Reduction cell", shortcut=shortcut, subtitle=strides),
    }
    return [
        save_figure(figure, Path(folder) / f"cell_{kind}.{suffix}")
        for kind, figure in figures.items()
        for suffix in ("png", "svg")
    ]


class _CellGraph:
    """The vertices of the picture (inputs, nodes, edges' labels, concatenation, output), and where
    they lie."""

    def __init__(self, cell: Sequence[Sequence[Edge]], shortcut: bool) -> None:
        self.labels: dict[Hashable, str] = {OLDER: "$c_{k-2}$", NEWER: "$c_{k-1}$"}
        self.operation: dict[Hashable, str] = {}
        self.empty = {i for i, node in enumerate(cell) if all(edge.op == ZEROISE for edge in node)}
        column: dict[Hashable, int] = {OLDER: 0, NEWER: 0}
        edges: list[Link] = []
        states: list[Hashable] = [OLDER, NEWER]
        for index, node in enumerate(cell):
            column[index] = 2 + max(column[states[edge.state]] for edge in node)
            self.labels[index] = str(index)
            for number, edge in enumerate(node):
                label = (index, number)
                column[label] = column[index] - 1
                self.labels[label] = self.operation[label] = edge.op
                edges += [(states[edge.state], label), (label, index)]
            states.append(index)
        last = max(column.values())
        column[CONCAT], self.labels[CONCAT] = last + 1, "concat"
        column[OUTPUT], self.labels[OUTPUT] = last + 2, "$c_k$"
        edges += [(index, CONCAT) for index in range(len(cell))] + [(CONCAT, OUTPUT)]
        if shortcut:
            column[SHORTCUT], self.labels[SHORTCUT] = last + 1, "shortcut"
            edges += [(NEWER, SHORTCUT), (SHORTCUT, OUTPUT)]
        self.heights = {
            vertex: _LABEL_HEIGHT if self.is_label(vertex) else _BOX_HEIGHT
            for vertex in self.labels
        }
        self.layout = layered_layout(column, edges, self.heights, _VERTICAL_GAP)
        #: Left and right end of each column.
        self.columns: list[tuple[float, float]] = []
        left = 0.0
        for number in range(last + 3):
            width = max(self.width_of(vertex) for vertex, c in column.items() if c == number)
            self.columns.append((left, left + width))
            left += width + _COLUMN_GAP
        self.width = left - _COLUMN_GAP

    def is_label(self, vertex: Hashable) -> bool:
        """Whether it is an edge's label rather than a box."""
        return vertex in self.operation or vertex == SHORTCUT

    def width_of(self, vertex: Hashable) -> float:
        """Width of a vertex' box; 0 for a waypoint."""
        if isinstance(vertex, int):
            return _BOX_HEIGHT
        return _text_width(self.labels[vertex], _FONT) + 0.18 if vertex in self.labels else 0.0

    def colour(self, vertex: Hashable) -> str:
        """Colour of a label and of the edge on which it sits."""
        return operation_colour(self.operation[vertex]) if vertex in self.operation else INK


def _text_width(text: str, size: float) -> float:
    """Width of a text in inches."""
    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text else 0.0


def _draw_edge(axes: Axes, graph: _CellGraph, edge: Link, path: list[Hashable]) -> None:
    """A smooth line that is level within the columns it passes and bends between them."""
    y, columns = graph.layout.y, graph.layout.column
    points: list[tuple[float, float]] = []
    for vertex in path:
        left, right = graph.columns[columns[vertex]]
        middle, half = (left + right) / 2, graph.width_of(vertex) / 2
        # Level within the column's whole width, so that no line runs behind a neighbour's box.
        if vertex != path[0]:
            points += [(left, y[vertex]), (middle - half, y[vertex])]
        if vertex != path[-1]:
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
    label = next((end for end in edge if graph.is_label(end)), None)
    colour = _PLAIN_EDGE if label is None else graph.colour(label)
    zero = graph.operation.get(label) == ZEROISE
    axes.add_patch(
        PathPatch(
            Outline(vertices, codes),
            fill=False,
            edgecolor=colour,
            linewidth=0.9 if label in (SHORTCUT, None) else 1.6,
            linestyle=(0, (4, 2.5)) if zero else "-",
            zorder=1 if zero else 2,
            capstyle="butt",
        )
    )
    if not graph.is_label(edge[1]):
        (x, tip), base = points[-1], 0.09
        corners = [x, x - base, x - base], [tip, tip + base / 2.2, tip - base / 2.2]
        axes.fill(*corners, color=colour, linewidth=0, zorder=3)


def _draw_vertex(axes: Axes, graph: _CellGraph, vertex: Hashable) -> None:
    """An input, node, concatenation or output as a box, or an edge's label on its edge."""
    left, right = graph.columns[graph.layout.column[vertex]]
    middle, y = (left + right) / 2, graph.layout.y[vertex]
    width, height = graph.width_of(vertex), graph.heights[vertex]
    empty = vertex in graph.empty or graph.operation.get(vertex) == ZEROISE
    if graph.is_label(vertex):
        face, line = "white", graph.colour(vertex)
    elif isinstance(vertex, int):
        face, line = ("#f5f7fa", GREY) if empty else _NODE
    else:
        face, line = _RESULT if vertex in (CONCAT, OUTPUT) else _INPUT
    style = {
        "facecolor": face,
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
    centred = {"ha": "center", "va": "center", "zorder": 5}
    axes.text(middle, y, graph.labels[vertex], fontsize=_FONT, color=colour, **centred)
