"""What a run refuses under a strategy, and a run under one in a single process."""

from __future__ import annotations

from contextlib import closing

import pytest

from bnas_larq import Run
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.files import read_json, read_lines
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.run.ablation import Ablation
from bnas_larq.run.creation import resolve_recipe
from bnas_larq.run.layer_study import LayerStudy
from bnas_larq.run.team import Team

TINY = {
    "data.limit": 160,
    "search.space": "tiny",
    "search.zeroise_competes": False,
    "search.cells": 1,
    "search.channels": 2,
    "search.epochs": 1,
    "search.mixed_precision": "float32",
    "network.cells": 1,
    "network.channels": 4,
    "train.epochs": 1,
    "train.mixed_precision": "float32",
    "export.enabled": False,
}

pytestmark = pytest.mark.usefixtures("small_spaces")


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("quickstart", {"search.searcher": "tuner"}, "search.searcher tuner. Omit --strategy"),
        ("quickstart", {"train.accumulate": 2}, "train.accumulate above 1"),
        ("quickstart", {"train.checkpoint_minutes": 5}, "checkpoint_minutes 5. Set it to 0"),
        ("quickstart", {"search.checkpoint_minutes": 5}, "checkpoint_minutes 5. Set it to 0"),
        ("layer-study", {"train.accumulate": 2}, "train.accumulate above 1"),
    ],
)
def test_what_does_not_run_under_a_strategy_is_refused(tmp_path, recipe, overrides, message):
    folder, stages = tmp_path / "run", ("search", "train", "study")
    settings = {"overrides": overrides, "stages": stages, "strategy": "mirrored"}
    with pytest.raises(RecipeError, match=message):
        Run.create(recipe, folder, **settings)
    assert not folder.exists()


def test_a_given_genotype_trains_whatever_its_search_was():
    """Only what is done counts."""
    recipe = load_recipe("quickstart", ["genotype=random:1", "search.searcher=tuner"])
    assert Team.of("mirrored", recipe, ("search", "train")).is_chief


def test_a_row_of_an_ablation_that_does_not_run_under_a_strategy_is_refused(tmp_path):
    """All rows are looked at before anything is written."""
    train = {"epochs": 1, "batch_size": 10}
    rows = [{"name": "one"}, {"name": "parts", "changes": {"train": {"accumulate": 2}}}]
    recipe = {"genotype": "random:1", "data": {"name": "digits", "limit": 100}, "train": train}
    recipe = parse_recipe({**recipe, "network": {"cells": 1}, "ablation": {"rows": rows}})
    with pytest.raises(RecipeError, match="train.accumulate above 1"):
        Ablation.create(recipe, tmp_path / "study", strategy="mirrored")
    assert not list(tmp_path.iterdir())


def test_an_unknown_strategy_writes_nothing(tmp_path):
    with pytest.raises(BnasLarqError, match="did you mean 'mirrored'"):
        Run.create("quickstart", tmp_path / "run", strategy="mirored")
    assert not list(tmp_path.iterdir())


def test_a_single_replica_ends_with_the_weights_of_no_strategy(tmp_path):
    """Bit by bit, through search and training: only where replicas share a batch sums differ."""
    results = []
    for name, strategy in (("alone", None), ("mirrored", "mirrored")):
        with Run.create("quickstart", tmp_path / name, overrides=TINY, strategy=strategy) as run:
            run.run()
            assert run.result["finished"]
        rows = [read_lines(run.folder / stage / "metrics.jsonl") for stage in ("search", "train")]
        rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in of] for of in rows]
        results.append((read_lines(run.folder / "search/alphas.jsonl"), rows, run.network()))
    (alphas, rows, alone), (of_strategy, other_rows, network) = results
    assert alphas == of_strategy
    assert rows == other_rows
    for one, other in zip(alone.weights, network.weights, strict=True):
        assert (one.numpy() == other.numpy()).all()


def test_a_study_under_a_strategy_ends_with_the_same_table(tmp_path):
    study = {"layers": ["conv_3x3"], "precisions": ["binary"]}
    changes = {"data.name": "digits", "data.limit": 100, "layer_study": study}
    changes |= {"network.cells": 1, "network.channels": 4, "train.epochs": 1}
    recipe, tables = resolve_recipe("layer-study", changes), []
    for name, strategy in (("alone", None), ("mirrored", "mirrored")):
        with closing(LayerStudy.create(recipe, tmp_path / name, strategy=strategy)) as made:
            table, path = made.run()
        tables.append((table, {**read_json(path)["networks"][0], "seconds": None}))
    assert tables[0] == tables[1]
    assert tables[0][1]["test_accuracy"] is not None
