"""The progressive search on tiny images: its stages, what each leaves, kill and resume."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError
from bnas_larq.files import read_lines
from bnas_larq.search.progressive_search import (
    ProgressiveSearch,
    check_stages,
    stage_seed,
    stage_settings,
    strongest,
)
from bnas_larq.settings import SearchSettings
from bnas_larq.spaces import SPACES, SearchSpace

OPERATIONS = ("none", "max_pool_3x3", "identity", "bin_group_conv_3x3")
SETTINGS = {
    "space": "tiny-bats",
    "searcher": "progressive",
    "progressive": {"cells": (1, 2), "kept": (2,)},
    "channels": 4,
    "groups": 2,
    "kernels": "real",
    "scheme": "binarynet",
    "optimizer": "adam",
    "learning_rate": 0.001,
    "epochs": 4,
    "alpha_start_epoch": 1,
    "alpha_learning_rate": 0.05,
    "softmax_temperature": (0.2, 0.15),
    "entropy_weight": 0.0,
    "zeroise_competes": False,
    "select": "final",
    "alarms": {"action": "off"},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_space():
    space = SearchSpace("tiny-bats", OPERATIONS, OPERATIONS, nodes=1, shortcut="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPACES, "tiny-bats", lambda: space)
        yield


def search(**settings):
    return ProgressiveSearch(SearchSettings(**{**SETTINGS, **settings}), 2, (8, 8, 3), seed=1)


def test_stages_share_the_epochs_and_start_alpha_anew():
    stages = stage_settings(SearchSettings(searcher="progressive", epochs=75, alpha_start_epoch=10))
    assert [(s.cells, s.epochs, s.alpha_start_epoch) for s in stages] == [
        *((5, 25, 10), (11, 50, 35), (17, 75, 60))
    ]


def test_every_stage_of_every_seed_has_a_seed_of_its_own():
    seeds = {stage_seed(seed, number) for seed in (0, 1, 2**32 - 1) for number in range(3)}
    assert len(seeds) == 9 and all(0 <= seed < 2**32 for seed in seeds)
    make_deterministic(stage_seed(2**32 - 1, 2))


def test_the_strongest_candidates_are_kept():
    kept = strongest([[0.5, -1e9, 0.7, 0.6], [-1e9, 0.1, 0.1, 0.1]], 2)
    assert kept.tolist() == [[False, False, True, True], [False, True, True, False]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"progressive": {"cells": (1, 2), "kept": (4,)}}, "fewer candidates .*whose edges have 4"),
        ({"alpha_start_epoch": 2}, "trains α in at least one epoch.*for 2 stages"),
        ({"epochs": 1}, "trains α in at least one epoch. Received: search.epochs 1"),
    ],
)
def test_stages_that_cannot_be(settings, message):
    with pytest.raises(RecipeError, match=message):
        check_stages(SearchSettings(**{**SETTINGS, **settings}))
    with pytest.raises(RecipeError, match=message):
        search(**settings)


@pytest.mark.parametrize(
    ("progressive", "message"),
    [
        ({"cells": (5, 11), "kept": (5, 3)}, "kept has a number for each of cells but the last"),
        ({"cells": (5, 11, 17), "kept": (3, 5)}, "kept falls from stage to stage"),
        ({"cells": (5, 11), "kept": (1,)}, "greater than or equal to 2"),
    ],
)
def test_settings_that_contradict_themselves(progressive, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(searcher="progressive", progressive=progressive)


class Killed(Exception):
    """Stands for `kill -9`."""


class KillIn(keras.callbacks.Callback):
    """In an epoch whose metrics and α are written, but not its checkpoint."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Killed


def test_a_search_killed_in_either_stage_ends_with_the_same_bits(search_data, tmp_path):
    """Killed in the last epoch of the first stage, and in the second one's."""
    whole = search().run(search_data, folder=tmp_path / "whole", provenance={"seed": 1})
    folder = tmp_path / "killed"
    for epoch in (1, 3):
        with pytest.raises(Killed):
            search().run(search_data, folder=folder, provenance={}, callbacks=[KillIn(epoch)])
    again = search().run(search_data, folder=folder, provenance={"seed": 1})
    rows, others = (read_lines(path / "alphas.jsonl") for path in (tmp_path / "whole", folder))
    assert rows == others and [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert again == whole and again.genotype == whole.genotype
    metrics = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_lines(path)]
        for path in (tmp_path / "whole" / "metrics.jsonl", folder / "metrics.jsonl")
    ]
    assert metrics[0] == metrics[1]
    # Each edge of the second stage has two candidates, and they are the first one's strongest.
    for kind in ("normal", "reduce"):
        first, *_, last = (np.array(row[kind]) for row in rows[1:])
        np.testing.assert_array_equal(last > -1e8, strongest(first, 2))
        # α rest in the first epoch of a stage.
    assert whole.epoch == 4 and rows[0]["normal"] != rows[1]["normal"]
