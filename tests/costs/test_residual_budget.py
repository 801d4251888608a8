"""Residual networks of equal operations."""

from __future__ import annotations

import pytest

from bnas_larq import ResidualConfig, planned_costs, scale_widths
from bnas_larq.errors import BnasLarqError
from bnas_larq.networks.binary_duo import BinaryDuoConfig

CHAIN = ResidualConfig(input_shape=(16, 16, 3), widths=(8, 16), blocks=(2, 2))


@pytest.mark.parametrize("times", [0.5, 3.0])
def test_the_nearest_widths_in_the_same_proportions(times):
    budget = times * planned_costs(None, CHAIN).ops_honest
    scaled = scale_widths(CHAIN, budget, multiple=1, tolerance=0)
    assert scaled.widths[1] == 2 * scaled.widths[0]
    wider = scaled.replace(widths=(scaled.widths[0] + 1, scaled.widths[1] + 2))
    assert planned_costs(None, scaled).ops_honest <= budget < planned_costs(None, wider).ops_honest


def test_widths_are_multiples():
    config = CHAIN.replace(transition="pool-conv", widths=(6, 15))
    scaled = scale_widths(config, 8 * planned_costs(None, config).ops_honest, multiple=8)
    assert all(width % 8 == 0 for width in scaled.widths)


@pytest.mark.parametrize(("widths", "last_width"), [((4, 6), 10), ((16, 24), 40)])
def test_the_last_convolution_of_binary_duo_is_scaled_too(widths, last_width):
    config = BinaryDuoConfig(input_shape=(16, 16, 3), widths=(8, 12), blocks=(1, 1), last_width=20)
    wanted = config.replace(widths=widths, last_width=last_width)
    budget = planned_costs(None, wanted).ops_honest
    assert scale_widths(config, budget, multiple=1, tolerance=0) == wanted


def test_too_small_a_budget():
    with pytest.raises(BnasLarqError, match="at least the narrowest.* for residual blocks 2.2"):
        scale_widths(CHAIN, 10)
    with pytest.raises(BnasLarqError, match="Received: multiple=0"):
        scale_widths(CHAIN, 1e6, multiple=0)
