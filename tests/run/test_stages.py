"""What a stage counts as its time."""

from __future__ import annotations

import json

import pytest

from bnas_larq.backend import tf
from bnas_larq.cli.main import main
from bnas_larq.errors import RunError
from bnas_larq.genotype import Genotype
from bnas_larq.recipe import load_recipe
from bnas_larq.run.stages import Stages, collect_result
from bnas_larq.run_folder import RunFolder


def test_the_time_of_earlier_processes_counts(tmp_path):
    stages = Stages(RunFolder.create(tmp_path / "run", "name: test\n"), seed=0)
    folder = tmp_path / "run" / "search"
    folder.mkdir()
    assert stages.recorded_seconds("search") == 0
    files = {"metrics.jsonl": (1.5, 2.0), "draws.jsonl": (0.25,), "trials.jsonl": (8.0, 4.0)}
    files["perturbation.jsonl"] = (0.5,)
    for name, times in files.items():
        lines = [json.dumps({"seconds": seconds}) for seconds in times]
        (folder / name).write_text("\n".join(lines) + "\n")
    assert stages.recorded_seconds("search") == pytest.approx(4.25 + 12)
    assert stages.recorded_seconds("search", workers=3) == pytest.approx(4.25 + 4)


def test_a_search_whose_genotype_is_lost_is_done_again(tmp_path):
    """And with it, what came from it."""
    folder = RunFolder.create(tmp_path / "run", "name: test\n")
    stages, genotype = Stages(folder, seed=0), Genotype.published("bnas_cifar")
    found = []

    def search():
        found.append(genotype.save(folder / "genotype.json"))
        return {"genotype": genotype.id}

    for _ in range(2):
        stages.do("search", search)
    folder.mark_done("train")
    assert len(found) == 1 and stages.is_done("search")
    (folder / "search").mkdir()
    (folder / "search" / "metrics.jsonl").write_text('{"seconds": 1.5}\n')
    (folder / "genotype.json").unlink()
    assert not stages.is_done("search")
    stages.do("search", search)
    assert stages.recorded_seconds("search") == 0, "it began with the first epoch"
    assert len(found) == 2 and stages.is_done("search") and not folder.stage_done("train")


def test_a_network_without_cells_has_no_genotype_to_lose(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "name: test\n")
    folder.mark_done("search", searched=False)
    assert Stages(folder, seed=0).is_done("search")


@pytest.mark.parametrize("several", ["study", "comparison"])
def test_a_study_has_no_result_of_a_single_run(tmp_path, capsys, several):
    recipe = load_recipe("layer-study" if several == "study" else "compare-cifar10")
    folder = RunFolder.create(tmp_path / "run", recipe.to_yaml())
    if several == "comparison":
        (folder / "plan.json").write_text("{}")
    with pytest.raises(RunError, match="run, a study or comparison. Name one of the runs inside"):
        collect_result(Stages(folder, seed=0), recipe, None)
    folder.unlock()
    publish = ("zoo", "publish", "--name", "one")
    for command in (["evaluate"], ["evaluate", "--tflite"], ["export"], ["cost"], publish):
        assert main([*command, str(folder.path)]) == 2
        assert "study or comparison. Name one of the runs inside" in capsys.readouterr().err


def test_a_batch_that_memory_does_not_hold_is_a_sentence(tmp_path):
    stages = Stages(RunFolder.create(tmp_path / "run", "name: test\n"), seed=0)
    with pytest.raises(RunError, match="OOM when allocating .* Lower batch_size, or use train.acc"):
        stages.do("train", lambda: tf.random.normal([10**5, 10**5, 10**5]))

    def full_disk():
        raise tf.errors.ResourceExhaustedError(None, None, "events; No space left on device")

    with pytest.raises(tf.errors.ResourceExhaustedError):
        stages.do("train", full_disk)
