"""DARTS' notation, alone, in logs and in modules: what is read, and that nothing is run."""

from __future__ import annotations

import ast

import pytest

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Genotype

NORMAL = [
    [("bin_conv_3x3", 1), ("bin_dil_conv_3x3", 0)],
    [("none", 2), ("max_pool_3x3", 0)],
]
REDUCE = [
    [("max_pool_3x3", 0), ("avg_pool_3x3", 1)],
    [("bin_conv_5x5", 2), ("none", 1)],
]
DARTS = (
    "Genotype(normal=[('bin_conv_3x3', 1), ('bin_dil_conv_3x3', 0), ('none', 2), "
    "('max_pool_3x3', 0)], normal_concat=range(2, 4), reduce=[('max_pool_3x3', 0), "
    "('avg_pool_3x3', 1), ('bin_conv_5x5', 2), ('none', 1)], reduce_concat=[2, 3])"
)


@pytest.fixture
def genotype():
    return Genotype(NORMAL, REDUCE)


def test_darts_notation_is_imported(genotype):
    imported = Genotype.from_darts(DARTS, name="from a paper")
    assert imported == genotype
    assert imported.name == "from a paper"


@pytest.mark.parametrize("form", ["{}", "{}\n", "genotype = {}", "BNAS = {}", "\n  {}"])
def test_a_darts_file_is_recognised(genotype, tmp_path, form):
    path = tmp_path / "genotype.txt"
    path.write_text(form.format(DARTS))
    assert Genotype.load(path) == genotype


LOG = f"""\
03/01 10:00:00 PM gpu device = 0
03/01 10:00:01 PM genotype = {DARTS.replace('bin_conv_5x5', 'bin_conv_3x3')}
03/01 10:09:58 PM epoch 1 lr 2.4e-02
03/01 10:10:01 PM genotype = {DARTS}
03/01 10:19:01 PM genotype = Genotype(normal=[('no
"""
MODULE = f'''
from collections import namedtuple

Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
PRIMITIVES = ["none", "max_pool_3x3"]  # of the search

"""The first one is not ours."""
OTHER = {DARTS.replace('bin_conv_5x5', 'bin_conv_3x3')}
V1: Genotype = {DARTS}
LATEST = V1
'''


@pytest.mark.parametrize(
    "text",
    [LOG, f"2019-03-01 22:00:00,123 INFO {DARTS}", f"INFO:root:{DARTS}", f"genotype: {DARTS}"],
)
def test_the_last_genotype_of_a_log_counts(genotype, tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_text(text)
    assert Genotype.load(path) == genotype


@pytest.mark.parametrize("name", ["V1", "LATEST"])
def test_one_of_several_genotypes_is_read_by_its_name(genotype, tmp_path, name):
    path = tmp_path / "genotypes.py"
    path.write_text(MODULE)
    loaded = Genotype.load(f"{path}:{name}")
    assert loaded == genotype and loaded.name == name


@pytest.mark.parametrize(
    ("name", "received"),
    [
        ("", "no name; known: LATEST, OTHER, V1."),
        (":V2", "V2; did you mean 'V1'?"),
    ],
)
def test_several_genotypes_need_the_name_of_one(tmp_path, name, received):
    path = tmp_path / "genotypes.py"
    path.write_text(MODULE)
    with pytest.raises(GenotypeError) as error:
        Genotype.load(f"{path}{name}")
    message = "A text with several genotypes needs the name of one of them (FILE:NAME). "
    assert str(error.value) == f"{message}Received: {received}"


def test_skip_connect_is_the_identity():
    text = DARTS.replace("max_pool_3x3", "skip_connect")
    assert Genotype.from_darts(text) == Genotype.from_darts(
        DARTS.replace("max_pool_3x3", "identity")
    )


def test_darts_concatenation_of_four_nodes():
    flat = [("bin_conv_3x3", 0), ("bin_conv_3x3", 1)] * 4
    cells = f"normal={flat}, normal_concat=range(2, 6), reduce={flat}, reduce_concat=range(2, 6)"
    genotype = Genotype.from_darts(f"Genotype({cells})")
    assert len(genotype.normal) == len(genotype.reduce) == 6 - 2
    assert genotype.count("bin_conv_3x3") == 2 * 2 * 4


@pytest.mark.parametrize("name", ["bnas_cifar", "bnas_imagenet"])
def test_darts_round_trip(name):
    genotype = Genotype.published(name)
    again = Genotype.from_darts(genotype.to_darts())
    assert again.cells == genotype.cells
    ast.parse(genotype.to_darts(), mode="eval")


def test_darts_has_no_notation_for_nodes_of_one_edge():
    with pytest.raises(
        GenotypeError, match="two edges per node. Received: a node with another number"
    ):
        Genotype([[("none", 0)]], [[("none", 0)]]).to_darts()


@pytest.mark.parametrize(
    "payload",
    [
        "__import__('pathlib').Path({path!r}).touch()",
        "exec(\"open({path!r}, 'w')\")",
        "(lambda: open({path!r}, 'w'))()",
        "[open({path!r}, 'w') for _ in range(1)]",
        "range(open({path!r}, 'w').fileno())",
        "f\"{{open({path!r}, 'w')}}\"",
    ],
)
def test_malicious_text_is_never_run(tmp_path, payload):
    target = tmp_path / "touched"
    code = payload.format(path=str(target))
    exec(code)  # the attack works when it is run …
    assert target.exists()
    target.unlink()
    for text in (
        code,
        f"Genotype({code})",
        f"Genotype(normal={code}, reduce=[])",
        f"Genotype(normal=[('none', 0), ({code}, 1)], reduce=[])",
        f"{DARTS}; {code}",
        f"{DARTS[:-1]}, **{code})",
        f"x = {code}\n{DARTS}",
        f"@{code}\ndef f(): pass\n{DARTS}",
        f"10:00 PM genotype = Genotype(normal={code}, reduce=[])",
    ):
        with pytest.raises(GenotypeError, match="DARTS' notation is Genotype"):
            Genotype.from_darts(text)
    # … even where a class of that name and a default argument are smuggled in.
    with pytest.raises(GenotypeError):
        Genotype.from_darts(f"class Genotype:\n  x = {code}\n{DARTS}")
    assert not target.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "''"),
        ("Genotype(", r"text that does not parse \("),
        ("x" * 200 + "()", "'x{80}'"),
        ("-" * 100_000 + "1", "text that does not parse"),
        ("Genotype(normal=[1, 2)", "text that does not parse"),
        ("Genotype\0()", "text that does not parse"),
        ("os.Genotype()", "'os.Genotype"),
        ("Genotype([], [])", "'Genotype"),
        ("Genotype()", "normal without two edges for each node"),
        ("Genotype(normal=[('none', 0)])", "normal without two edges for each node"),
        ("Genotype(normal=[], reduce=[])", "normal without two edges"),
        ("Genotype(normal=x, reduce=[])", "normal that is not a literal"),
        ("Genotype(normal=[{[]: 1}], reduce=[])", "normal that is not a literal"),
        (DARTS.replace("range(2, 4)", "range(10**9)"), "concat that is not a literal"),
        (
            DARTS.replace("range(2, 4)", "range(2, 1000000000)"),
            "concat that is not a literal",
        ),
        (DARTS.replace("range(2, 4)", "range(0, 4, 2)"), "concat that is not a literal"),
    ],
)
def test_other_text_is_refused_with_the_notation(text, message):
    with pytest.raises(GenotypeError, match=f"DARTS' notation is Genotype.* Received: .*{message}"):
        Genotype.from_darts(text)


@pytest.mark.parametrize("concat", ["range(2, 3)", "[3]", "[2, 3, 4]", "[1, 2]", "7", "['a', 2]"])
def test_a_partial_concatenation_is_refused(concat):
    message = "A cell must concatenate all of its nodes. Received: normal_concat=.* for 2 nodes"
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_darts(DARTS.replace("range(2, 4)", concat))


def test_a_foreign_operation_is_answered_with_the_nearest():
    with pytest.raises(
        GenotypeError, match="Received: 'dil_conv_3x3'; did you mean 'bin_dil_conv_3x"
    ):
        Genotype.from_darts(DARTS.replace("bin_dil_conv_3x3", "dil_conv_3x3"))
    # Real-valued there, and so no synonym.
    with pytest.raises(GenotypeError, match="'sep_conv_3x3'; did you mean 'bin_sep_conv_3x3'"):
        Genotype.from_darts(DARTS.replace("bin_conv_5x5", "sep_conv_3x3"))
