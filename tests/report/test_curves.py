"""Curves from the rows of a run folder, whole, short and damaged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.image import imread

from bnas_larq.report import figure_style as style
from bnas_larq.report.curves import (
    save_alpha_history,
    save_confusion,
    save_search_curves,
    save_study_curves,
    save_training_curves,
)
from bnas_larq.spaces import SearchSpace

OPERATIONS = SearchSpace.bnas().normal


def search_rows(epochs):
    """Rows of search/metrics.jsonl."""
    shares = {f"share_{name}": 1 / len(OPERATIONS) for name in OPERATIONS}
    numbers = {"loss": 2.0, "accuracy": 0.3, "alpha_loss": 2.1, "alpha_accuracy": 0.2}
    return [
        {"epoch": epoch, **numbers, "entropy": 1.9, "diversity_weight": math.exp(-epoch), **shares}
        for epoch in range(epochs)
    ]


def alpha_rows(epochs, edges=14):
    """Rows of search/alphas.jsonl."""
    alphas = np.random.default_rng(0).normal(size=(epochs, 2, edges, len(OPERATIONS))).tolist()
    return [{"epoch": e, "normal": a[0], "reduce": a[1]} for e, a in enumerate(alphas)]


def training_rows(epochs):
    """Rows of train/metrics.jsonl, with holes as a crash or a diverging run leaves them."""
    rows = [
        {"epoch": e, "loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.4, "lr": 0.1}
        for e in range(epochs)
    ]
    rows[0]["val_loss"] = None
    rows[-1]["loss"] = math.nan
    return rows


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_curves_are_png_files(tmp_path, epochs):
    paths = [
        save_search_curves(search_rows(epochs), tmp_path),
        save_alpha_history(alpha_rows(epochs), OPERATIONS, tmp_path),
        save_training_curves(training_rows(epochs), tmp_path),
        save_confusion(np.eye(3) * 7, ["a", "b$", "<c>"], tmp_path),
    ]
    assert [path.name for path in paths] == [
        "search_curves.png",
        "alphas.png",
        "train_curves.png",
        "confusion.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_curves_are_the_same_each_time(tmp_path):
    first = save_search_curves(search_rows(3), tmp_path / "a").read_bytes()
    assert first == save_search_curves(search_rows(3), tmp_path / "b").read_bytes()


def alarm_rows(epochs):
    """Rows of search/alarms.jsonl; dead signs are not measured in the first epoch."""
    return [
        {
            "epoch": epoch,
            "zeroise": 0.5 + epoch / 8,
            "pooling": 0.1,
            "entropy": 0.9,
            "dead_signs": 0.3 if epoch else None,
            "alarms": ["zeroise"] if epoch > 1 else [],
        }
        for epoch in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [1, 4])
def test_cost_and_alarms_get_a_row_of_their_own(tmp_path, epochs):
    rows = [{**row, "expected_cost": 2e7 - 1e6 * row["epoch"]} for row in search_rows(epochs)]
    sizes = {}
    for name, metrics, alarms, target in (
        ("plain", search_rows(epochs), [], None),
        ("cost", rows, [], (1.5e7, "ops")),
        ("alarms", search_rows(epochs), alarm_rows(epochs), None),
        ("both", rows, alarm_rows(epochs), (1.5e7, "ops")),
    ):
        path = save_search_curves(metrics, tmp_path / name, alarms, target)
        sizes[name] = imread(path).shape[:2]
    assert sizes["plain"][0] * 3 == sizes["both"][0] * 2
    assert sizes["cost"] == sizes["alarms"] == sizes["both"]


def test_a_line_tells_stages_apart(tmp_path):
    rows = training_rows(4)
    pictures = []
    for names in ("aaaa", "aabb"):
        staged = [{**row, "stage": name} for row, name in zip(rows, names, strict=True)]
        pictures.append(imread(save_training_curves(staged, tmp_path)))
    assert not np.array_equal(*pictures)


def test_trainings_of_any_length_share_a_picture(tmp_path):
    trainings = [("a", training_rows(3)), ("b", training_rows(5)), ("a", training_rows(1))]
    both = imread(save_study_curves([*trainings, ("c", [])], tmp_path / "both.png", "two rows"))
    one = imread(save_study_curves(trainings[:1], tmp_path / "one.png", "two rows"))
    assert both.shape == one.shape and not np.array_equal(both, one)
    plain = [{k: v for k, v in row.items() if k != "val_accuracy"} for row in training_rows(3)]
    narrow = imread(save_study_curves([("a", plain)], tmp_path / "narrow.png", "no validation"))
    assert narrow.shape[1] < one.shape[1]


def test_epochs_are_counted_from_1(tmp_path, monkeypatch):
    """As on the terminal, in alarms and on cards; the rows count from 0."""
    monkeypatch.setattr(style, "save_figure", lambda figure, path: figure)
    stages = [{**row, "stage": "ab"[number > 1]} for number, row in enumerate(training_rows(4))]
    search = save_search_curves(search_rows(4), tmp_path, alarm_rows(4))
    crosses = next(line for line in search.axes[4].lines if line.get_marker() == "x")
    assert search.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert crosses.get_xdata().tolist() == [3, 4]  # the rows 2 and 3
    means = save_alpha_history(alpha_rows(4), OPERATIONS, tmp_path).axes
    assert means[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert means[2].images[0].get_extent()[:2] == [0.5, 4.5]
    accuracy = save_training_curves(stages, tmp_path).axes[1]
    assert accuracy.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert accuracy.lines[-1].get_xdata() == [2.5, 2.5]  # behind the second epoch


def test_nothing_to_draw_draws_nothing(tmp_path):
    assert save_study_curves([("a", [])], tmp_path / "curves.png", "none") is None
    assert save_search_curves([], tmp_path) is None
    assert save_alpha_history([], OPERATIONS, tmp_path) is None
    assert save_training_curves([], tmp_path) is None
    assert save_confusion([], [], tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_many_classes_and_other_cells_are_drawn(tmp_path):
    assert save_confusion(np.eye(60), [f"class {i}" for i in range(60)], tmp_path)
    assert save_alpha_history(alpha_rows(2, edges=5), OPERATIONS, tmp_path)
