"""Genotypes: identity, JSON, published and random cells, and what is refused."""

from __future__ import annotations

import json
import re

import pytest

from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.spaces import SearchSpace

NORMAL = [
    [("bin_conv_3x3", 1), ("bin_dil_conv_3x3", 0)],
    [("none", 2), ("max_pool_3x3", 0)],
]
REDUCE = [
    [("max_pool_3x3", 0), ("avg_pool_3x3", 1)],
    [("bin_conv_5x5", 2), ("none", 1)],
]


@pytest.fixture
def genotype():
    return Genotype(NORMAL, REDUCE, "mine", {"seed": 3, "note": "α"})


def changed(genotype, **changes):
    """The genotype's JSON object with other values; `...` removes a key."""
    values = {**genotype.to_dict(), **changes}
    return {key: value for key, value in values.items() if value is not ...}


# -- identity and JSON -----------------------------------------------------------------------------


def test_cells_become_tuples_of_edges(genotype):
    assert genotype.normal[0] == (Edge("bin_conv_3x3", 1), Edge("bin_dil_conv_3x3", 0))
    assert genotype.cells == (genotype.normal, genotype.reduce)
    assert genotype.count("none") == 1 + 1
    assert genotype.count("bin_conv_5x5") == 0 + 1


def test_json_round_trip_keeps_everything(genotype, tmp_path):
    genotype.save(tmp_path / "genotype.json")
    for again in (
        Genotype.from_json(genotype.to_json()),
        Genotype.load(tmp_path / "genotype.json"),
    ):
        assert again == genotype
        assert (again.id, again.name) == (genotype.id, "mine")
        assert again.provenance == {"seed": 3, "note": "α"}
    values = json.loads(genotype.to_json())
    assert (values["format"], values["version"]) == ("bnas_larq.genotype", 1)
    assert values["normal"][1][0] == {"op": "none", "state": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["genotype.json"]


def test_the_id_is_stable_across_releases(genotype):
    """Published ids are in files of other people: a change of the hash would orphan them."""
    assert Genotype.published("bnas_cifar").id == "g-20c1dad405b4"
    assert Genotype.published("bnas_imagenet").id == "g-a447a986432f"
    assert re.fullmatch("g-[0-9a-f]{12}", genotype.id)


def test_the_id_does_not_depend_on_the_order_of_a_nodes_edges(genotype):
    turned = Genotype([node[::-1] for node in NORMAL], [node[::-1] for node in REDUCE])
    assert turned.id == genotype.id


def test_the_id_depends_on_cells_only(genotype):
    assert Genotype(NORMAL, REDUCE, "other", {"seed": 4}).id == genotype.id
    assert Genotype(NORMAL, REDUCE, "other", {"seed": 4}) == genotype
    assert len({genotype, Genotype(NORMAL, REDUCE)}) == 1
    assert Genotype(REDUCE, NORMAL).id != genotype.id
    assert Genotype(NORMAL[:1], REDUCE).id != genotype.id


def test_every_single_change_of_an_edge_changes_the_id(genotype):
    ids = {genotype.id}
    for op in ("none", "max_pool_3x3", "bin_conv_5x5"):
        ids.add(Genotype([[(op, 1), NORMAL[0][1]], NORMAL[1]], REDUCE).id)
    ids.add(Genotype([NORMAL[0], [("none", 1), ("max_pool_3x3", 0)]], REDUCE).id)
    assert len(ids) == 1 + 3 + 1


def test_a_changed_file_is_read_without_its_id(genotype):
    values = changed(genotype, normal=genotype.to_dict()["reduce"], id=...)
    assert Genotype.from_dict(values).normal == genotype.reduce


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ([("none", 2)], r"Node 0 can read states 0 to 1 only .* Received: state 2 for 'none'"),
        ([("none", -1)], r"Received: state -1 for 'none' in the normal cell. Correct the edge"),
        (
            [("none", 0), ("bin_conv_3x3", 0)],
            r"at most one operation for each state.*\('none', 0\), \('bin_conv_3x3', 0\)",
        ),
        (
            [("sep_conv_3x3", 0)],
            r"must be registered. Received: 'sep_conv_3x3'; did you mean 'bin_sep_c",
        ),
        ([], r"list of at least one edge. Received: \[\] as node 0 of the normal cell"),
        ("none", "list of at least one edge. Received: 'none' as node 0"),
        (7, "list of at least one edge. Received: 7"),
        ([("none", "0")], r"must name an operation and the number .* Received: \('none', '0'\)"),
        ([("none", True)], r"Received: \('none', True\) at node 0 of the normal cell"),
        ([("none", 0.0)], r"Received: \('none', 0.0\)"),
        ([("none", 0, 1)], r"Received: \('none', 0, 1\)"),
        ([(None, 0)], r"Received: \(None, 0\)"),
        ([{"op": "none"}], r"Received: \{'op': 'none'\}"),
        ([None], "Received: None at node 0"),
    ],
)
def test_an_impossible_node_is_refused(node, message):
    with pytest.raises(GenotypeError, match=message):
        Genotype([node, *NORMAL[1:]], REDUCE)


@pytest.mark.parametrize("cell", [[], "none", None, 3, {}])
def test_an_impossible_cell_is_refused(cell):
    with pytest.raises(GenotypeError, match="reduce cell must be a list of nodes. Received: "):
        Genotype(NORMAL, cell)


def test_the_first_state_after_the_last_earlier_node_is_out_of_reach():
    Genotype(NORMAL, [REDUCE[0], [("none", 2)]])
    with pytest.raises(GenotypeError, match="Node 1 can read states 0 to 2 .* in the reduce cell"):
        Genotype(NORMAL, [REDUCE[0], [("none", 3)]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "g-000000000000"}, r"id must match its cells. Received: id 'g-0{12}' for cells of"),
        ({"normal": REDUCE}, r"id must match its cells. .* Remove the id if you changed the cells"),
        ({"format": "darts"}, r'JSON object with "format": "bnas_larq.genotype". Received: '),
        ({"version": 2}, r"reads genotype files of version 1. Received: version 2. Install"),
        ({"version": ...}, "Received: version None"),
        ({"reduce": ...}, r"needs both cells. Received: no 'reduce'"),
        ({"provenence": {}}, r"fixed keys. Received: 'provenence'; did you mean 'provenance'"),
        ({"provenance": [1]}, r"provenance must be an object. Received: \[1\]"),
        ({"normal": {"op": "none"}}, "normal cell must be a list of nodes"),
    ],
)
def test_an_altered_file_is_refused(genotype, changes, message):
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(changed(genotype, **changes))


@pytest.mark.parametrize("text", ["", "{", '{"format": ', "[" * 100_000, "\x00", "nonsense"])
def test_damaged_json_is_refused(text):
    with pytest.raises(GenotypeError, match="must be JSON text. Received: ") as error:
        Genotype.from_json(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"none"', "{}"])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(GenotypeError, match='must hold a JSON object with "format"'):
        Genotype.from_json(text)


def test_every_truncation_of_a_file_is_refused(genotype, tmp_path):
    text = genotype.to_json().rstrip()
    for length in range(0, len(text), 7):
        (tmp_path / "cut.json").write_text(text[:length], encoding="utf-8")
        with pytest.raises(GenotypeError, match="must be JSON text"):
            Genotype.load(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("bnas_cifra", "did you mean 'bnas_cifar'"),
        ("no/such/file.json", r"\(FileNotFoundError\)"),
        (".", r"\(IsADirectoryError\)"),
    ],
)
def test_an_unreadable_source_is_refused(source, hint):
    message = "readable file, random:SEED or a published name. Received: .*" + hint
    with pytest.raises(GenotypeError, match=message):
        Genotype.load(source)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GenotypeError, match="UnicodeDecodeError"):
        Genotype.load(tmp_path / "a.json")


# -- published and random --------------------------------------------------------------------------


def test_the_published_cells():
    """The cells of FACTS §1, in its words: two edges a node, nodes between bars."""
    cells = {
        "bnas_cifar": (
            "none,1 bin_dil_conv_3x3,0 | bin_conv_3x3,1 none,2 | none,2 none,3 | none,3 none,4",
            "max_pool_3x3,0 none,1 | max_pool_3x3,0 none,2 | none,3 none,2 | none,3 none,4",
        ),
        "bnas_imagenet": (
            "bin_conv_3x3,1 bin_dil_conv_3x3,0 | bin_conv_3x3,1 bin_conv_3x3,2 | "
            "bin_conv_3x3,2 bin_dil_conv_3x3,1 | bin_dil_conv_3x3,1 bin_conv_3x3,0",
            "max_pool_3x3,0 max_pool_3x3,1 | max_pool_3x3,0 bin_conv_3x3,2 | "
            "max_pool_3x3,0 bin_dil_conv_3x3,3 | max_pool_3x3,0 bin_dil_conv_3x3,4",
        ),
    }
    for name, written in cells.items():
        genotype = Genotype.published(name)
        assert Genotype.load(name) == genotype
        assert (genotype.name, "2002.06963" in genotype.provenance["source"]) == (name, True)
        for cell, text in zip(genotype.cells, written, strict=True):
            nodes = [" ".join(f"{edge.op},{edge.state}" for edge in node) for node in cell]
            assert " | ".join(nodes) == text


def test_an_unknown_published_name_is_answered_with_the_nearest():
    message = "Only published cells have names. Received: 'bnas_imagnet'; did you mean 'bnas_imagen"
    with pytest.raises(GenotypeError, match=message):
        Genotype.published("bnas_imagnet")


def test_random_draws_follow_the_seed():
    space = SearchSpace.bnas()
    first = [Genotype.random(space, seed) for seed in range(20)]
    assert [g.id for g in first] == [Genotype.random(space, seed).id for seed in range(20)]
    assert [g.id for g in first] == [Genotype.load(f"random:{seed}").id for seed in range(20)]
    assert len({g.id for g in first}) == 20
    assert first[7].provenance == {"source": "uniform draw", "space": "bnas", "seed": 7}


def test_random_draws_use_all_states_and_operations():
    space = SearchSpace.bnas()
    edges = set()
    for seed in range(300):
        for cell in Genotype.random(space, seed).cells:
            assert [len(node) for node in cell] == [2, 2, 2, 2]
            edges |= {(node, *edge) for node, kept in enumerate(cell) for edge in kept}
    assert edges == {(node, op, state) for node, state in space.edges for op in space.normal}


def test_a_random_cell_is_never_all_zeroise():
    """One node and two candidates: a quarter of the free draws would be nothing but Zeroise."""
    space = SearchSpace("tiny", ("none", "max_pool_3x3"), ("none", "bin_conv_3x3"), nodes=1)
    for seed in range(100):
        genotype = Genotype.random(space, seed)
        for cell in genotype.cells:
            assert any(edge.op != "none" for node in cell for edge in node)
    assert any(Genotype.random(space, seed).count("none") == 2 for seed in range(100))


def test_a_random_genotype_of_another_space_is_given_by_its_name():
    found = Genotype.load("random:bnas-ucb:5")
    assert found == Genotype.random(SearchSpace.named("bnas-ucb"), 5)
    assert Genotype.load("random:bnas:5") == Genotype.load("random:5") != found
    with pytest.raises(GenotypeError, match="did you mean 'bnas-ucb'"):
        Genotype.load("random:bnas-ubc:5")


@pytest.mark.parametrize(
    "text", ["random:", "random:x", "random:-1", "random:1.5", "random:²", "random:bnas:"]
)
def test_a_random_genotype_needs_a_number(text):
    with pytest.raises(GenotypeError, match="`random:SEED`, SEED a number. Received: 'random:"):
        Genotype.load(text)


# -- for people ------------------------------------------------------------------------------------


def test_pretty(genotype):
    assert genotype.pretty().splitlines() == [
        f"genotype {genotype.id} (mine)",
        "  normal cell",
        "    node 0 = bin_conv_3x3(c_{k-1}) + bin_dil_conv_3x3(c_{k-2})",
        "    node 1 = none(node 0) + max_pool_3x3(c_{k-2})",
        "  reduce cell",
        "    node 0 = max_pool_3x3(c_{k-2}) + avg_pool_3x3(c_{k-1})",
        "    node 1 = bin_conv_5x5(node 0) + none(c_{k-1})",
    ]
    assert Genotype(NORMAL, REDUCE).pretty().startswith(f"genotype {genotype.id}\n")
