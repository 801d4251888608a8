"""`auto` precision on the command line: said, written down, and kept by a resumed run."""

from __future__ import annotations

from bnas_larq.files import read_json, write_json


def test_auto_says_what_it_took_and_keeps_it(in_one_process, tiny, tmp_path):
    out = tmp_path / "run"
    line = ["train", tiny, "--genotype", "random:two-nodes:3", "--out", out]
    line += ["--set", "train.epochs=1", "--set", "train.mixed_precision=auto"]
    other = "another machine measured it"
    first = in_one_process([line])[0]
    assert first.code == 0, first.err
    taken = read_json(out / "train" / "precision.json")
    said = f"train: convolutions in {taken['name']}, {taken['reason']}\n"
    assert said in first.err
    # A run killed during the training: its stage is not done, and the choice is there.
    state = read_json(out / "state.json")
    write_json(out / "state.json", {key: state[key] for key in state if key == "search"})
    name = {"float32": "bfloat16", "bfloat16": "float32"}[taken["name"]]
    write_json(out / "train" / "precision.json", {"name": name, "reason": other})
    again = in_one_process([[*line, "--resume"]])[0]
    assert again.code == 0, again.err
    assert f"train: convolutions in {name}, {other}\n" in again.err


def test_an_unknown_precision_is_refused(refuse, tiny, tmp_path):
    line = ["search", tiny, "--out", tmp_path / "run", "--set", "search.mixed_precision=half"]
    assert "'search.mixed_precision'" in refuse(*line)
    assert not (tmp_path / "run").exists()
