"""Variants: the papers' sizes and results as data, and a stem that fits the images."""

from __future__ import annotations

import pytest

from bnas_larq.costs.budget_solver import solve_budget
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import ZooError
from bnas_larq.zoo import factories
from bnas_larq.zoo.variants import VARIANTS, belongs, variant


@pytest.mark.parametrize(
    ("name", "genotype", "cells", "channels"),
    [
        ("bnas-a", "bnas_cifar", 20, 36),
        ("bnas-d", "bnas_imagenet", 12, 64),
        ("bnas-e", "bnas_imagenet", 12, 68),
        ("bnas-f", "bnas_imagenet", 15, 68),
        ("bnas-g", "bnas_imagenet", 11, 74),
        ("bnas-h", "bnas_imagenet", 16, 128),
    ],
)
def test_sizes_are_the_papers(name, genotype, cells, channels):
    config = variant(name).config()
    assert (config.cells, config.channels, config.stem_groups) == (cells, channels, 1)
    assert variant(name).load_genotype().name == genotype
    small = name == "bnas-a"
    assert config.input_shape == ((32, 32, 3) if small else (224, 224, 3))
    assert config.num_classes == (10 if small else 1000)
    assert config.stem == ("cifar" if small else "imagenet")


@pytest.mark.parametrize("name", ["bnas-d-v2", "bnas-d-v2-paper"])
def test_v2_meets_its_budget_at_224_and_is_what_the_solver_finds(name):
    v2 = variant(name)
    config, convention = v2.config(), v2.convention
    costs = planned_costs(v2.load_genotype(), config)
    # 1.48e8 within 1 % counted honestly; the papers' own networks miss it by up to 4 %.
    assert costs.ops(convention) == pytest.approx(
        1.48e8, rel=0.01 if convention == "honest" else 0.02
    )
    settings = {"stem_groups": v2.stem_groups, "shortcut": config.shortcut, "cells": config.cells}
    (best,) = solve_budget(v2.load_genotype(), 1.48e8, convention=convention, **settings)
    assert (best.cells, best.channels) == (config.cells, config.channels)


def test_v2_in_each_convention():
    honest, paper = variant("bnas-d-v2"), variant("bnas-d-v2-paper")
    assert (honest.cells, honest.channels, honest.stem_groups) == (11, 80, 2)
    assert (paper.cells, paper.channels, paper.shortcut) == (12, 88, "conv")
    assert (honest.shortcut, honest.config().shortcut) == ("pool", "pool")
    assert [v.call for v in (honest, paper, variant("bnas-d"))] == [
        'BNASDv2(convention="honest")',
        'BNASDv2(convention="paper")',
        "BNASD()",
    ]


@pytest.mark.parametrize(
    ("entry", "wanted", "expected"),
    [
        ("bnas-d", None, True),
        (None, None, True),
        (None, "bnas-d", False),
        ("bnas-d", "bnas-d", True),
        ("bnas-d-v2", "bnas-d", False),
        # One name in earlier releases.
        ("bnas-d-v2", "bnas-d-v2-paper", True),
        ("bnas-d-v2-paper", "bnas-d-v2", True),
    ],
)
def test_whose_entries_a_variant_takes(entry, wanted, expected):
    assert belongs(entry, wanted) == expected


def test_v2_groups_the_imagenet_stem_only():
    v2 = variant("bnas-d-v2-paper")
    assert (v2.config().cells, v2.config().channels, v2.config().stem_groups) == (12, 88, 4)
    assert v2.config(input_shape=(32, 32, 3)).stem_groups == 1
    assert v2.config(input_shape=(32, 32, 3), stem="imagenet").stem_groups == 4
    assert v2.config(stem_groups=2).stem_groups == 2


def test_reported_results():
    results = {
        (one.name, r.training): (r.top1, r.top5) for one in VARIANTS.values() for r in one.reported
    }
    assert results == {
        ("bnas-a", ""): (92.70, None),
        ("bnas-d", ""): (57.69, 79.89),
        ("bnas-d", "No-Reg"): (61.60, 82.91),
        ("bnas-e", ""): (58.76, 80.61),
        ("bnas-f", ""): (58.99, 80.85),
        ("bnas-g", ""): (59.81, 81.61),
        ("bnas-h", ""): (63.51, 83.91),
        ("bnas-d-v2-paper", ""): (63.82, 84.25),
        ("bnas-d-v2-paper", "Multi-Stage"): (66.03, 85.42),
    }


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(ZooError, match="Received: 'BNASD'; did you mean 'bnas-d'?"):
        variant("BNASD")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_its_factory(name):
    one = variant(name)
    factory = getattr(factories, one.factory)
    assert factory.__name__ == one.factory
    assert f"{one.cells} cells of {one.channels} channels" in factory.__doc__
    # `help(BNASDv2)` describes the network that it builds by default.
    if one.convention != "paper":
        assert all(f"{result.top1:.2f} %" in factory.__doc__ for result in one.reported)
    chosen = {"convention": one.convention} if one.convention else {}
    model = factory(input_shape=(8, 8, 3), cells=1, channels=2, **chosen)
    assert model.name == name.replace("-", "_")
    assert model.output_shape == (None, one.num_classes)
