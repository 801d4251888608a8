"""Budgets are met by the sizes that were published for them, and every figure is exact."""

from __future__ import annotations

import json

import pytest

from bnas_larq.costs.budget_solver import Candidate, parse_budget, solve_budget
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.layers import operations

CELL = Genotype.published("bnas_imagenet")
SMALL = {"input_shape": (8, 8, 3), "num_classes": 4}


@pytest.fixture
def own_operation(registry):
    """Registers `third`, whose costs follow a polynomial for one in three numbers only."""

    @operations.register_operation("third", "a third of the channels, rounded down")
    def third(context):
        narrow = context.at(f"{context.name}_narrow", context.filters // 3 + 2, context.strides)
        wide = context.at(f"{context.name}_wide", context.filters)
        return [*narrow.binary_input(), *narrow.binary_conv(1), *wide.binary_conv(1), wide.relu()]


def counted(genotype, size: Candidate, **settings) -> Candidate:
    costs = planned_costs(genotype, cells=size.cells, channels=size.channels, **settings)
    return Candidate(
        size.cells,
        size.channels,
        costs.binary_macs,
        costs.full_precision_macs,
        costs.shortcut_macs,
        costs.parameters,
        costs.bytes,
    )


@pytest.mark.parametrize(
    ("budget", "cells", "channels"),
    [("1.476e8", 12, 64), (6.309e8, 16, 128)],
)
def test_published_sizes_are_found(budget, cells, channels):
    (best,) = solve_budget(CELL, budget, cells=cells)
    assert best.channels == channels
    assert best.ops_paper == pytest.approx(parse_budget(budget), rel=1e-3)


def test_bnas_d_v2():
    """A grouped stem makes room for width: 88 channels where BNAS-D has 64, for 1.48e8."""
    settings = {"input_shape": (224, 224, 3), "num_classes": 1000, "stem_groups": 4}
    (best,) = solve_budget(CELL, "1.48e8", cells=12, **settings)
    assert best.channels == 88
    assert best == counted(CELL, best, **settings)
    assert best.ops_paper == pytest.approx(1.48e8, rel=0.02)
    # The next smaller size that four groups divide leaves 15 % unused.
    narrower = planned_costs(CELL, cells=12, channels=80, **settings)
    assert narrower.ops_paper / 1.48e8 == pytest.approx(0.85, abs=0.005)


def test_tolerance():
    (near,) = solve_budget(CELL, 3.02e6, cells=1, tolerance=0.2, multiple=8, **SMALL)
    (strict,) = solve_budget(CELL, 3.02e6, cells=1, tolerance=0, multiple=8, **SMALL)
    assert near.channels == strict.channels + 8
    assert strict.ops_paper < 3.02e6 < near.ops_paper


@pytest.mark.parametrize(
    ("genotype", "cells", "settings"),
    [
        ("bnas_imagenet", [2, 3], {"convention": "honest"}),
        ("bnas_cifar", [3], {"multiple": 1}),
        (
            "bnas_imagenet",
            [1],
            {"input_shape": (96, 96, 3), "multiple": 1, "full_precision": ("cell0_*",)},
        ),
        (([[("third", 0)]], [[("third", 1)]]), [1], {"multiple": 1}),
    ],
)
def test_exact_and_the_best(own_operation, genotype, cells, settings):
    genotype = Genotype.load(genotype) if isinstance(genotype, str) else Genotype(*genotype)
    settings = {**SMALL, **settings}
    budget = 3e7 if settings["input_shape"] == (96, 96, 3) else 1e6
    sizes = solve_budget(genotype, budget, cells=cells, **settings)
    step, convention = settings.pop("multiple", 2), settings.pop("convention", "paper")
    assert sorted(size.cells for size in sizes) == cells
    distances = [abs(size.ops(convention) - budget) for size in sizes]
    assert distances == sorted(distances)
    for size in sizes:
        assert size == counted(genotype, size, **settings)
        assert size.ops(convention) <= 1.02 * budget and size.channels % step == 0
        for channels in (size.channels - step, size.channels + step):
            neighbour = Candidate(size.cells, channels, 0, 0, 0, 0, 0)
            ops = counted(genotype, neighbour, **settings).ops(convention)
            assert abs(ops - budget) >= abs(size.ops(convention) - budget) or ops > 1.02 * budget


def test_sizes_to_choose_from():
    sizes = solve_budget(CELL, 3e6, cells=(2, 1, 1), channels=[4, 8], **SMALL)
    assert sorted(size.cells for size in sizes) == [1, 2]
    assert {size.channels for size in sizes} == {8}
    (wide,) = solve_budget(CELL, 3e7, cells=1, multiple=32, **SMALL)
    assert wide.channels % 32 == 0


def test_to_dict_is_json():
    (best,) = solve_budget(CELL, 3e6, cells=1, **SMALL)
    restored = json.loads(json.dumps(best.to_dict()))
    assert (restored["channels"], restored["ops_paper"]) == (best.channels, best.ops_paper)


@pytest.mark.parametrize(
    ("text", "value"), [("1.48e8", 1.48e8), (148e6, 148e6), ("148M", 148e6), ("0.15 g", 1.5e8)]
)
def test_budgets_as_text(text, value):
    assert parse_budget(text) == pytest.approx(value)


@pytest.mark.parametrize("budget", ["", "x", "-1e8", 0, "nan", "inf", "1e8 OPs"])
def test_budgets_that_are_no_numbers(budget):
    with pytest.raises(BnasLarqError, match="positive number of operations.* Received: "):
        solve_budget(CELL, budget)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "papers"}, "Received: 'papers'; did you mean 'paper'"),
        ({"budget": 10}, "at least the smallest.* Received: 1.000e1 operations"),
        ({"cells": []}, "needs cells to try. Received: none"),
        ({"cells": 0}, "at least one cell"),
        ({"channels": [8, 1]}, "two channels.* Received: cells=1, channels=1"),
        ({"channels": -4}, "Received: cells=1, channels=-4"),
        (
            {"input_shape": (96, 96, 3), "stem_groups": 4, "channels": 10},
            "Received: stem_groups=4, channels=10",
        ),
        ({"multiple": 0}, "Received: multiple=0, tol"),
        ({"tolerance": -0.1}, "Received: multiple=2, tolerance=-0.1"),
        ({"stem_groups": 4}, "CIFAR stem.*has no groups. Received: stem_groups=4"),
        ({"paddin": "same"}, "Received: 'paddin'; did you mean 'padding'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        solve_budget(CELL, **{"budget": 3e6, "cells": 1, **SMALL, **settings})
