"""Two steps of shipped recipes under MirroredStrategy on two logical CPUs, in a process of its own;
`python tests/two_replica_recipes.py FOLDER RECIPE…` tries others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnas_larq.cli.main import main
from bnas_larq.recipe import load_recipe
from bnas_larq.resources import recipe_names
from bnas_larq.run.creation import needs_search

#: Together they go every way that a shipped recipe goes under a strategy, see `ways`.
RECIPES = ("quickstart", "bats", "bnas-nano", "real-to-bin18", "binary-duo18")
#: What a strategy refuses, and the part of its message that says why.
REFUSED = {
    "search-imagenet": "checkpoint_minutes 15. Set it to 0",
    "evolution": "search.searcher tuner",
}
#: Ways that test_strategies.py and test_multi_worker.py go.
ELSEWHERE = {"a one-shot search", "a bandit search", "a study"}


def ways(name):
    """What a recipe uses of the code that has a part of its own under a strategy. Losses,
    relaxations and optimizers are test_strategies.py's."""
    recipe = load_recipe(name)
    used = {f"a network of kind {recipe.network.kind}"}
    if recipe.study:
        used.add("a study")
    elif needs_search(recipe):
        used.add(f"a {recipe.search.searcher} search")
    for stage in recipe.train.stages:
        used.add("stages")
        used |= {f"start {stage.start}"} if stage.start else set()
        used |= {"crops"} if stage.crop_size else set()
        if (teacher := stage.teacher) is not None:
            used.add("the previous teacher" if teacher.is_previous else "a teacher")
            used |= {key for key in ("attention", "views", "cache") if getattr(teacher, key)}
    return used


def test_recipes_search_and_train_on_two_replicas(tmp_path):
    script = Path(__file__).with_name("two_replica_recipes.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, *RECIPES],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [*RECIPES]


@pytest.mark.parametrize("name", sorted({*recipe_names()} - {*REFUSED, *RECIPES}))
def test_every_other_recipe_goes_ways_that_those_go(name):
    assert ways(name) <= set().union(ELSEWHERE, *map(ways, RECIPES))


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_the_rest_is_refused_before_anything_is_written(capsys, tmp_path, name, reason):
    folder = tmp_path / "run"
    assert main(["run", name, "--strategy", "mirrored", "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"Received: {reason}" in error
    assert "mit --strategy." in error and error.count("\n") == 1
    assert not folder.exists()
