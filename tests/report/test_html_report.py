"""The report of whole, half-finished and damaged runs."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from bnas_larq.errors import RunError
from bnas_larq.files import append_line, write_atomic, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.report.html_report import write_report
from bnas_larq.report.pictures import read_confusion
from bnas_larq.spaces import SearchSpace

EVIL = "<script>alert('x')</script>"
OPERATIONS = SearchSpace.bnas().normal


class _Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = {"meta", "img", "link", "br", "input"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)


@pytest.fixture
def run(tmp_path):
    """A finished run whose names try to break out of the page."""
    folder = tmp_path / "run & <b>"
    shares = {f"share_{name}": 1 / 7 for name in OPERATIONS}
    for epoch in range(2):
        row = {"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "entropy": 1.9, **shares}
        append_line(folder / "search" / "metrics.jsonl", row)
        alphas = {"epoch": epoch, "normal": [[0.0] * 7] * 14, "reduce": [[0.1] * 7] * 14}
        append_line(folder / "search" / "alphas.jsonl", alphas)
        row = {"epoch": epoch, "loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.25, "lr": 0.1}
        append_line(folder / "train" / "metrics.jsonl", row)
    Genotype.published("bnas_imagenet").save(folder / "genotype.json")
    write_atomic(folder / "recipe.yaml", f"name: {EVIL}\n")
    write_json(folder / "environment.json", {"python": "3.11", EVIL: EVIL})
    write_json(folder / "state.json", {"search": {"done": True}, "train": {"done": True}})
    write_json(folder / "network.json", {"network": {"cells": 8}, "class_names": ["cat", EVIL]})
    write_atomic(folder / "confusion.csv", f"true,cat,{EVIL}\ncat,3,1\n{EVIL},0,4\n")
    layer = {"name": "stem_conv", "output_shape": [8, 8, 6], "binary_macs": 123456, "bytes": 648}
    write_json(
        folder / "result.json",
        {
            "test_accuracy": 0.9625,
            "test": {"accuracy": 0.9625, "top5_accuracy": 0.9875},
            "cost": {
                "ops_paper": 1.48e8,
                "bytes": 1_500_000,
                "bytes_by_kind": {"float32": {"stem": 648}, "int8": {"stem": 186}},
                "layers": [layer],
            },
            "files": ["model.tflite"],
        },
    )
    convolution = {"name": "stem_conv", "binary": False, "kind": "convolution", "bytes": 648}
    write_json(
        folder / "export.json",
        {
            "file": "model.tflite",
            "convolutions": [{**convolution, "kernel": [3, 3, 3, 6]}],
            "not_binary_because": {"stem_conv": "full precision by design"},
            "parity": {"images": 360, "equal_predictions": 1.0},
        },
    )
    return folder


def test_a_finished_run_is_reported_in_one_file(run):
    for epoch, alarms in enumerate(([], ["zeroise"], ["zeroise", EVIL], [EVIL], ["zeroise"])):
        append_line(run / "search" / "alarms.jsonl", {"epoch": epoch, "alarms": alarms})
    path = write_report(run)
    assert path == run / "report.html"
    page = _Reader(path.read_text(encoding="utf-8"))
    for words in (
        "96.25 %",
        "98.75 %\ntest accuracy, top 5",
        "1.48e+08",
        "1.5 MB",
        "100.00 %",
        "Alarm zeroise in epoch 2–3, 5",
        "123,456",
        "stem_conv",
        "full precision by design",
        "int8 kernels",
        "186",
        "3 × 3 × 3 × 6",
        Genotype.published("bnas_imagenet").id,
        "node 3 = bin_dil_conv_3x3(c_{k-1})",
        "search/metrics.jsonl",
    ):
        assert words in page.text, words
    assert page.tags.count("img") == 6
    assert page.tags.count("section") == 13


def test_the_report_loads_nothing_and_runs_nothing(run):
    content = write_report(run).read_text(encoding="utf-8")
    page = _Reader(content)
    assert "script" not in page.tags and "link" not in page.tags
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 6 and all(source.startswith("data:image/") for source in sources)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script" not in content and EVIL in page.text
    assert not re.search(r"url\(|@import|https?:", re.sub(r"base64,[^\"]*", "", content))


def test_the_same_run_gives_the_same_report(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_run_that_has_only_begun_is_reported(tmp_path):
    write_atomic(tmp_path / "recipe.yaml", "name: quickstart\n")
    page = _Reader(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "unfinished; stages done: none" in page.text
    assert "name: quickstart" in page.text
    assert page.tags.count("img") == 0


def test_damaged_pieces_are_named_and_the_rest_is_reported(run):
    (run / "result.json").write_text('{"test_accuracy": 0.9')
    (run / "genotype.json").write_text("[]")
    (run / "confusion.csv").write_text("true,cat\n1,2,3\n")
    (run / "search" / "metrics.jsonl").write_text('{"epoch": 0, "loss": 1.0}\n{"epoch": 1, "lo')
    page = _Reader(write_report(run).read_text(encoding="utf-8"))
    assert "result.json must be readable JSON" in page.text
    assert "Training" in page.texts and "Recipe" in page.texts


def test_no_folder_is_a_sentence(tmp_path):
    with pytest.raises(RunError, match="run folder. Received: .*absent"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("true,a,b\na,1,2\nb,3,4\n", ["a", "b"]),
        ("true\\predicted,0,1\n0,1,2\n1,3,4\n", ["0", "1"]),
        (",a,b\na,1,2\nb,3,4\n", ["a", "b"]),
        ("a,b\n1,2\n3,4\n", ["a", "b"]),
        ("a,1,2\nb,3,4\n", ["a", "b"]),
        ("1,2\n3,4\n", ["0", "1"]),
    ],
)
def test_confusion_tables_are_read_with_names_on_any_side(tmp_path, content, names):
    path = tmp_path / "confusion.csv"
    path.write_text(content)
    assert read_confusion(path) == ([[1, 2], [3, 4]], names)


@pytest.mark.parametrize("content", ["", "a,b\n", "true,a,b\na,1,x\nb,3,4\n"])
def test_damaged_confusion_tables_are_left_out(tmp_path, content):
    path = tmp_path / "confusion.csv"
    path.write_text(content)
    assert read_confusion(path) is None
    assert read_confusion(tmp_path / "absent.csv") is None
