"""Dry runs: counts that follow from the recipe, and memory that falls with the parts of a batch."""

import pytest

from bnas_larq.benchmark.arithmetic import training_arithmetic
from bnas_larq.benchmark.forecast import Device, forecast, forecast_text
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.recipe import parse_recipe

RECIPE = {
    "name": "small",
    "genotype": "bnas_cifar",
    "data": {"name": "cifar10", "validation_fraction": 0.1},
    "network": {"cells": 1, "channels": 4},
    "train": {
        "epochs": 3,
        "batch_size": 64,
        "stages": [{"epochs": 2}, {"accumulate": 4}],
    },
}


def test_a_forecast_counts_what_the_recipe_says():
    record = forecast(parse_recipe(RECIPE), [Device.parse("2xA=1e9"), Device.parse("B=1e10")])
    first, second = record["stages"]
    assert record["images"] == 45_000
    assert (first["steps"], second["steps"]) == (2 * (45_000 // 64), 3 * (45_000 // 64))
    config = NetworkConfig((32, 32, 3), 10, cells=1, channels=4)
    flops = training_arithmetic(Genotype.load("bnas_cifar"), config).flops(1)
    assert first["flops_per_image"] == second["flops_per_image"] == flops
    both, single = record["devices"]
    assert both["seconds"] == pytest.approx(5 * (45_000 // 64) * 64 * flops / 2e9)
    assert both["seconds"] == pytest.approx(5 * single["seconds"])
    assert single["images_per_second"] == pytest.approx(1e10 / flops)
    # A quarter of the batch at a time, and the gradients' sums.
    whole, parts = (stage["memory"] for stage in (first, second))
    assert 3 < whole["step"] / parts["step"] < 4.5
    assert whole["gradients"] == 0 < parts["gradients"] < parts["variables"]
    text = forecast_text(record)
    assert "64 in 4 parts, float32" in text and "2 × A at 1.000e9 FLOP/s" in text


def test_classes_that_nobody_knows_are_told():
    data = {"name": "folder", "data_dir": "x", "image_size": 8}
    stages = {"epochs": 1, "batch_size": 8}
    for name, told in (("folder", "1,000 classes (assumed: those"), ("cifar10", "8×8, 10 classes")):
        recipe = parse_recipe({**RECIPE, "data": {**data, "name": name}, "train": stages})
        record = forecast(recipe, [Device.parse("A=1e9")], images=64)
        assert told in forecast_text(record).splitlines()[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genotype": None}, "network is known"),
        ({"data": {"name": "folder", "data_dir": "x"}}, "Give --images"),
    ],
)
def test_what_cannot_be_counted_is_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        forecast(parse_recipe({**RECIPE, **change}))


@pytest.mark.parametrize("text", ["A100", "A100=0", "0xA100=1e9", "=1e9", "A=-1", "A=1e999"])
def test_devices_have_a_name_and_a_rate(text):
    with pytest.raises(BnasLarqError, match="Write 8xA100=2e13"):
        Device.parse(text)
