"""The layer study's table, CSV file and picture."""

from __future__ import annotations

import csv
import io

import pytest

from bnas_larq.report import figure_style as style
from bnas_larq.report.layer_study_report import (
    PUBLISHED,
    layer_table,
    published_accuracy,
    save_layer_csv,
    save_layer_picture,
)


def network(precision, layer, accuracy, predicted=10):
    return {
        "precision": precision,
        "layer": layer,
        "test_accuracy": accuracy,
        "published_accuracy": published_accuracy(precision, layer),
        "classes": 10,
        "classes_predicted": predicted,
    }


@pytest.fixture
def networks():
    """Two layers in all three rows; one network is not done yet."""
    return [
        network("full", "dil_3x3", 0.5),
        network("full", "sep_5x5", None, None),
        network("binary", "dil_3x3", 0.4),
        network("binary", "sep_5x5", 0.1, 1),
        network("uncentred", "sep_5x5", 0.25),
    ]


def test_the_published_numbers_are_those_of_the_slides():
    assert [len(row) for row in PUBLISHED.values()] == [6, 6]
    assert published_accuracy("full", "conv_3x3") == pytest.approx(0.6178)
    assert published_accuracy("binary", "dil_5x5") == pytest.approx(0.3768)
    assert published_accuracy("uncentred", "sep_3x3") is None
    assert published_accuracy("full", "bin_conv_1x1") is None


def test_the_table_has_the_published_numbers_below_and_dashes_for_what_is_not_there(networks):
    lines = layer_table(networks).splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["Layer", "type", "Dil.", "Conv", "Sep.", "Conv"],
        ["Kernel", "size", "3×3", "5×5"],
        ["FP", "Acc.", "(%)", "50.00", "–"],
        ["published", "56.97", "57.00"],
        ["Bin.", "Acc.", "(%)", "40.00", "10.00"],
        ["published", "41.02", "10.00"],
    ]
    assert lines[6].split()[-2:] == ["–", "25.00"] and "not centred" in lines[6]
    assert lines[-1] == "The same answer to every image: Bin. Acc. Sep. Conv 5×5."


def test_other_data_and_layers_have_nothing_published():
    one = {**network("binary", "my_operation", 0.3), "published_accuracy": None}
    text = layer_table([one])
    assert "my_operation" in text and "published" not in text and "–" not in text


def test_the_csv_file_has_a_line_for_each_network(networks, tmp_path):
    path = save_layer_csv(networks, tmp_path / "study.csv")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(row["precision"], row["layer"]) for row in rows] == [
        (one["precision"], one["layer"]) for one in networks
    ]
    assert float(rows[0]["test_accuracy"]) == 0.5 and rows[1]["test_accuracy"] == ""
    assert float(rows[3]["published_accuracy"]) == 0.1 and rows[3]["classes_predicted"] == "1"


def test_an_accuracy_of_zero_is_drawn_as_one(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(style, "save_figure", lambda figure, path: figure)
    networks[2]["test_accuracy"] = 0.0
    (axes,) = save_layer_picture(networks, tmp_path / "a.png", "A title").axes
    assert [text.get_text() for text in axes.texts] == ["50.0", "0.0", "10.0", "25.0"]


@pytest.mark.parametrize("done", [0, 1, 5])
def test_the_picture_is_the_same_each_time_however_much_is_done(networks, done, tmp_path):
    some = [
        one if number < done else {**one, "test_accuracy": None, "classes": None}
        for number, one in enumerate(networks)
    ]
    first = save_layer_picture(some, tmp_path / "a.png", "A title")
    again = save_layer_picture(some, tmp_path / "b.png", "A title")
    assert first.read_bytes() == again.read_bytes() and len(first.read_bytes()) > 5000
