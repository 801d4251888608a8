"""`bnas-larq benchmark` on the smallest settings, and on what it refuses. Figures are not tested:
only that they are there, and that those that follow from others do.
"""

from __future__ import annotations

import json
import statistics

import pytest
from PIL import Image

from bnas_larq.benchmark.configurations import Configuration, configurations
from bnas_larq.errors import BnasLarqError

TINY = "--cells 1 --channels 2 --batch-size 4 --image-size 8 --steps 2".split()


CHAIN = """
network: {kind: residual, widths: [4, 8], blocks: [1, 1]}
train: {stages: [{kernels: real}, {optimizer: adam}]}
"""


@pytest.fixture(scope="module")
def measured(in_one_process, tmp_path_factory):
    """A search step, a training step, the JSON file of another, which is refused a second time,
    and is compared with; and the step of a recipe."""
    path = tmp_path_factory.mktemp("benchmark") / "steps.json"
    chain = [*"--batch-size 4 --image-size 8 --steps 1 --against".split(), path]
    lines = [
        ["benchmark", "search-step", *TINY, "--mixed-precision", "bfloat16", "--json"],
        ["benchmark", "train-step", "bnas_imagenet", *TINY, "--json", "--profile"],
        ["benchmark", "train-step", *TINY, "--data", "synthetic", "--output", path],
        ["benchmark", "train-step", *TINY, "--output", path],
        ["benchmark", "train-step", *TINY, "--data", "synthetic", "--against", path, "--json"],
        ["benchmark", "train-step", "--recipe", path.with_name("chain.yaml"), *chain],
    ]
    path.with_name("chain.yaml").write_text(CHAIN)
    done = in_one_process(lines)
    assert [end.code for end in done] == [0, 0, 0, 2, 0, 0], [end.err for end in done]
    return done, path


def test_a_search_step(measured):
    (record,) = json.loads(measured[0][0].out)
    assert record["benchmark"] == "search-step"
    assert record["settings"] == {
        "space": "bnas",
        "cells": 1,
        "channels": 2,
        "size": "1 cells of 2 channels",
        "batch_size": 4,
        "mixed_precision": "bfloat16",
        "data": "digits",
        "input_shape": [8, 8, 3],
        "num_classes": 10,
        "steps": 2,
    }
    assert record["precision"]["name"] == "bfloat16"
    check_arithmetic(record)


def test_a_training_step_and_its_profile(measured):
    (record,) = json.loads(measured[0][1].out)
    settings = record["settings"]
    assert (settings["target"], settings["stem"]) == ("bnas_imagenet", "cifar")
    assert settings["genotype"].startswith("bnas") or settings["genotype"]
    check_arithmetic(record)
    profile = record["profile"]
    kinds = {row["name"] for row in profile["kinds"]}
    assert {"convolutions, forward", "convolutions, kernel gradients", "optimizer"} <= kinds
    assert sum(row["share"] for row in profile["kinds"]) == pytest.approx(1)


def check_arithmetic(record):
    """What follows from other figures of the record."""
    settings, step, name = record["settings"], record["step"], record["precision"]["name"]
    macs = sum(record["arithmetic"]["macs_per_image"].values())
    assert record["arithmetic"]["flops"] == 2 * settings["batch_size"] * macs
    assert set(record["matmul"]) == {"float32", "bfloat16"}
    for dtype, rate in record["matmul"].items():
        assert record["floors"][dtype] == pytest.approx(record["arithmetic"]["flops"] / rate)
    floor = record["floors"][name]
    assert record["floor_seconds"] == floor
    assert len(step["seconds"]) == settings["steps"]
    assert step["median_seconds"] == pytest.approx(statistics.median(step["seconds"]))
    assert step["best_seconds"] == min(step["seconds"])
    for statistic in ("median", "best"):
        assert record["ratio"][statistic] == pytest.approx(step[f"{statistic}_seconds"] / floor)
    first = record["first_step"]
    parts = ("build_seconds", "trace_seconds", "compile_and_run_seconds")
    assert first["total_seconds"] == pytest.approx(sum(first[part] for part in parts))
    waits = record["waiting"]["seconds"]
    share = sum(waits) / (sum(waits) + sum(step["seconds"]))
    assert record["waiting"]["share"] == pytest.approx(share)
    assert record["memory"]["peak_bytes"] >= record["memory"]["before_bytes"] > 0
    assert record["machine"]["cores"] >= 1 and record["machine"]["cpu"]
    assert record["environment"]["packages"]["tensorflow"]


def test_the_text_and_the_file_say_the_same(measured):
    done, path = measured
    (record,) = json.loads(path.read_text())
    first, *lines = done[2].out.splitlines()
    assert first.startswith(
        "train-step: bnas_cifar, 1 cells of 2 channels, batch 4, 8×8×3, 10 classes, float32, data "
        "synthetic"
    )
    assert record["settings"]["data"] == "synthetic"
    inference, passes = record["inference"], record["arithmetic"]["macs_per_image"]
    share = passes["forward"] / sum(passes.values())
    assert inference["floor_seconds"] == pytest.approx(record["floors"]["float32"] * share)
    assert inference["evaluation_seconds"] > 0 and inference["reestimation_seconds"] >= 0
    labels = ("machine", "matrix products", "floor", "step", "ratio", "first step", "memory")
    for label in (*labels, "evaluation"):
        assert any(line.startswith(label) for line in lines), label
    assert f"{record['ratio']['median']:.2f} × the float32 floor" in done[2].out


def test_an_earlier_file_is_compared_with(measured):
    done, path = measured
    (earlier,) = json.loads(path.read_text())
    (record,) = json.loads(done[4].out)
    against = record["against"]
    assert against["median_seconds"] == earlier["step"]["median_seconds"]
    assert against["ratio"] == earlier["ratio"]["median"] and against["same_cpu"]
    speedup = against["median_seconds"] / record["step"]["median_seconds"]
    assert against["speedup"] == pytest.approx(speedup)


def test_a_recipes_network_is_measured(measured):
    lines = measured[0][5].out.splitlines()
    assert lines[0].startswith(
        "train-step: chain, residual blocks 1+1 of 4+8 channels, batch 4, 8×8×3"
    )
    # No earlier measurement had this network.
    assert lines[-1].endswith("not measured earlier")


def test_a_file_is_not_overwritten_unasked(measured):
    done, path = measured
    assert done[3].errors == [
        f"Error: Nothing is overwritten unasked. Received: {path}, which exists. "
        "Choose another file or add --overwrite."
    ]


def test_several_configurations_make_a_table_of_separate_processes(in_one_process, tmp_path):
    path = tmp_path / "table.json"
    path.write_text("earlier")
    sizes = "--cells 1,2 --channels 2 --batch-size 4 --image-size 8 --steps 1".split()
    line = ["benchmark", "train-step", "random:two-nodes:3", *sizes]
    (done,) = in_one_process([[*line, "--output", path, "--overwrite"]])
    assert done.code == 0, done.err
    records = json.loads(path.read_text())
    assert [record["settings"]["cells"] for record in records] == [1, 2]
    assert len({record["first_step"]["total_seconds"] for record in records}) == 2
    header, *rows = done.out.splitlines()
    assert header.split()[:4] == ["cells", "channels", "batch", "precision"]
    assert [row.split()[:4] for row in rows[:2]] == [
        ["1", "2", "4", "float32"],
        ["2", "2", "4", "float32"],
    ]


def test_a_table_varies_cells_and_batch_one_at_a_time():
    varied = configurations([8], [16], [64], "both", table=True)
    sizes = [(4, 64), (8, 64), (16, 64), (8, 32), (8, 128)]
    assert varied == [
        Configuration(cells, 16, batch, precision)
        for precision in ("float32", "bfloat16")
        for cells, batch in sizes
    ]
    assert configurations([4, 8], [2, 6], [1], "auto", table=False) == [
        Configuration(4, 2, 1, "auto"),
        Configuration(8, 2, 1, "auto"),
        Configuration(4, 6, 1, "auto"),
        Configuration(8, 6, 1, "auto"),
    ]
    with pytest.raises(BnasLarqError, match="--table varies one number"):
        configurations([4, 8], [16], [64], "float32", table=True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["search-step", "--space", "bnsa"], "Received: 'bnsa'; did you mean 'bnas'"),
        (["search-step", "--cells", "0"], "range such as 8-20, from 1 to 9999."),
        (["search-step", "--batch-size", "10000"], "range such as 8-20, from 1 to 9999."),
        (["search-step", "--overwrite"], "replaces an earlier --output, which is missing"),
        (["search-step", "--channels", "1"], "at least two channels"),
        (["search-step", "--batch-size", "x"], "'x' is no number"),
        (["search-step", "--steps", "0"], "--steps"),
        (["search-step", "--image-size", "0"], "'0' is no size"),
        (["search-step", "--mixed-precision", "float16"], "'float16' is not one of"),
        (["search-step", "--table", "--cells", "2,3"], "--table varies one number"),
        (["search-step", "--output", "gone/steps.json"], "a folder that exists"),
        (["search-step", "--data", "synthetic", "--data-dir", "."], "not read from a folder"),
        (["search-step", "--data", "digits", "--data-dir", "."], "digits are in no folder"),
        (["input", ".", "--data", "digits"], "digits are in no folder"),
        (["search-step", "--data", "digits", "--batch-size", "5000"], "larger than the training"),
        (["train-step", "bnas_cifra"], "did you mean 'bnas_cifar'"),
        (["train-step", "larq_zoo:QuickNet"], "'larq_zoo:QuickNet', a larq_zoo network"),
        (["train-step", "--cells", "0"], "'0' is no number"),
        (["train-step", "bnas_cifar", "--recipe", "teacher-cifar10"], "is of one network"),
        (["train-step", "--recipe", "bnas"], "no network before its search. Received: bnas"),
        (["train-step", "--recipe", "teacher-cifar10", "--cells", "3"], "made of cells have cells"),
        (["train-step", "--against", "README.md"], "a file that `--output` wrote"),
        (["train-stop"], "did you mean 'train-step'"),
    ],
)
def test_mistakes_end_with_one_sentence(refuse, args, message):
    assert message in refuse("benchmark", *args)


def test_the_input_alone_and_a_dry_run(in_one_process, tmp_path):
    """Figures of a folder of pictures, and of a training that is not run."""
    for number in range(12):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (20 * number, 0, 0)).save(path)
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(f"data: {{name: cifar10}}{CHAIN}")
    small = "--image-size 16 --batch-size 4 --batches 2".split()
    dry = ["run", recipe, "--dry-run", "--device", "4xA=1e12"]
    measured, text, forecast, refused, nothing = in_one_process(
        [
            ["benchmark", "input", tmp_path / "images", *small, "--json"],
            ["benchmark", "input", tmp_path / "images", *small],
            dry,
            ["run", recipe, "--images", "3"],
            [*dry, "--resume", "--out", tmp_path / "run", "--strategy", "mirrored"],
        ]
    )
    record = json.loads(measured.out)
    assert record["settings"]["augmentation"]["color_jitter"] == [0.4, 0.4, 0.4, 0.2]
    assert record["images_per_second"] > 0 and record["settings"]["image_size"] == [16, 16]
    assert "images a second (folder, 10 pictures, 16×16, batches of 4)" in text.out
    assert "45,000 images of cifar10" in forecast.out and "4 × A at 1.000e12" in forecast.out
    assert refused.code == 2 and "without --dry-run" in refused.err
    assert nothing.code == 2 and "Received: --resume, --out, --strategy with it." in nothing.err
