"""Cell pictures: what is on them, and that nothing covers anything."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from matplotlib.patches import PathPatch

from bnas_larq.genotype import Genotype
from bnas_larq.report.cell_picture import draw_cell, save_cell_pictures
from bnas_larq.report.figure_style import operation_colour
from bnas_larq.spaces import SPACES

GENOTYPES = ["bnas_cifar", "bnas_imagenet", "random:1", "random:2", "random:5"]


CELLS = [
    pytest.param(cell, id=f"{source}-{kind}")
    for source in GENOTYPES
    for kind, cell in zip(("normal", "reduce"), Genotype.load(source).cells, strict=True)
]


@pytest.mark.parametrize("cell", CELLS)
def test_every_edge_and_node_is_labelled_once(cell):
    figure = draw_cell(cell, "A cell", shortcut=True)
    texts = Counter(text.get_text() for text in figure.axes[0].texts)
    expected = Counter(edge.op for node in cell for edge in node)
    expected.update(map(str, range(len(cell))))
    expected.update(["$c_{k-2}$", "$c_{k-1}$", "concat", "$c_k$", "shortcut", "A cell"])
    assert texts == expected


@pytest.mark.parametrize("cell", CELLS)
def test_no_label_covers_another_and_no_edge_runs_through_one(cell):
    figure = draw_cell(cell, "A cell", shortcut=True, subtitle="a note")
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    frame = figure.bbox
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and b.y1 <= frame.y1 for b in boxes)
    edges = [patch for patch in axes.patches if type(patch) is PathPatch]
    for edge in edges:
        line = edge.get_transform().transform_path(edge.get_path()).interpolated(40)
        assert not any(line.intersects_bbox(box, filled=False) for box in boxes)


def test_zeroise_edges_are_dashed_and_operations_keep_their_colour():
    cell = Genotype.published("bnas_cifar").normal
    edges = [p for p in draw_cell(cell, "").axes[0].patches if type(p) is PathPatch]
    dashed = [patch for patch in edges if patch.get_linestyle() != "-"]
    zeros = sum(edge.op == "none" for node in cell for edge in node)
    assert len(dashed) == 2 * zeros  # before and behind the label
    for space in SPACES.values():
        names = space().normal
        assert len({operation_colour(name) for name in names}) == len(names)
    assert operation_colour("a_users_own") == operation_colour("a_users_own")


def test_the_shortcut_is_drawn_only_when_asked_for():
    cell = Genotype.published("bnas_imagenet").normal
    assert "shortcut" not in [text.get_text() for text in draw_cell(cell, "").axes[0].texts]


def test_cells_of_other_sizes_are_drawn():
    genotype = Genotype([[("max_pool_3x3", 0)]], [[("none", 0), ("bin_conv_3x3", 1)]] * 6)
    for cell in (genotype.normal, genotype.reduce):
        assert draw_cell(cell, "small or large").axes


def test_pictures_are_files_and_the_same_each_time(tmp_path):
    genotype = Genotype.published("bnas_imagenet")
    paths = save_cell_pictures(genotype, tmp_path / "a")
    assert [path.name for path in paths] == [
        "cell_normal.png",
        "cell_normal.svg",
        "cell_reduce.png",
        "cell_reduce.svg",
    ]
    again = save_cell_pictures(genotype, tmp_path / "b")
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_text().startswith("<?xml")
