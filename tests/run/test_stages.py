"""What a stage counts as its time."""

from __future__ import annotations

import json

import pytest

from bnas_larq.run.stages import Stages
from bnas_larq.run_folder import RunFolder


def test_the_time_of_earlier_processes_counts(tmp_path):
    stages = Stages(RunFolder.create(tmp_path / "run", "name: test\n"), seed=0)
    folder = tmp_path / "run" / "search"
    folder.mkdir()
    assert stages.recorded_seconds("search") == 0
    files = {"metrics.jsonl": (1.5, 2.0), "draws.jsonl": (0.25,), "trials.jsonl": (8.0, 4.0)}
    for name, times in files.items():
        lines = [json.dumps({"seconds": seconds}) for seconds in times]
        (folder / name).write_text("\n".join(lines) + "\n")
    assert stages.recorded_seconds("search") == pytest.approx(3.75 + 12)
    assert stages.recorded_seconds("search", workers=3) == pytest.approx(3.75 + 4)
