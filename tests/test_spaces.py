"""Search spaces: names, order and counts of the candidates, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import pytest

from bnas_larq import spaces
from bnas_larq.errors import GenotypeError
from bnas_larq.spaces import SearchSpace, check_operation, declare_operation, edges_of_cell

#: Order of FACTS §1, which is that of the α columns.
BNAS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "bin_conv_3x3",
    "bin_conv_5x5",
    "bin_dil_conv_3x3",
    "bin_dil_conv_5x5",
)


def test_the_space_of_bnas():
    space = SearchSpace.bnas()
    assert space.normal == space.reduce == BNAS
    assert (space.name, space.nodes, space.edges_per_node, space.shortcut) == ("bnas", 4, 2, "conv")
    assert SearchSpace.named("bnas") == space


def test_the_space_of_bnas_ucb():
    """BNAS-UCB's eight, in DARTS' order; the cell is DARTS', without BNAS' shortcut."""
    space = SearchSpace.named("bnas-ucb")
    assert space.normal == space.reduce
    assert space.normal == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "identity",
        "bin_dil_conv_3x3_linear",
        "bin_dil_conv_5x5_linear",
        "bin_conv_3x3_linear",
        "bin_conv_5x5_linear",
    )
    assert (space.name, space.nodes, space.edges_per_node) == ("bnas-ucb", 4, 2)
    assert space.shortcut == "none"


def test_the_space_of_darts_binarised():
    space = SearchSpace.named("darts-binary")
    assert space.normal == space.reduce
    assert space.normal == (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "identity",
        "bin_sep_conv_3x3",
        "bin_sep_conv_5x5",
        "bin_dil_sep_conv_3x3",
        "bin_dil_sep_conv_5x5",
    )
    assert (space.name, space.nodes, space.edges_per_node) == ("darts-binary", 4, 2)
    assert space.shortcut == "none"


@pytest.mark.parametrize("name", spaces.SPACES)
def test_every_published_space_has_its_name_and_known_operations(name):
    space = SearchSpace.named(name)
    assert space.name == name and SearchSpace.from_dict(space.to_dict()) == space
    assert all(spaces.describe(operation) for operation in space.normal)


def test_node_i_reads_every_earlier_state():
    assert edges_of_cell(1) == ((0, 0), (0, 1))
    assert edges_of_cell(2) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert len(SearchSpace.bnas().edges) == 2 + 3 + 4 + 5


def test_round_trip_through_json():
    space = dataclasses.replace(SearchSpace.bnas(), nodes=3, edges_per_node=1, shortcut=False)
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again == space and hash(again) == hash(space)


def test_candidates_are_taken_away_and_added_on_both_kinds_of_edges():
    smaller = SearchSpace.bnas().without_operations(["none", "bin_conv_5x5"])
    assert smaller.normal == smaller.reduce == BNAS[1:4] + BNAS[5:]
    assert smaller.name == "bnas-bin_conv_5x5-none"
    larger = smaller.with_operations("none")
    assert larger.normal == larger.reduce == (*smaller.normal, "none")
    assert larger.name == "bnas-bin_conv_5x5-none+none"


def test_a_declared_operation_joins_a_space(monkeypatch):
    monkeypatch.setattr(spaces, "_OPERATIONS", dict(spaces._OPERATIONS))
    with pytest.raises(GenotypeError, match="must be registered. Received: 'bin_shuffle'"):
        SearchSpace.bnas().with_operations("bin_shuffle")
    declare_operation("bin_shuffle", "a user's own")
    assert spaces.operation_names()[: len(BNAS)] == BNAS
    assert spaces.operation_names()[-1] == "bin_shuffle"
    assert spaces.describe("bin_shuffle") == "a user's own"
    assert SearchSpace.bnas().with_operations("bin_shuffle").reduce == (*BNAS, "bin_shuffle")


@pytest.mark.parametrize("name", ["3x3", "a-b", "", "a b", "a;b"])
def test_an_operations_name_is_an_identifier(name):
    with pytest.raises(GenotypeError, match=r"must be a Python identifier. Received: '.*Choose"):
        declare_operation(name, "")
    assert name not in spaces.operation_names()


def test_an_unknown_operation_is_answered_with_the_nearest():
    message = r"Received: 'bin_conv_3x4'; did you mean 'bin_conv_3x3'\? Import the module"
    with pytest.raises(GenotypeError, match=message):
        check_operation("bin_conv_3x4")
    with pytest.raises(GenotypeError, match=message):
        spaces.describe("bin_conv_3x4")
    with pytest.raises(GenotypeError, match="did you mean 'max_pool_3x3'"):
        SearchSpace.bnas().without_operations(["maxpool_3x3"])
    with pytest.raises(GenotypeError, match="Received: 'identity' in space 'bnas'. Omit it."):
        SearchSpace.bnas().without_operations(["none", "identity"])


def test_an_unknown_space_is_answered_with_the_nearest():
    with pytest.raises(GenotypeError, match=r"given by name. Received: 'bnass'; did you mean 'bn"):
        SearchSpace.named("bnass")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normal": ("none",)}, r"at least two different operations on normal edges. Received"),
        ({"reduce": ()}, r"on reduce edges. Received: \[\]. Name each"),
        ({"reduce": ("none", "none")}, r"on reduce edges. Received: \['none', 'none'\]"),
        ({"normal": (*BNAS, "none")}, "on normal edges"),
        ({"normal": ("none", "nune")}, "Received: 'nune'; did you mean 'none'"),
        ({"nodes": 0}, "at least one node.* Received: nodes=0, edges_per_node=2"),
        ({"edges_per_node": 0}, "keeps one or two edges .* edges_per_node=0"),
        ({"edges_per_node": 3}, "the first node has only two.* edges_per_node=3"),
    ],
)
def test_impossible_spaces_are_refused(changes, message):
    with pytest.raises(GenotypeError, match=message):
        dataclasses.replace(SearchSpace.bnas(), **changes)


@pytest.mark.parametrize("name", ["bnas-none", "bnas-ucb-none", "darts-binary-identity-none"])
def test_names_of_smaller_spaces_are_read(name):
    space = SearchSpace.named(name)
    assert space.name == name and "none" not in space.normal
    published = next(base for base in reversed(spaces.SPACES) if name.startswith(base + "-"))
    removed = {"none", "identity"} if "identity" in name else {"none"}
    assert space == SearchSpace.named(published).without_operations(removed)


def test_names_of_larger_spaces_are_read():
    space = SearchSpace.bnas().with_operations("identity", "bin_sep_conv_3x3")
    assert SearchSpace.named(space.name) == space


@pytest.mark.parametrize("name", ["bnas-", "bnas-identity", "bnas+none", "bnas-bin", "bnasx", ""])
def test_other_names_are_refused(name):
    with pytest.raises(GenotypeError, match="A search space is given by name. Received: "):
        SearchSpace.named(name)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (SearchSpace.bnas().normal, "relu"),
        (SearchSpace.darts_binary().normal, "relu"),
        (SearchSpace.bnas_ucb().normal, "linear"),
        (SearchSpace.bats().normal, "prelu"),
        (("bin_conv_3x3_linear", "bin_conv_3x3"), "relu"),
        (("bin_group_conv_3x3", "bin_conv_3x3"), "relu"),
        (("max_pool_3x3", "none"), "relu"),
    ],
)
def test_preprocessing_follows_the_convolutions(operations, expected):
    assert spaces.preprocessing_of(operations) == expected
