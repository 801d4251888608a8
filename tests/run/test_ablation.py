"""The sizes of an ablation's rows: the network that trains is the one that was counted."""

from __future__ import annotations

import contextlib

import pytest

from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.network import config_of_kind
from bnas_larq.recipe import parse_recipe
from bnas_larq.run.ablation import Ablation

NETWORK = {"kind": "binary-duo", "widths": [8, 16], "last_width": 64, "blocks": [4, 4]}
FLAT = {"name": "flat", "changes": {"network": {"blocks": [1, 1]}}}


def duo_recipe(**ablation):
    """BinaryDuo's network of many blocks, and of few."""
    return parse_recipe(
        {
            "data": {"name": "digits", "limit": 100},
            "network": NETWORK,
            "train": {"batch_size": 10},
            "ablation": {"rows": [{"name": "deep"}, FLAT], **ablation},
        }
    )


def test_the_last_width_keeps_its_proportion(tmp_path):
    with contextlib.closing(Ablation.create(duo_recipe(tolerance=0.2), tmp_path / "out")) as own:
        deep, flat = (own.recipe_of(f"{row}-seed0").network for row in ("deep", "flat"))
        data, notes = own.study.inputs.data, own._notes()
    assert (deep.widths, deep.last_width) == ((8, 16), 64)
    assert flat.widths[0] > 8 and flat.last_width == 8 * flat.widths[0]
    images = {"input_shape": data.image_shape, "num_classes": data.num_classes}
    one, two = (
        planned_costs(None, config_of_kind("binary-duo", {**part.model_dump(), **images}))
        for part in (deep, flat)
    )
    assert two.ops_honest == pytest.approx(one.ops_honest, rel=0.2)
    assert notes[0].endswith(" 8, 16, 64 channels.")
    assert notes[1].endswith(f" {flat.last_width} channels.")


def test_no_widths_with_equal_operations(tmp_path):
    with pytest.raises(
        BnasLarqError, match=r"no widths and last_width of row 'flat'.*\) and \d+ g"
    ):
        Ablation.create(duo_recipe(tolerance=1e-6), tmp_path / "out")
