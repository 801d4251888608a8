"""From α to a genotype: tables small enough to decide by eye, γ, ties, and a brute-force check."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bnas_larq.discretize import ArgmaxDiscretizer, softmax
from bnas_larq.errors import GenotypeError
from bnas_larq.genotype import Edge
from bnas_larq.spaces import SearchSpace

#: none, pool, convolution: one node, whose two edges come from the cell's inputs.
ONE_NODE = SearchSpace(
    "one",
    ("none", "max_pool_3x3", "bin_conv_3x3"),
    ("none", "max_pool_3x3", "bin_conv_3x3"),
    nodes=1,
)
#: The same with a second node: rows (0,0) (0,1) | (1,0) (1,1) (1,2).
TWO_NODES = SearchSpace("two", ONE_NODE.normal, ONE_NODE.reduce, nodes=2)


def cell(probabilities, *, gamma=1.0, space=TWO_NODES, keep=2):
    """Hand-made probabilities → the cell as (op, state) pairs."""
    return [
        [tuple(edge) for edge in node]
        for node in ArgmaxDiscretizer(gamma).cell(
            np.array(probabilities), space.normal, space.nodes, keep
        )
    ]


def test_softmax():
    assert softmax(np.log([[1.0, 2.0, 5.0]])) == pytest.approx(
        np.array([[1 / 8, 2 / 8, 5 / 8]]), abs=1e-15
    )
    assert softmax(np.array([[1000.0, 1000.0], [-1000.0, 1000.0]])) == pytest.approx(
        np.array([[0.5, 0.5], [0.0, 1.0]])
    )
    assert softmax(np.zeros((2, 3), np.float32)).dtype == np.float64


def test_each_edge_takes_its_largest_and_each_node_its_two_strongest_edges():
    assert cell(
        [
            [0.2, 0.5, 0.3],  # node 0 has two edges only: both stay
            [0.1, 0.1, 0.8],
            [0.0, 0.6, 0.4],  # node 1: 0.6 …
            [0.3, 0.3, 0.4],  # … beats 0.4 …
            [0.1, 0.2, 0.7],  # … and 0.7 is the strongest
        ]
    ) == [
        [("max_pool_3x3", 0), ("bin_conv_3x3", 1)],
        [("max_pool_3x3", 0), ("bin_conv_3x3", 2)],
    ]


def test_zeroise_competes_with_the_others():
    """Zeroise wins the edge with 0.9, and this strong edge pushes a convolution of 0.6 out."""
    assert cell(
        [
            [0.9, 0.1, 0.0],
            [0.4, 0.3, 0.3],
            [0.4, 0.0, 0.6],
            [0.9, 0.0, 0.1],
            [0.0, 0.3, 0.7],
        ]
    ) == [[("none", 0), ("none", 1)], [("none", 1), ("bin_conv_3x3", 2)]]


def test_gamma_divides_the_column_of_zeroise_alone():
    table = [
        [0.6, 0.3, 0.1],  # 0.6 / 3 = 0.2 < 0.3: the pool takes over
        [0.1, 0.5, 0.4],  # untouched
        [0.8, 0.1, 0.1],  # 0.8 / 3 = 0.27: still Zeroise, now the weakest edge of its node
        [0.3, 0.4, 0.3],
        [0.2, 0.3, 0.5],
    ]
    assert cell(table) == [
        [("none", 0), ("max_pool_3x3", 1)],
        [("none", 0), ("bin_conv_3x3", 2)],
    ]
    assert cell(table, gamma=3.0) == [
        [("max_pool_3x3", 0), ("max_pool_3x3", 1)],
        [("max_pool_3x3", 1), ("bin_conv_3x3", 2)],
    ]


def test_gamma_has_nothing_to_divide_without_zeroise():
    operations, table = ("max_pool_3x3", "bin_conv_3x3"), np.array([[0.6, 0.4], [0.3, 0.7]])
    first, second = (ArgmaxDiscretizer(gamma).cell(table, operations, 1, 2) for gamma in (1.0, 9.0))
    assert first == second == ((Edge("max_pool_3x3", 0), Edge("bin_conv_3x3", 1)),)


def test_gamma_finds_zeroise_in_any_column():
    operations, table = ("bin_conv_3x3", "none"), np.array([[0.3, 0.7], [0.1, 0.9]])
    kept = ArgmaxDiscretizer(3.0).cell(table, operations, 1, 2)
    assert kept == ((Edge("bin_conv_3x3", 0), Edge("none", 1)),)  # 0.7/3 < 0.3, 0.9/3 > 0.1


def test_a_given_table_is_not_changed():
    table = np.array([[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]])
    ArgmaxDiscretizer(3.0).cell(table, ONE_NODE.normal, 1, 2)
    assert table.tolist() == [[0.6, 0.3, 0.1], [0.1, 0.5, 0.4]]


def test_ties_go_to_the_first_operation_and_the_earliest_states():
    assert cell(np.full((5, 3), 1 / 3)) == [
        [("none", 0), ("none", 1)],
        [("none", 0), ("none", 1)],
    ]
    assert cell([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], *[[0.25, 0.25, 0.5]] * 3], keep=1) == [
        [("none", 0)],
        [("bin_conv_3x3", 0)],
    ]


def test_one_edge_a_node():
    genotype = ArgmaxDiscretizer(edges_per_node=1)(
        np.log([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]),
        np.log([[0.2, 0.5, 0.3], [0.5, 0.4, 0.1]]),
        ONE_NODE,
    )
    assert genotype.normal == ((Edge("bin_conv_3x3", 1),),)
    assert genotype.reduce == ((Edge("max_pool_3x3", 0),),)  # 0.5 each: the earlier state


def test_alphas_are_logits_and_both_cells_are_derived():
    """A large negative α is a small probability, whatever its magnitude."""
    normal = np.array([[-9.0, 1.0, 0.0], [0.0, -9.0, 2.0]])
    reduce = np.array([[5.0, 1.0, 0.0], [-3.0, -2.0, -1.0]])
    genotype = ArgmaxDiscretizer()(normal, reduce, ONE_NODE, "mine", {"epoch": 4})
    assert genotype.normal == ((Edge("max_pool_3x3", 0), Edge("bin_conv_3x3", 1)),)
    assert genotype.reduce == ((Edge("none", 0), Edge("bin_conv_3x3", 1)),)
    assert genotype.name == "mine"
    assert genotype.provenance == {"space": "one", "gamma": 1.0, "epoch": 4}


def test_strength_is_compared_after_the_softmax():
    """Row (1,0) has the largest logit, but a rival of the same size: its probability is 1/2."""
    normal = np.zeros((5, 3))
    normal[2] = [10.0, 10.0, -10.0]
    normal[3] = normal[4] = [0.0, 0.0, 3.0]  # e³ / (2 + e³) = 0.91
    genotype = ArgmaxDiscretizer()(normal, normal, TWO_NODES)
    assert genotype.normal[1] == (Edge("bin_conv_3x3", 1), Edge("bin_conv_3x3", 2))


@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_agrees_with_trying_every_cell(gamma):
    """The derived node is the pair of distinct states whose probabilities have the largest sum."""
    space, generator = SearchSpace.bnas(), np.random.default_rng(5)
    for _ in range(20):
        alphas = generator.normal(size=(len(space.edges), len(space.normal)))
        probabilities = np.exp(alphas) / np.exp(alphas).sum(axis=1, keepdims=True)
        probabilities[:, 0] /= gamma
        expected = []
        for node in range(space.nodes):
            rows = {state: row for row, (n, state) in enumerate(space.edges) if n == node}
            best = max(
                (
                    (probabilities[rows[a], i] + probabilities[rows[b], j], a, b, i, j)
                    for a, b in itertools.combinations(rows, 2)
                    for i, j in itertools.product(range(len(space.normal)), repeat=2)
                )
            )
            _, a, b, i, j = best
            expected.append((Edge(space.normal[i], a), Edge(space.normal[j], b)))
        assert ArgmaxDiscretizer(gamma)(alphas, alphas, space).normal == tuple(expected)


@pytest.mark.parametrize("shape", [(14, 6), (13, 7), (7, 14), (14, 7, 1), (14,), (0, 7)])
def test_alphas_of_another_shape_are_refused(shape):
    right = np.zeros((2 + 3 + 4 + 5, 7))
    message = r"shape \[edges, operations\] = \[14, 7\]. Received: \[.*\]. Use the search space"
    for alphas in ((np.zeros(shape), right), (right, np.zeros(shape))):
        with pytest.raises(GenotypeError, match=message):
            ArgmaxDiscretizer()(*alphas, SearchSpace.bnas())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_alphas_that_are_not_finite_are_refused(value):
    alphas = np.zeros((2, 3))
    alphas[1, 2] = value
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(GenotypeError, match="must be finite. Received: NaN or infinity"),
    ):
        ArgmaxDiscretizer()(alphas, alphas, ONE_NODE)


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(
        GenotypeError, match="γ must be positive. Received: .*Use 1 to change nothing"
    ):
        ArgmaxDiscretizer(gamma)


@pytest.mark.parametrize("edges", [0, -1])
def test_a_node_keeps_at_least_one_edge(edges):
    with pytest.raises(GenotypeError, match=f"at least one edge. Received: edges_per_node={edges}"):
        ArgmaxDiscretizer(edges_per_node=edges)


# -- DARTS and PC-DARTS ----------------------------------------------------------------------------


def test_zeroise_may_be_left_out_of_the_arg_max():
    """Its share counts in the softmax, neither for the choice nor for the strength of an edge."""
    table = np.log(
        [
            [0.9, 0.1, 1e-9],
            [0.4, 0.3, 0.3],  # of equal operations the first
            [0.5, 0.1, 0.4],
            [0.9, 0.0 + 1e-9, 0.1],  # strength 0.1, the weakest of node 1
            [0.0 + 1e-9, 0.3, 0.7],
        ]
    )
    genotype = ArgmaxDiscretizer(zeroise_competes=False)(table, table, TWO_NODES)
    assert genotype.normal == (
        (Edge("max_pool_3x3", 0), Edge("max_pool_3x3", 1)),
        (Edge("bin_conv_3x3", 0), Edge("bin_conv_3x3", 2)),
    )
    assert genotype.provenance == {"space": "two", "gamma": 1.0, "zeroise_competes": False}


def test_weights_of_edges_are_part_of_their_strength():
    """softmax(β) over the edges of a node, times the largest share: 0.6·0.2 < 0.4·0.4 = 0.4·0.4.
    Operations are chosen by α alone."""
    shares = np.log([[0.1, 0.3, 0.6]] * 2 + [[0.2, 0.2, 0.6], [0.2, 0.4, 0.4], [0.2, 0.4, 0.4]])
    betas = np.log([1.0, 9.0, 1.0, 2.0, 2.0])  # node 1: 0.2, 0.4, 0.4
    even = np.zeros(5)
    plain = ArgmaxDiscretizer()(shares, shares, TWO_NODES)
    assert [edge.state for edge in plain.normal[1]] == [0, 1]
    genotype = ArgmaxDiscretizer()(shares, shares, TWO_NODES, betas=(betas, even))
    assert genotype.normal[1] == (Edge("max_pool_3x3", 1), Edge("max_pool_3x3", 2))
    assert genotype.normal[0] == plain.normal[0] and genotype.reduce == plain.reduce


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (np.zeros(4), r"shape \[edges\] = \[5\]. Received: \[4\]. Use the search space"),
        (np.zeros((5, 1)), r"Received: \[5, 1\]"),
        (np.array([0.0, 0.0, np.nan, 0.0, 0.0]), "must be finite"),
    ],
)
def test_weights_of_edges_that_do_not_fit_are_refused(betas, message):
    alphas = np.zeros((5, 3))
    with pytest.raises(GenotypeError, match=message):
        ArgmaxDiscretizer()(alphas, alphas, TWO_NODES, betas=(np.zeros(5), betas))
