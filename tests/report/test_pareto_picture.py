"""The picture of a Pareto front."""

from __future__ import annotations

import json

import pytest

from bnas_larq.report.pareto_picture import save_pareto

ROWS = [
    {"genotype": f"g-{number}", "accuracy": accuracy, "cost": cost}
    for number, (accuracy, cost) in enumerate([(0.5, 1e6), (0.4, 2e6), (0.9, 3e6), (None, None)])
]


def write(folder, front, rows=ROWS, **more):
    folder.mkdir(exist_ok=True)
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pareto.json").write_text(json.dumps({"cost": "ops", "front": front, **more}))


@pytest.mark.parametrize("cost", ["ops", "bytes", "milliseconds"])
def test_draws_png_and_svg(tmp_path, cost):
    write(tmp_path / "search", [ROWS[0], ROWS[2]], cost=cost)
    png, svg = save_pareto(tmp_path / "search", tmp_path)
    assert (png.name, svg.name) == ("pareto.png", "pareto.svg")
    assert png.read_bytes().startswith(b"\x89PNG") and b"<svg" in svg.read_bytes()


def test_the_same_data_give_the_same_bytes(tmp_path):
    write(tmp_path / "search", [ROWS[0], ROWS[2]])
    first = [path.read_bytes() for path in save_pareto(tmp_path / "search", tmp_path / "a")]
    assert first == [path.read_bytes() for path in save_pareto(tmp_path / "search", tmp_path / "b")]


def test_one_trial_is_a_front(tmp_path):
    write(tmp_path / "search", ROWS[:1], ROWS[:1])
    assert len(save_pareto(tmp_path / "search", tmp_path)) == 2


@pytest.mark.parametrize("front", [[], [ROWS[3]], "damaged", None])
def test_nothing_to_draw(tmp_path, front):
    write(tmp_path / "search", front)
    assert save_pareto(tmp_path / "search", tmp_path) == []


def test_absent_or_damaged_files_leave_the_picture_out(tmp_path):
    assert save_pareto(tmp_path, tmp_path) == []
    (tmp_path / "pareto.json").write_text('{"front": [')
    assert save_pareto(tmp_path, tmp_path) == []
