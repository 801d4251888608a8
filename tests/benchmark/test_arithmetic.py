"""Floors: what a step multiplies, as visible arithmetic."""

from __future__ import annotations

import dataclasses

import pytest

from bnas_larq.benchmark.arithmetic import bilevel_arithmetic, training_arithmetic
from bnas_larq.costs.accounting import count_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.spaces import SearchSpace

#: Positions of a kernel in the four binary convolutions: 3×3 and 5×5, plain and dilated.
WINDOWS = 9 + 25 + 9 + 25


def test_the_papers_search_step_is_about_1_28_teraflop():
    """8 cells, 16 channels, batches of 64 images of 32×32."""
    # Channels double where the area is quartered: an edge costs the same in every cell.
    edge = WINDOWS * 16 * 16 * 32 * 32
    cells = 8 * 14 * edge
    stem = 9 * 3 * 48 * 32 * 32
    # Both inputs of each cell, 1×1; 3×3 for the older one right after a reduction (cells 3 and 6).
    preprocess = {
        0: (48 + 48) * 16 * 32**2,
        1: (48 + 64) * 16 * 32**2,
        2: (64 + 64) * 32 * 32**2,  # reduces behind its preprocessing
        3: 9 * 64 * 32 * 16**2 + 128 * 32 * 16**2,
        4: (128 + 128) * 32 * 16**2,
        5: (128 + 128) * 64 * 16**2,
        6: 9 * 128 * 64 * 8**2 + 256 * 64 * 8**2,
        7: (256 + 256) * 64 * 8**2,
    }
    shortcuts = 4 * 64 * 128 * 16**2 + 4 * 128 * 256 * 8**2
    classifier = 256 * 10
    forward = cells + stem + sum(preprocess.values()) + shortcuts + classifier
    # α is not before the stem, the first cell's inputs and the second cell's older input, the
    # stem's output: they and the 4 + 4 and 4 edges that leave them need no gradient for α.
    untouched = stem + preprocess[0] + 48 * 16 * 32**2 + (4 + 4 + 4) * edge

    step = bilevel_arithmetic(SearchSpace.bnas(), 10, cells=8, channels=16, input_shape=(32, 32, 3))
    assert step.passes == {
        "alpha forward": forward,
        "alpha input gradients": forward - untouched,
        "weights forward": forward,
        "weights input gradients": forward,
        "weights kernel gradients": forward,
    }
    assert step.flops(64) == 2 * 64 * (5 * forward - untouched)
    assert step.flops(64) == pytest.approx(1.28e12, rel=0.005)
    # The floors: 5.8 s at 220 GFLOP/s, 3.05 s at 420.
    assert step.floor(64, 220e9) == pytest.approx(5.8, abs=0.05)
    assert step.floor(64, 420e9) == pytest.approx(3.05, abs=0.01)


def test_one_cell_with_one_candidate():
    space = SearchSpace.bnas()
    small = dataclasses.replace(
        space,
        normal=("none", "bin_conv_3x3"),
        reduce=("none", "bin_conv_3x3"),
        nodes=2,
        shortcut=False,
    )
    step = bilevel_arithmetic(small, 3, cells=1, channels=4, input_shape=(8, 8, 3))
    stem, inputs = 9 * 3 * 12 * 64, 2 * 12 * 4 * 64
    edges, classifier = 5 * 9 * 4 * 4 * 64, 8 * 3
    assert step.passes["weights forward"] == stem + inputs + edges + classifier
    # Of 5 edges only the one between the nodes has α before it.
    assert step.passes["alpha input gradients"] == edges / 5 + classifier


def test_more_candidates_cost_more_and_free_ones_nothing():
    sizes = {"cells": 3, "channels": 4, "input_shape": (16, 16, 3)}
    space = SearchSpace.bnas()
    whole = bilevel_arithmetic(space, 10, **sizes)
    free = bilevel_arithmetic(
        space.without_operations(["max_pool_3x3", "avg_pool_3x3"]), 10, **sizes
    )
    fewer = bilevel_arithmetic(space.without_operations(["bin_conv_5x5"]), 10, **sizes)
    assert free.passes == whole.passes
    edge = 25 * 4 * 4 * 16 * 16
    assert whole.passes["alpha forward"] - fewer.passes["alpha forward"] == 3 * 14 * edge


def test_the_imagenet_stem_reads_images_that_need_no_gradient():
    step = bilevel_arithmetic(
        SearchSpace.bnas(), 10, cells=1, channels=4, input_shape=(32, 32, 3), stem="imagenet"
    )
    first = 9 * 3 * 2 * 16 * 16
    passes = step.passes
    assert passes["weights forward"] - passes["weights input gradients"] == first


@pytest.mark.parametrize(("side", "first"), [(8, 0), (96, 9 * 3 * 4 * 48 * 48)])
def test_a_training_step_is_three_passes(side, first):
    """`first`: the convolution that reads the images themselves, in the ImageNet stem only."""
    config = NetworkConfig(input_shape=(side, side, 3), num_classes=3, channels=8, cells=3)
    genotype = Genotype.published("bnas_imagenet")
    costs = count_costs(build_network(genotype, config))
    macs = costs.binary_macs + costs.full_precision_macs
    step = training_arithmetic(genotype, config)
    assert step.passes == {
        "forward": macs,
        "input gradients": macs - first,
        "kernel gradients": macs,
    }
    assert step.to_dict(5) == {
        "macs_per_image": step.passes,
        "flops": 2 * 5 * (3 * macs - first),
    }


def test_impossible_sizes_are_refused():
    with pytest.raises(BnasLarqError, match="Received: cells=0"):
        bilevel_arithmetic(SearchSpace.bnas(), 10, cells=0, channels=4, input_shape=(8, 8, 3))
