"""keras-tuner's own files of a search, as others may have written them."""

from __future__ import annotations

import pytest

from bnas_larq.errors import RunError
from bnas_larq.files import read_json, write_json


def test_a_trial_s_id_names_no_other_folder(found, tmp_path):
    found(tmp_path, oracle="random", trials=2)
    project = tmp_path / "tuner"
    state, (*_, last) = read_json(project / "oracle.json"), sorted(project.glob("trial_*"))
    trial = read_json(last / "trial.json")
    for order in (state["start_order"], state["end_order"]):
        order[order.index(trial["trial_id"])] = "../../../x"
    write_json(project / "oracle.json", state)
    write_json(last / "trial.json", {**trial, "trial_id": "../../../x"})
    with pytest.raises(RunError, match="A trial's id is a short name. Received: '../../../x' in "):
        found(tmp_path, oracle="random", trials=3)
