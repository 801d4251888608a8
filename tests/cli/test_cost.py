"""`bnas-larq cost` on every kind of target, and on mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bnas_larq.cli.main import main
from bnas_larq.genotype import Genotype

SMALL = ("--cells", "2", "--channels", "4", "--input-size", "8", "--classes", "3")


@pytest.fixture
def cost(capsys, monkeypatch, tmp_path):
    """Runs the command; returns (exit code, stdout, last line of stderr)."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def run(*args):
        code = main(["cost", *map(str, args)])
        done = capsys.readouterr()
        return code, done.out, (done.err.splitlines() or [""])[-1]

    return run


@pytest.fixture
def stored(tmp_path):
    """The folder of a network, as runs and entries have them; costs need no weights."""
    from bnas_larq.networks.network import NetworkConfig
    from bnas_larq.networks.network_files import StoredNetwork

    config = NetworkConfig(input_shape=(8, 8, 3), num_classes=3, channels=4, cells=2)
    folder = tmp_path / "stored"
    folder.mkdir()
    genotype = Genotype.published("bnas_cifar")
    StoredNetwork(folder, genotype, config, ("a", "b", "c"), {}, {}).save()
    return folder


def test_one_variant_has_a_table_of_its_layers(cost):
    code, out, _ = cost("bnas-d")
    assert code == 0
    assert out.startswith("bnas-d at 224×224, 12 cells of 64 channels, 1000 classes")
    assert "stem " in out and "float16 kernels" in out and "at most at one time" in out
    for text in ("cell4_shortcut_conv *", "1.476e8", "3.499e8", "28,457,160"):
        assert text in out


def test_a_network_is_counted_with_another_shortcut(cost):
    size = ("--cells", "3", "--channels", "8", "--json")
    conv, pool = (
        json.loads(cost("bnas_imagenet", *size, "--shortcut", kind)[1])[0]
        for kind in ("conv", "pool")
    )
    assert conv["shortcut_macs"] > 0 == pool["shortcut_macs"]
    assert pool["ops_honest"] == conv["ops_honest"] - conv["shortcut_macs"]
    code, _, err = cost("larq_zoo:BiRealNet", "--shortcut", "pool")
    assert code == 2 and "--groups or --shortcut with larq_zoo:BiRealNet" in err


def test_several_targets_are_compared(cost, stored):
    code, out, _ = cost("BNAS-D", stored, "larq_zoo:BiRealNet")
    assert code == 0
    header, *rows = out.splitlines()[:4]
    assert header.split()[:2] == ["network", "input"]
    assert header.split()[-4:] == ["bytes", "int8", "RAM", "parameters"]
    assert all(cell != "–" for row in rows for cell in row.split())
    assert [row.split()[:2] for row in rows] == [
        ["bnas-d", "224×224"],
        [str(stored), "8×8"],
        ["larq_zoo:BiRealNet", "224×224"],
    ]
    assert "1.476e8" in rows[0] and "3.499e8" in rows[0] and "1.640e8" in rows[2]


def test_without_targets_all_variants_are_compared(cost):
    code, out, _ = cost("--json", "--cells", "2", "--channels", "8")
    names = [record["target"] for record in json.loads(out)]
    assert code == 0 and {"bnas-a", "bnas-d", "bnas-h", "bnas-d-v2"} <= set(names)


def test_what_papers_report_stands_beside_what_is_counted(cost):
    code, out, _ = cost("--reported")
    assert code == 0
    first, *_ = out.splitlines()[1:]
    assert first.split() == [
        *("binarynet-resnet18", "–", "1.480e8", "1.450e8", "1.450e8", "3,561,120"),
        *("42.20", "67.10"),
    ]
    _, out, _ = cost("bnas-a", "bnas-d", "reactnet18", "--reported", "--json")
    rows = json.loads(out)
    assert [(row["target"], row["training"], row["top1"]) for row in rows] == [
        ("bnas-d", "", 57.69),
        ("bnas-d", "No-Reg", 61.60),
        ("reactnet18", "", 65.9),
    ]
    assert "None of these" in cost("bnas-b", "--reported")[1]


def test_genotypes_files_and_models_of_one_network_cost_the_same(cost, stored, tmp_path):
    from bnas_larq.networks.network import build_network

    genotype = Genotype.published("bnas_cifar")
    genotype.save(tmp_path / "cell.json")
    model = build_network(
        genotype, input_shape=(8, 8, 3), num_classes=3, channels=4, cells=2, stem="cifar"
    )
    model.save(tmp_path / "model.keras")
    _, out, _ = cost("bnas_cifar", tmp_path / "cell.json", *SMALL, "--json", "--layers")
    records = json.loads(out)
    _, out, _ = cost(stored, tmp_path / "model.keras", "--json", "--layers")
    records += json.loads(out)
    layers = [sorted(r.pop("layers"), key=lambda layer: layer["name"]) for r in records]
    assert all(rows == layers[0] for rows in layers[1:])
    for record in records:
        del record["target"], record["name"]
    assert all(record == records[0] for record in records[1:])
    assert records[0]["input_shape"] == [8, 8, 3]


def test_another_size_of_a_stored_network(cost, stored):
    _, out, _ = cost(stored, "--input-size", "16x24", "--channels", "6", "--json")
    record = json.loads(out)[0]
    assert record["input_shape"] == [16, 24, 3]
    stem = next(layer for layer in record["layers"] if layer["name"] == "stem_conv")
    assert stem["full_precision_macs"] == 16 * 24 * 3 * 3 * 3 * (3 * 6)


def test_a_model_with_two_inputs(cost, tmp_path):
    from bnas_larq.backend import keras

    image, facts = keras.Input((8, 6, 3)), keras.Input((4,))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 1)(image))
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([x, facts]))
    keras.Model([image, facts], outputs, name="model").save(path := tmp_path / "two.keras")
    code, out, _ = cost(path, "--json")
    record = json.loads(out)[0]
    assert code == 0
    assert record["input_shapes"] == [[8, 6, 3], [4]] and "input_shape" not in record
    assert record["full_precision_macs"] == 8 * 6 * 3 * 5 + (5 + 4) * 2
    _, out, _ = cost(path)
    assert out.startswith(f"{path} at 8×6 and 4\n")
    code, out, error = cost(path, "--input-size", "16")
    assert (code, out) == (2, "") and "'model' with 2 inputs. Omit the size." in error


def test_a_budget(cost):
    code, out, _ = cost("bnas-d", "--budget", "1.48e8")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [["12", "64", "1.476e8"]]
    options = "--budget 15M --cells 1-2 --stem-groups 4 --input-size 96 --classes 3 --json"
    code, out, _ = cost("bnas_imagenet", *options.split())
    answer = json.loads(out)
    assert answer["budget"] == 15e6 and answer["settings"]["stem_groups"] == 4
    assert sorted(candidate["cells"] for candidate in answer["candidates"]) == [1, 2]
    assert all(candidate["channels"] % 8 == 0 for candidate in answer["candidates"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["bnas-dd"], "Received: 'bnas-dd'; did you mean 'bnas-d'"),
        ([Path(__file__).parent], "takes a variant (bnas-d), a network that papers compare with"),
        (["bnas_cifar"], "A genotype has no size of its own"),
        (
            ["bnas-d", *SMALL, "--reported"],
            "papers have results of. Received: --cells, --channels, --input-size, --classes with",
        ),
        (["bnas-d", "--cells", "2,3"], "--cells is one number"),
        (["bnas-d", "--cells", "x"], "'x' is no number, list such as 8,12"),
        (["bnas-d", "--cells", "9-3"], "'9-3' is no number"),
        (["bnas-d", "--input-size", "0"], "'0' is no size such as 224 or 96x128"),
        (["bnas-d", "--budget", "much"], "positive number of operations"),
        (["bnas-d", "bnas-e", "--budget", "1e8"], "--budget needs one TARGET"),
        (["larq_zoo:QuickNet", "--budget", "1e8"], "Received: 'larq_zoo:QuickNet', a larq_zoo net"),
        (["larq_zoo:QuickNet", "--cells", "3"], "Only networks made of cells"),
        (["bireal18", "--cells", "3"], "Only networks made of cells"),
        (["binary-duo18", "--groups", "2"], "Only networks made of cells"),
        (["bnas-nano", "--shortcut", "pool"], "Only networks made of cells"),
        (["gone.h5"], "does not exist"),
        (["bnas-d", "--convention", "honset"], "'honset' is not one of"),
        (["bnas-d", "--convention", "honest"], "are of a --budget, which is missing"),
        (["bnas-d", "--multiple", "32"], "are of a --budget, which is missing"),
        (["bnas-d", "--budget", "1e8", "--layers"], "--budget lists sizes, not layers"),
    ],
)
def test_mistakes_end_with_one_sentence(cost, args, message):
    code, out, error = cost(*args)
    assert (code, out) == (2, "")
    assert error.startswith("Error: ") and message in error
