"""The gradient search: which α becomes the genotype, and searches that are killed."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.checkpoints import Checkpoints
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError, RunError, TrainingStopped
from bnas_larq.files import read_lines
from bnas_larq.genotype import Edge
from bnas_larq.networks.optimizers import CoupledAdam, CoupledSGD
from bnas_larq.search.gradient_search import GradientSearch, check_epochs, search_space
from bnas_larq.settings import SearchSettings

OPERATIONS = ("none", "max_pool_3x3", "bin_conv_3x3")
pytestmark = pytest.mark.usefixtures("small_spaces")


def make(seed=1, **settings):
    keras.utils.set_random_seed(seed)
    values = {"cells": 1, "channels": 2, "epochs": 3, "alpha_learning_rate": 0.05, **settings}
    return GradientSearch(SearchSettings(space="tiny", **values), 2, (8, 8, 3))


# -- choosing --------------------------------------------------------------------------------------


def alphas(first, second):
    """Logits that make `first` win the edge from state 0 and `second` the one from state 1."""
    return (5.0 * np.eye(3)[[OPERATIONS.index(first), OPERATIONS.index(second)]]).tolist()


def row(epoch, accuracy, op):
    """A line of alphas.jsonl whose normal cell is `op` twice."""
    reduce = alphas("max_pool_3x3", "none")
    return {"epoch": epoch, "val_accuracy": accuracy, "normal": alphas(op, op), "reduce": reduce}


ROWS = [
    row(0, 0.3, "max_pool_3x3"),
    row(1, 0.6, "bin_conv_3x3"),
    row(2, 0.5, "max_pool_3x3"),
]


@pytest.fixture(scope="module")
def searcher(small_spaces):
    return make()


@pytest.fixture
def choose(searcher):
    """`choose` under other settings, without another supernet."""

    def choose(rows, provenance=None, **settings):
        searcher.settings = SearchSettings(space="tiny", **settings)
        return searcher.choose(rows, provenance or {})

    return choose


def test_best_is_the_alpha_that_was_evaluated_best(choose):
    """Neither the epoch before it (FACTS, oddity 4) nor the one after."""
    result = choose(ROWS, {"seed": 3})
    assert (result.epoch, result.validation_accuracy) == (1 + 1, 0.6)
    assert result.genotype.normal == ((Edge("bin_conv_3x3", 0), Edge("bin_conv_3x3", 1)),)
    assert result.genotype.reduce == ((Edge("max_pool_3x3", 0), Edge("none", 1)),)
    assert result.genotype.provenance == {
        "space": "tiny",
        "gamma": 1.0,
        "seed": 3,
        "epoch": 2,
        "select": "best",
    }


def test_alpha_that_were_never_trained_are_not_the_best(choose):
    """Whatever the accuracy of the supernet in the epochs before: they are the initial noise."""
    assert choose(ROWS, alpha_start_epoch=1).epoch == 1 + 1
    assert choose(ROWS, alpha_start_epoch=2).epoch == 2 + 1


def test_final_is_the_last_alpha(choose):
    result = choose(ROWS, select="final")
    assert (result.epoch, result.validation_accuracy) == (2 + 1, 0.5)
    assert result.genotype.count("bin_conv_3x3") == 0
    assert result.genotype.provenance["select"] == "final"


def test_the_last_alpha_can_be_the_best(choose):
    assert choose([*ROWS, row(3, 0.7, "max_pool_3x3")]).epoch == 3 + 1


def test_of_equal_accuracies_the_later_alpha_is_taken(choose):
    result = choose([*ROWS, row(3, 0.6, "max_pool_3x3"), row(4, 0.1, "bin_conv_3x3")])
    assert (result.epoch, result.genotype.count("bin_conv_3x3")) == (3 + 1, 0)


def test_without_held_out_images_the_last_alpha_is_taken(choose):
    rows = [{**line, "val_accuracy": None} for line in ROWS]
    result = choose(rows)
    assert (result.epoch, result.validation_accuracy) == (2 + 1, None)


def test_gamma_of_the_recipe_is_used(choose):
    """Of an edge's shares e : √e : 1, Zeroise has the largest, and the pool once e is e/3."""
    line = {**row(0, 0.5, "none"), "normal": [[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]]}
    assert math.e / 3 < math.exp(0.5) < math.e
    assert choose([line]).genotype.normal[0][0].op == "none"
    result = choose([line], gamma=3.0)
    assert result.genotype.normal[0][0].op == "max_pool_3x3"
    assert result.genotype.provenance["gamma"] == 3.0


def test_a_cell_of_nothing_but_zeroise_stops_the_search(choose):
    message = (
        "needs an edge that carries a signal. Received: Zeroise on every kept edge. Search longer"
    )
    with pytest.raises(TrainingStopped, match=message):
        choose([row(0, 0.5, "none")])
    # One edge is enough, and a reduction cell may do without: the shortcut is still there.
    line = {**row(0, 0.5, "none"), "normal": alphas("none", "bin_conv_3x3")}
    choose([{**line, "reduce": alphas("none", "none")}])


def test_without_a_record_of_alpha_there_is_nothing_to_choose(choose):
    with pytest.raises(
        RunError, match="needs its record of α. Received: an empty or missing alphas"
    ):
        choose([])


def test_weights_of_edges_are_used(choose):
    """Of the one node both edges are kept; without Zeroise the convolution is the next one."""
    line = {**row(0, 0.5, "none"), "betas_normal": [0.0, 1.0], "betas_reduce": [0.0, 0.0]}
    line["normal"] = [[2.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    result = choose([line], zeroise_competes=False)
    assert result.genotype.normal == ((Edge("bin_conv_3x3", 0), Edge("max_pool_3x3", 1)),)


# -- the recipe's settings -------------------------------------------------------------------------


def test_compile_follows_the_settings(searcher):
    """Cosine from 0.025 to 0.001 over all steps; α's Adam; clipping and both decays."""
    searcher.settings = SearchSettings(space="tiny", epochs=50, entropy_weight=0.5)
    searcher.compile(steps_per_epoch=10)
    optimizer, second = searcher.supernet.optimizer, searcher.supernet.alpha_optimizer
    assert isinstance(optimizer, CoupledSGD) and isinstance(second, CoupledAdam)
    assert (optimizer.momentum, optimizer.l2, optimizer.clip_norm) == (0.9, 3e-4, 5.0)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 250, 500, 600)]
    assert rates == pytest.approx([0.025, (0.025 + 0.001) / 2, 0.001, 0.001])
    assert (second.beta_1, second.beta_2, second.epsilon, second.l2) == (0.5, 0.999, 1e-8, 1e-3)
    assert float(second.learning_rate) == pytest.approx(3e-4)
    assert searcher.supernet.diversity.get_config() == {"weight": 0.5, "tau": 7.7}


def test_a_least_rate_above_the_rate_does_not_raise_it(searcher):
    searcher.settings = SearchSettings(space="tiny", learning_rate=0.0005)
    searcher.compile(steps_per_epoch=1)
    assert float(searcher.supernet.optimizer._learning_rate(50)) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"epochs": 10, "alpha_start_epoch": 15}, True),
        ({"epochs": 15, "alpha_start_epoch": 15}, True),
        ({"epochs": 16, "alpha_start_epoch": 15}, False),
        ({"epochs": 10, "alpha_start_epoch": 15, "searcher": "bandit"}, True),
        (
            {
                **{"epochs": 10, "alpha_start_epoch": 15, "searcher": "bandit"},
                "bandit": {"finish_epochs": 0},
            },
            False,
        ),
        ({"epochs": 10, "alpha_start_epoch": 15, "choice": "perturbation"}, False),
    ],
)
def test_alpha_that_decide_are_trained(settings, refused):
    message = r"trains them in at least one epoch. Received: search.epochs \d+ with .*_epoch 15"
    with pytest.raises(RecipeError, match=message) if refused else contextlib.nullcontext():
        check_epochs(SearchSettings(**settings))


# -- one search ------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for `kill -9`."""


class KillInSecondEpoch(keras.callbacks.Callback):
    """Behind its last step, or behind its second one."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.inside and (self.epoch, batch) == (1, 2):
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise Killed


#: A search that draws, with weights of edges and with α that start late.
DRAWING = {
    "relaxation": "gumbel-hard",
    "temperature": (5.0, 0.1),
    "edge_normalization": True,
    "alpha_start_epoch": 1,
}


@pytest.mark.parametrize(
    "settings",
    [{}, DRAWING, {**DRAWING, "checkpoint_minutes": 1e-9}],
    ids=["bnas", "drawing", "drawing, inside the epoch"],
)
def test_a_killed_and_resumed_search_ends_with_the_same_alpha(settings, search_data, tmp_path):
    """Killed after the metrics and α of the second epoch, but before its checkpoint, or inside it.
    The draws after it are those of the uninterrupted search; with them, all that a method may add.
    """
    make_deterministic(0)

    def search(searcher, folder, *callbacks):
        return searcher.run(
            search_data, folder=folder, provenance={"data": "made up"}, callbacks=callbacks
        )

    whole, again = make(**settings), make(seed=2, **settings)
    result = search(whole, tmp_path / "whole")
    with pytest.raises(Killed):
        inside = "checkpoint_minutes" in settings
        search(make(**settings), tmp_path / "cut", KillInSecondEpoch(inside))
    saved = [path.name for _, path in Checkpoints(tmp_path / "cut" / "checkpoints").candidates()]
    steps = ["epoch-00001-step-0000001", "epoch-00001"]
    assert saved == (steps if inside else steps[1:])
    resumed = search(again, tmp_path / "cut")

    assert resumed == result
    assert resumed.genotype.provenance == result.genotype.provenance
    for one, other in zip(again.supernet.weights, whole.supernet.weights, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes(), one.name

    records, metrics = (
        [read_lines(tmp_path / name / file) for name in ("whole", "cut")]
        for file in ("alphas.jsonl", "metrics.jsonl")
    )
    assert records[0] == records[1]
    assert [line["epoch"] for line in records[0]] == [0, 1, 2]
    assert np.shape(records[0][0]["normal"]) == np.shape(records[0][0]["reduce"]) == (2, 3)
    for one, other in zip(*metrics, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}

    # The last line is the last α, and it has moved from its start near 0.
    normal, reduce = (alpha.numpy().tolist() for alpha in whole.supernet.alphas)
    assert (records[0][-1]["normal"], records[0][-1]["reduce"]) == (normal, reduce)
    assert np.abs(normal).max() > 0.01
    # λ·exp(−t/τ), t from 0: also in the epochs after the kill.
    weights = [line["diversity_weight"] for line in metrics[1]]
    assert weights == pytest.approx([math.exp(-t / 7.7) for t in range(3)])
    assert [line["val_accuracy"] for line in metrics[0]] == [
        line["val_accuracy"] for line in records[0]
    ]


@pytest.mark.parametrize(
    ("side", "asked", "stem"),
    [
        (8, "auto", "cifar"),
        (96, "auto", "imagenet"),
        (96, "cifar", "cifar"),
        (32, "imagenet", "imagenet"),
    ],
)
def test_a_search_has_the_stem_of_its_networks(side, asked, stem):
    """A CIFAR stem on 224 pixels would leave the first cell at 224×224."""
    settings = SearchSettings(space="tiny", cells=1, channels=2, stem=asked)
    supernet = GradientSearch(settings, 2, (side, side, 3)).supernet
    assert supernet.get_config()["stem"] == stem
    resolution = side // 8 if stem == "imagenet" else side
    assert supernet.cells[0].compute_output_shape(
        [supernet_state(supernet, state) for state in (0, 1)]
    )[1:3] == (resolution, resolution)


def supernet_state(supernet, state):
    """Shape of a state of the first cell."""
    shape = (None, *supernet.get_config()["input_shape"])
    for layer in [*supernet.stem, *(supernet.second_stem if state else [])]:
        shape = layer.compute_output_shape(shape)
    return tuple(shape)


def test_a_search_may_have_another_template_than_its_space(small_spaces):
    settings = SearchSettings(space="tiny", shortcut=False)
    assert search_space(SearchSettings(space="tiny")).shortcut == "conv"
    assert (search_space(settings).shortcut, search_space(settings).name) == ("none", "tiny")


def test_without_a_validation_part_the_provenance_says_final(choose, caplog):
    caplog.set_level("INFO", logger="bnas_larq")
    rows = [{**row, "val_accuracy": None} for row in ROWS]
    result = choose(rows, select="best")
    assert result.genotype.provenance["select"] == "final" and result.epoch == 3
    assert "without a validation part the last epoch's genotype is taken" in caplog.text
    caplog.clear()
    assert choose(rows[:1], select="best").epoch == 1 and not caplog.text
