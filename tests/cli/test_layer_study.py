"""`bnas-larq run` of a layer study: killed in its second network and resumed, on the digits."""

from __future__ import annotations

import csv
import signal
import time

import numpy as np
import pytest

from bnas_larq.errors import GenotypeError, RecipeError
from bnas_larq.files import read_json, read_lines
from bnas_larq.recipe import load_recipe, parse_recipe
from bnas_larq.run.layer_study import Member, check_study, members

STUDY = """\
data: {name: digits, limit: 200, validation_fraction: 0.0}
layer_study: {layers: [sep_3x3]}
network: {cells: 3, channels: 4, shortcut: false, activation_clip: 1.5}
train: {epochs: 8, batch_size: 50, optimizer: adam, schedule: cosine, learning_rate: 0.01,
  drop_path: 0.0}
export: {enabled: false}
"""
NAMES = ["full-sep_3x3", "binary-sep_3x3", "uncentred-sep_3x3"]


@pytest.fixture(scope="module")
def study(start, in_one_process, tmp_path_factory):
    """The folder of a finished study, when its first network was done, and how it ended."""
    root = tmp_path_factory.mktemp("study")
    (root / "study.yaml").write_text(STUDY)
    arguments = ("run", root / "study.yaml", "--out", root / "out")
    process = start(*arguments)
    second = root / "out" / "networks" / NAMES[1] / "train" / "checkpoints" / "epoch-00002"
    while not second.is_dir():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = (root / "out" / "networks" / NAMES[0] / "state.json").stat().st_mtime_ns
    (done,) = in_one_process([[*arguments, "--resume"]])
    assert done.code == 0, done.err
    return root / "out", first, done


def test_every_network_is_a_finished_run_of_its_own(study):
    folder, _, done = study
    assert sorted(path.name for path in (folder / "networks").iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert read_json(folder / "networks" / name / "result.json")["finished"]
        rows = read_lines(folder / "networks" / name / "train" / "metrics.jsonl")
        assert [row["epoch"] for row in rows] == list(range(8))
    assert "Traceback" not in done.err


def test_a_finished_network_is_not_trained_again_and_a_killed_one_goes_on(study):
    folder, first, done = study
    assert (folder / "networks" / NAMES[0] / "state.json").stat().st_mtime_ns == first
    assert f"network 1/3, {NAMES[0]}: already done" in done.err
    resumed = done.err.split(f"network 2/3, {NAMES[1]}")[1].split("network 3/3")[0]
    assert "train epoch 1/8" not in resumed and "train epoch 8/8" in resumed


def test_the_table_is_on_stdout_and_in_the_folder(study):
    folder, _, done = study
    lines = done.out.splitlines()
    assert lines[-1] == str(folder / "layer_study.json")
    assert sum(line.startswith(("FP Acc.", "Bin. Acc.")) for line in lines) == 3
    assert "published" not in done.out, "the published numbers are of CIFAR-10"
    values = read_json(folder / "layer_study.json")
    assert values["finished"] is True
    with open(folder / "layer_study.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for network, row, name in zip(values["networks"], rows, NAMES, strict=True):
        result = read_json(folder / network["folder"] / "result.json")
        assert network["folder"] == row["folder"] == f"networks/{name}"
        assert network["test_accuracy"] == float(row["test_accuracy"]) == result["test_accuracy"]
        assert network["classes"] == 10 and 1 <= network["classes_predicted"] <= 10
    assert (folder / "layer_study.png").stat().st_size > 5000


def test_centring_makes_separable_networks_constant(study):
    """A depthwise kernel has one input channel: minus its own mean it is 0."""
    from bnas_larq.networks.network_files import StoredNetwork

    folder = study[0]
    images = np.random.RandomState(0).normal(size=(16, 8, 8, 3)).astype("float32")
    constant = {}
    for name in NAMES:
        model = StoredNetwork.load(folder / "networks" / name).load_model()
        logits = model.predict_on_batch(images)
        constant[name] = bool(np.all(logits == logits[0]))
    assert constant == {name: name == "binary-sep_3x3" for name in NAMES}
    values = read_json(folder / "layer_study.json")["networks"][1]
    assert (values["scheme"], values["classes_predicted"]) == ("sign-scale-centred", 1)
    assert "The same answer to every image: Bin. Acc. Sep. Conv 3×3" in study[2].out


def test_the_shipped_study_has_the_slides_twelve_networks_and_two_more():
    recipe = load_recipe("layer-study")
    check_study(recipe)
    shipped = members(recipe)
    assert len(shipped) == 14
    uncentred = [member.layer for member in shipped if member.precision == "uncentred"]
    assert uncentred == ["sep_3x3", "sep_5x5"]
    assert recipe.network.shortcut == "none", "it would carry the image past the layers"
    for member in shipped:
        edges = {edge.op for cell in member.genotype().cells for node in cell for edge in node}
        assert edges == {member.operation}
    assert Member("full", "dil_5x5").operation == "bin_dil_conv_5x5"
    named = {"layers": ["bin_conv_3x3", "bin_sep_conv_3x3", "bin_dil_sep_conv_5x5"]}
    own = members(parse_recipe({"layer_study": {**named, "precisions": ["uncentred"]}}))
    assert [member.layer for member in own] == named["layers"][1:]
    assert Member("full", "bin_conv_3x3_linear").operation == "bin_conv_3x3_linear"


@pytest.mark.parametrize(
    ("values", "error", "part"),
    [
        ({"layer_study": {"layers": []}}, RecipeError, "one or more"),
        ({"layer_study": {"layers": ["conv_3x3"] * 2}}, RecipeError, "each named once"),
        ({"layer_study": {"layers": ["conv_7x7"]}}, GenotypeError, "must be registered"),
        ({"layer_study": {}, "genotype": "bnas_cifar"}, RecipeError, "genotype with layer_study"),
        (
            {"layer_study": {"layers": ["conv_3x3"], "precisions": ["uncentred"]}},
            RecipeError,
            "Add a precision",
        ),
    ],
)
def test_a_study_that_cannot_be_built(values, error, part):
    with pytest.raises(error, match=part):
        check_study(parse_recipe(values))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--set", "layer_study.layers=[conv_7x7]"), "'conv_7x7'"),
        (("--set", "layer_study.layer=[]"), "did you mean 'layers'"),
        (("--set", "train.batch_size=201"), "batch size 201 for 200 examples"),
        (("--set", "network.groups=2"), "Only BATS' operations"),
        (("--genotype", "bnas_cifar"), "genotype with layer_study"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(refuse, tmp_path, arguments, part):
    (tmp_path / "study.yaml").write_text(STUDY)
    message = refuse("run", tmp_path / "study.yaml", "--out", tmp_path / "out", *arguments)
    assert part in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_study_is_run_as_a_whole(refuse, tmp_path, command):
    (tmp_path / "study.yaml").write_text(STUDY)
    message = refuse(command, tmp_path / "study.yaml", "--out", tmp_path / "out")
    assert "run as a whole" in message


def test_a_study_is_not_resumed_with_another_recipe(refuse, study, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("epochs: 8", "epochs: 9"))
    message = refuse("run", path, "--out", study[0], "--resume")
    assert "another train than in" in message
