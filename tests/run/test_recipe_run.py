"""`Run` in Python: created, opened, resumed, step by step, and published like a run by command."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from bnas_larq import Genotype, Run, SearchSpace
from bnas_larq.errors import (
    BnasLarqError,
    DataError,
    ExportError,
    RecipeError,
    RunError,
    WeightsError,
)
from bnas_larq.files import read_json, read_lines, sha256
from bnas_larq.networks.optimizers import latent_kernels
from bnas_larq.recipe import load_recipe
from bnas_larq.run import export_stage
from bnas_larq.run.deployment import exported_file
from bnas_larq.zoo.published_run import origins

TINY = {
    "data.limit": 160,
    "search.space": "tiny",
    "search.zeroise_competes": False,
    "search.cells": 1,
    "search.channels": 2,
    "search.epochs": 1,
    "network.cells": 1,
    "network.channels": 4,
    "train.epochs": 1,
    "export.enabled": False,
}
ATTENDING = {"teacher": {"model": "previous", "attention": 1.0, "layers": {"gone": "stem_conv"}}}

pytestmark = pytest.mark.usefixtures("small_spaces")


@pytest.fixture(scope="module")
def finished(small_spaces, tmp_path_factory):
    """A run from images to its result."""
    folder = tmp_path_factory.mktemp("python") / "run"
    with Run.create("quickstart", folder, overrides=TINY) as run:
        assert run.result["finished"] is False
        assert run.run() == folder / "result.json"
    return run


def test_a_run_in_python_leaves_what_a_command_leaves(finished):
    assert read_json(finished.folder / "result.json") == finished.result
    assert finished.result["finished"] and finished.result["genotype"] == finished.genotype.id
    environment = read_json(finished.folder / "environment.json")
    assert environment["command"] == ["python"] and environment["packages"]["larq"]
    assert finished.network().output_shape == (None, 10)
    assert load_recipe(finished.folder / "recipe.yaml").train.epochs == 1


def test_single_steps_of_an_opened_run_are_done_once(finished, capsys):
    with Run.open(finished.folder.path) as again:
        before = (again.folder / "weights.h5").read_bytes()
        for step in (again.search, again.train, again.evaluate):
            step()
        assert (again.folder / "weights.h5").read_bytes() == before
        assert again.result == finished.result


def test_an_export_that_is_killed_between_its_files_is_done_again(finished, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    folder = shutil.copytree(finished.folder.path, tmp_path / "run")
    with Run.open(folder) as run:
        run.export()
        with monkeypatch.context() as patch:
            patch.setattr(export_stage, "write_json", stop)
            with pytest.raises(KeyboardInterrupt):
                run.export(again=True, float_storage="float16")
        with pytest.raises(ExportError, match="is not finished. Export it first: bnas-larq export"):
            exported_file(folder)
        run.export()
        assert exported_file(folder)[1]["float_storage"] == "float32"


def test_stages_start_and_learn_from_other_runs(finished, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="bnas_larq")
    source = shutil.copytree(finished.folder.path, tmp_path / "source" / "run")
    monkeypatch.chdir(source.parent)
    cache = tmp_path / "cache"
    teacher = {"model": "run", "views": 1, "cache": str(cache)}
    real = {"start": "run", "kernels": "real", "activations": "tanh"}
    stages = [real, {"teacher": teacher, "name": "taught"}]
    genotype = {"genotype": str(finished.folder / "genotype.json"), "train.stages": stages}
    overrides = {key: TINY[key] for key in TINY if not key.startswith("search.")} | genotype
    with Run.create("quickstart", tmp_path / "run", overrides=overrides) as run:
        run.train()
        run.evaluate()
    assert latent_kernels(run.network()), "the last stage's kernels are binary"
    assert "1 epochs of stage1, then 1 epochs of" in caplog.text
    rows = read_lines(run.folder / "train" / "metrics.jsonl")
    assert [(row["epoch"], row["stage"]) for row in rows] == [(0, "stage1"), (1, "taught")]
    assert len(list(cache.glob("*/view-*.npy"))) == 1
    assert not (run.folder / "train" / "checkpoints").exists()
    recipe = load_recipe(run.folder / "recipe.yaml")
    first, second = recipe.plan
    assert first.start_sha256 == second.teacher.sha256 == sha256(source / "weights.h5")
    (origin,) = origins(recipe)
    assert (origin.name, origin.source, origin.redistributable) == ("run", "run", True)
    shutil.rmtree(source)
    with Run.create("quickstart", tmp_path / "run", overrides=overrides, resume=True) as run:
        run.run()  # a trained run no longer needs them
        assert run.result["finished"]


def test_it_resumes_with_its_own_recipe_only(finished):
    folder = finished.folder.path
    with pytest.raises(RunError, match="Received: another seed, train than"):
        Run.create(
            "quickstart", folder, overrides={**TINY, "seed": 1, "train.epochs": 2}, resume=True
        )
    # The refusal left no lock behind.
    with Run.create("quickstart", folder, overrides=TINY, resume=True) as run:
        assert run.result["finished"]
    with pytest.raises(RunError, match="needs a new or empty folder"):
        Run.create("quickstart", folder, overrides=TINY)


@pytest.mark.parametrize(
    ("overrides", "settings", "error", "message"),
    [
        ({"train.epoch": 1}, {}, RecipeError, "did you mean 'epochs'"),
        ({"search.batch_size": 1000}, {}, DataError, "batch size 1000"),
        ({"train.momentum": 0.5}, {}, RecipeError, "Received: train.momentum 0.5. Adam has none"),
        ({"train.epochs": 1}, {"stages": ("train",)}, RunError, "Training needs a genotype"),
        ({}, {"resume": True, "overwrite": True}, RunError, "Give one of them"),
        ({"train.stages": [{"freeze": ["konv*"]}]}, {}, RecipeError, "'stage1', which names none"),
        ({"train.stages": [{"freeze": ["*"]}]}, {}, RecipeError, "which is all of them"),
        ({"train.stages": [{}, ATTENDING]}, {}, RecipeError, "Received: 'gone', which is no"),
    ],
)
def test_what_cannot_be_run_writes_nothing(tmp_path, overrides, settings, error, message):
    with pytest.raises(error, match=message):
        Run.create("quickstart", tmp_path / "run", overrides={**TINY, **overrides}, **settings)
    assert not (tmp_path / "run").exists()


def test_batches_fit_the_images_that_train(tmp_path):
    """With `all` also those that are held out while the search chooses: 100 instead of 90."""
    overrides = {**TINY, "data.limit": 100, "train.batch_size": 95}
    with pytest.raises(DataError, match="batch size 95 for 90 examples"):
        Run.create("quickstart", tmp_path / "run", overrides=overrides)
    overrides |= {"train.on": "all"}
    Run.create("quickstart", tmp_path / "run", overrides=overrides).close()
    overrides |= {"train.batch_size": 101}
    with pytest.raises(DataError, match="batch size 101 for 100 examples"):
        Run.create("quickstart", tmp_path / "other", overrides=overrides)


def test_a_scheme_without_a_candidate_of_the_search_writes_nothing(tmp_path):
    """The genotype that is drawn for the check has no dilated convolution, but the search may."""
    drawn = Genotype.random(SearchSpace.bnas(), 19).operations
    assert not any("dil" in operation for operation in drawn)
    overrides = {"search.space": "bnas", "network.scheme": "abc-net-3x1", "seed": 19}
    with pytest.raises(BnasLarqError, match="not dilated. Received: dilation=2 of bin_dil_conv"):
        Run.create("quickstart", tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_weights_that_fit_no_genotype_of_the_size_write_nothing(finished, tmp_path):
    overrides = {
        **TINY,
        "network.channels": 6,
        "train.stages": [{"start": str(finished.folder.path)}],
    }
    with pytest.raises(WeightsError, match="Use the size they were trained with"):
        Run.create("quickstart", tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_what_a_search_may_still_find_is_not_refused(finished, tmp_path):
    """No genotype has both operations on an edge: whichever a check draws lacks one."""
    patterns = ["*node0_from0_max_pool_3x3_pool", "*node0_from0_bin_conv_3x3_conv"]
    stages = [{"start": str(finished.folder.path)}, {"freeze": patterns}]
    overrides = {**TINY, "train.stages": stages}
    Run.create("quickstart", tmp_path / "run", overrides=overrides).close()


def test_training_waits_for_a_search(tmp_path):
    with Run.create("quickstart", tmp_path / "run", overrides=TINY) as run:
        with pytest.raises(RunError, match="whose search is not done. Search first."):
            run.train()


def test_another_process_is_refused_until_the_run_is_closed(finished):
    opening = f"RunFolder.open({str(finished.folder.path)!r}, lock=True)"
    code = f"from bnas_larq.run_folder import RunFolder; {opening}"

    def other() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    with Run.open(finished.folder.path):
        assert "Only one process works in a run folder" in other().stderr
    assert other().returncode == 0
