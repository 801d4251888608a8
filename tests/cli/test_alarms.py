"""A search that an alarm stops, and that goes on when it is told to."""

from __future__ import annotations

import pytest

from bnas_larq.files import read_lines


@pytest.fixture(scope="module")
def searches(in_one_process, tiny, tmp_path_factory):
    """Stopped, resumed as it was, and resumed with a warning."""
    folder = tmp_path_factory.mktemp("alarms") / "run"
    # Any α that has moved at all is an alarm, in the first of two epochs.
    line = ["search", tiny, "--set", "search.epochs=2", "--set", "search.alarms.entropy=0.9999999"]
    stop, warn = (["--set", f"search.alarms.action={action}"] for action in ("stop", "warn"))
    line += ["--set", "search.space=tiny", "--set", "search.zeroise_competes=false"]
    line += ["--out", folder]
    return folder, in_one_process(
        [[*line, *stop], [*line, *stop, "--resume"], [*line, *warn, "--resume"]]
    )


def test_it_ends_with_the_reason_each_time(searches):
    _, (first, again, _) = searches
    for done in (first, again):
        assert done.code == 2
        (error,) = done.errors
        assert "Received: entropy of α at " in error and ", in epoch 1." in error
        assert "resume with search.alarms.action=warn" in error
    assert "alarm in epoch 1: entropy" in first.err
    assert "epoch 2/2" not in again.err


def test_it_goes_on_where_it_stopped(searches):
    folder, (_, _, resumed) = searches
    assert resumed.code == 0, resumed.err
    assert "epoch 1/2" not in resumed.err and "epoch 2/2" in resumed.err
    for name in ("metrics.jsonl", "alphas.jsonl", "alarms.jsonl"):
        rows = read_lines(folder / "search" / name)
        assert [row["epoch"] for row in rows] == [0, 1]
    assert [row["alarms"] for row in rows] == [["entropy"], []]
    assert "Alarm entropy in epoch 1" in (folder / "report.html").read_text(encoding="utf-8")
