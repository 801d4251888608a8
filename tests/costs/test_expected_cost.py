"""The expected cost: equal to the network's where α have decided, and the mean of all networks that
may be drawn where they have not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.costs.expected_cost import ExpectedCost, inclusion, network_of
from bnas_larq.costs.latency_tables import LatencyTable
from bnas_larq.discretize import ArgmaxDiscretizer, softmax
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.settings import CostTermSettings
from bnas_larq.spaces import SPACES, ZEROISE, SearchSpace
from bnas_larq.supernet.super_net import SuperNet

SMALL = {"input_shape": (8, 8, 3), "num_classes": 4, "channels": 2, "cells": 3}
CONVOLUTION = "bin_conv_3x3"
NAMES = (ZEROISE, "max_pool_3x3", CONVOLUTION)
SHARED = SearchSpace("small", NAMES, NAMES, nodes=2, edges_per_node=1)


def decided(genotype, space):
    """α that have decided for a genotype's edges, and on all others for nothing."""
    alphas = []
    for cell, names in zip(genotype.cells, (space.normal, space.reduce), strict=True):
        alpha = np.zeros((len(space.edges), len(names)))
        for node, edges in enumerate(cell):
            for edge in edges:
                alpha[space.edges.index((node, edge.state)), names.index(edge.op)] = 40.0
        alphas.append(alpha)
    return alphas


def shares(alphas):
    """Their distributions."""
    return [tf.constant(softmax(alpha), tf.float32) for alpha in alphas]


def even(space):
    """Equal shares of all candidates."""
    rows = len(space.edges)
    return shares([np.zeros((rows, len(names))) for names in (space.normal, space.reduce)])


# -- decided α -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "genotype", "settings"),
    [
        ("bnas", "bnas_cifar", {}),  # nothing reads the newer input of its reduction cell
        ("bnas", "bnas_imagenet", {"stem": "imagenet", "channels": 4, "stem_groups": 2}),
        ("bnas", "random:5", {"cells": 4, "shortcut": False}),
        (
            "bnas",
            "random:8",
            {"full_precision": ("cell1_*",), "input_shape": (7, 9, 3), "cells": 2},
        ),
        *((space, 3, {}) for space in SPACES if space != "bnas"),
    ],
)
def test_decided_alphas_cost_what_their_network_costs(space, genotype, settings):
    space = SearchSpace.named(space)
    if isinstance(genotype, int):
        genotype = Genotype.random(space, genotype)
        settings = {"shortcut": space.shortcut}
    else:
        genotype = Genotype.load(genotype)
    alphas = decided(genotype, space)
    assert ArgmaxDiscretizer()(*alphas, space).id == genotype.id
    config = NetworkConfig(**{**SMALL, **settings})
    costs = count_costs(build_network(genotype, config))
    for measure, wanted in (("ops", costs.ops_honest), ("bytes", costs.bits / 8)):
        term = ExpectedCost(space, config, measure=measure, target=1e6)
        assert float(term.expected(*shares(alphas))) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(
    "cells",
    [
        # from the older input alone: every second cell reaches no output
        ([[(CONVOLUTION, 0), (ZEROISE, 1)]], [[(CONVOLUTION, 0), (ZEROISE, 1)]]),
        ([[(ZEROISE, 0), (ZEROISE, 1)]], [[(CONVOLUTION, 0), (ZEROISE, 1)]]),
        ([[(ZEROISE, 0), (CONVOLUTION, 1)]], [[(ZEROISE, 0), (ZEROISE, 1)]]),
    ],
)
def test_what_reaches_no_output_costs_nothing(cells, stem):
    space = SearchSpace("one", NAMES, NAMES, nodes=1, shortcut=False)
    genotype, config = Genotype(*cells), NetworkConfig(**SMALL, shortcut=False, stem=stem)
    costs = planned_costs(genotype, config)
    term = ExpectedCost(space, config, target=1e6)
    expected = term.expected(*shares(decided(genotype, space)))
    assert float(expected) == pytest.approx(costs.ops_honest, rel=1e-5)


# -- undecided α -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2])
def test_inclusion_is_that_of_independent_choices_given_their_number(keep):
    strengths = np.array([0.9, 0.15, 0.4, 0.3])
    kept, total = np.zeros(4), 0.0
    for chosen in itertools.combinations(range(4), keep):
        inside = np.isin(np.arange(4), chosen)
        probability = np.prod(np.where(inside, strengths, 1 - strengths))
        kept += probability * inside
        total += probability
    probabilities = inclusion(tf.constant(strengths, tf.float32), keep).numpy()
    np.testing.assert_allclose(probabilities, kept / total, rtol=1e-5)


def test_equal_strengths_are_kept_equally_often_and_certain_ones_always():
    np.testing.assert_allclose(inclusion(tf.fill([5], 1 / 7), 2), [2 / 5] * 5, rtol=1e-6)
    certain = inclusion(tf.constant([1.0, 1 / 7, 1 / 7, 1.0, 0.0]), 2)
    np.testing.assert_allclose(certain, [1, 0, 0, 1, 0], atol=1e-5)
    # The first node has no choice.
    np.testing.assert_allclose(inclusion(tf.constant([0.9, 0.1]), 2), [1, 1], rtol=1e-6)


def test_an_even_search_expects_the_kept_part_of_all_edges():
    """14 edges of which 8 are kept, each a 3×3 convolution with 1/7, and so on."""
    space = SearchSpace.bnas()
    config = NetworkConfig(**{**SMALL, "cells": 1})
    term = ExpectedCost(space, config, target=1e6)
    macs = sum(8 * 8 * k * k * 2 * 2 for k in (3, 5, 3, 5)) / 7
    # In the expected number of edges from one input nobody reads it if all are Zeroise or not kept.
    read = 1 - np.prod([1 - 2 / n * 6 / 7 for n in (2, 3, 4, 5)])
    preprocessing = 2 * read * 8 * 8 * 6 * 2
    stem, classifier = 8 * 8 * 3 * 3 * 3 * 6, 4 * 2 * 4
    wanted = stem + classifier + (8 * macs + preprocessing) / 64
    assert float(term.expected(*even(space))) == pytest.approx(wanted, rel=1e-5)


def test_the_expectation_is_the_mean_over_all_networks():
    """All normal cells of a small space with their probabilities; the reduction cell is decided."""
    generator = np.random.default_rng(0)
    reduce = [[("max_pool_3x3", 0)], [(CONVOLUTION, 2)]]
    normal = generator.normal(size=(len(SHARED.edges), len(NAMES)))
    config, probabilities = NetworkConfig(**SMALL), softmax(normal)
    # Each node keeps one edge: odds of the strengths, normalised.
    strengths = probabilities.max(axis=1)
    odds = strengths / (1 - strengths)
    kept = odds / np.repeat([odds[:2].sum(), odds[2:].sum()], [2, 3])
    mean, cache = 0.0, {}
    for rows in itertools.product([0, 1], [2, 3, 4]):
        for columns in itertools.product(range(3), repeat=2):
            places = list(zip(rows, columns, strict=True))
            cell = [[(NAMES[column], SHARED.edges[row][1])] for row, column in places]
            probability = np.prod([kept[row] * probabilities[row, col] for row, col in places])
            costs = planned_costs(Genotype(cell, reduce), config, cache=cache)
            mean += probability * costs.ops_honest
    alphas = [normal, decided(Genotype(reduce, reduce), SHARED)[1]]
    term = ExpectedCost(SHARED, config, target=1e6)
    assert float(term.expected(*shares(alphas))) == pytest.approx(mean, rel=1e-5)


def test_zeroise_counts_as_the_discretiser_counts_it():
    space = SearchSpace("one", NAMES, NAMES, nodes=1)
    config = NetworkConfig(**{**SMALL, "cells": 1})
    constant = planned_costs(Genotype([[(ZEROISE, 0)]], [[(ZEROISE, 0)]]), config).ops_honest
    edge = (8 * 8 * 3 * 3 * 2 * 2 + 8 * 8 * 6 * 2) / 64  # the convolution and its preprocessing
    pool = 8 * 8 * 6 * 2 / 64
    for settings, zeroise in (({}, 1), ({"gamma": 3.0}, 1 / 3), ({"zeroise_competes": False}, 0)):
        term = ExpectedCost(space, config, target=1e6, **settings)
        wanted = constant + 2 * (edge + pool) / (2 + zeroise)
        assert float(term.expected(*even(space))) == pytest.approx(wanted, rel=1e-5)


def test_edge_weights_decide_which_edges_are_kept():
    config = NetworkConfig(**{**SMALL, "cells": 1})
    cell = [[("max_pool_3x3", 0)], [(CONVOLUTION, 2)]]
    alphas = decided(Genotype(cell, cell), SHARED)
    alphas[0][3] = [0, 0, 40]  # as strong as the edge from state 2, whose β is larger
    term = ExpectedCost(SHARED, config, target=1e6)
    betas = tf.constant([1.0, 0.0, 0.0, 0.0, 1.0])
    expected = term.expected(*shares(alphas), (betas, betas))
    wanted = planned_costs(Genotype(cell, cell), config).ops_honest
    assert float(expected) == pytest.approx(wanted, rel=1e-5)


# -- the term --------------------------------------------------------------------------------------


#: Candidates alone.
PLAIN = {"max_pool_3x3": 0.5, CONVOLUTION: 2.0}


def of_candidates(space=SHARED, config=None, **settings):
    """A term without anything that all networks have."""
    config, table = config or NetworkConfig(**SMALL), LatencyTable.from_dict(PLAIN)
    return ExpectedCost(space, config, measure="latency", table=table, **settings)


def test_the_term_is_one_sided_and_smooth():
    probabilities = even(SHARED)
    cost = float(of_candidates(target=1.0).expected(*probabilities))
    # Each of 3 cells keeps 2 edges.
    assert cost == pytest.approx(3 * 2 * (0.5 + 2.0) / 3)
    for target, value in ((cost / np.e, 0.5), (2 * cost, 0.0)):
        term = of_candidates(target=target, weight=0.5)
        assert float(term(*probabilities)) == pytest.approx(value, rel=1e-4, abs=1e-9)
    # Nothing but Zeroise costs nothing, and has a gradient.
    none = tf.constant(np.tile(np.eye(3)[0], (5, 1)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(none)
        value = of_candidates(target=1.0)(none, none)
    assert float(value) == 0.0 and not np.any(tape.gradient(value, none))
    alpha = tf.Variable(np.zeros((5, 3), np.float32))
    steps = []
    for target in (0.999 * cost, 1.001 * cost):
        term = of_candidates(target=target)
        with tf.GradientTape() as tape:
            value = term(tf.nn.softmax(alpha), probabilities[1])
        steps.append(float(tf.reduce_max(abs(tape.gradient(value, alpha)))))
    assert 0 < steps[0] < 1e-4 and steps[1] == 0


def test_what_all_networks_cost_does_not_dampen_the_term():
    tables = [PLAIN, {**PLAIN, "stem": 300.0, "classifier": 50.0, "shortcut": 75.0}]
    terms = [
        ExpectedCost(
            SHARED,
            NetworkConfig(**SMALL),
            measure="latency",
            table=LatencyTable.from_dict(table),
            target=target,
        )
        # Two reduction cells with shortcuts that have layers.
        for table, target in zip(tables, (2.0, 2.0 + 500.0), strict=True)
    ]
    values = [float(term(*even(SHARED))) for term in terms]
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0] > 0
    costs = [float(term.expected(*even(SHARED))) for term in terms]
    assert costs[1] - costs[0] == pytest.approx(500.0)


@pytest.mark.parametrize("shortcut", [True, False])
def test_gradient_against_finite_differences(shortcut):
    """Steps of 0.03 in α: float32 knows the cost to seven digits."""
    space = SearchSpace("two", NAMES, NAMES[1:], nodes=3, shortcut=shortcut)
    config = NetworkConfig(**{**SMALL, "cells": 4}, shortcut=shortcut)
    term = of_candidates(space, config, target=0.5, weight=100.0)
    generator = np.random.default_rng(1)
    start = [generator.normal(size=(9, k)).astype(np.float32) for k in (3, 2)]

    def value(alphas):
        return term(*(tf.nn.softmax(alpha) for alpha in alphas))

    variables = [tf.Variable(alpha) for alpha in start]
    with tf.GradientTape() as tape:
        result = value(variables)
    gradients = tape.gradient(result, variables)
    for which, row, column in ((0, 0, 0), (0, 3, 2), (0, 8, 1), (1, 1, 0), (1, 5, 1), (1, 7, 0)):
        sides = []
        for step in (0.03, -0.03):
            moved = [alpha.copy() for alpha in start]
            moved[which][row, column] += step
            sides.append(float(value(moved)))
        difference = (sides[0] - sides[1]) / 0.06
        gradient = float(gradients[which][row, column])
        assert gradient == pytest.approx(difference, rel=0.02, abs=2e-3)


def test_a_search_with_a_strong_weight_falls_to_its_target():
    keras.utils.set_random_seed(0)
    net = SuperNet(SHARED, 2, cells=1, channels=2, input_shape=(8, 8, 3))
    # The only cell is a normal one and keeps 2 edges.
    start, target = 2 * (0.5 + 2.0) / 3, 0.5
    batch = tf.random.stateless_normal((4, 8, 8, 3), seed=(0, 0)), tf.constant([0, 1, 0, 1])
    data = tf.data.Dataset.from_tensors((batch, batch)).repeat()
    net.compile(
        alpha_optimizer=keras.optimizers.Adam(0.03, beta_1=0.5),
        cost=of_candidates(config=network_of(net), target=target, weight=100.0),
    )
    history = net.fit(data, steps_per_epoch=30, epochs=4, verbose=0).history
    assert start > history["expected_cost"][0] > history["expected_cost"][-1]
    assert history["expected_cost"][-1] == pytest.approx(target, rel=0.02)
    assert history["cost"][-1] < 1e-3 * history["cost"][0]


def test_the_size_is_that_of_the_final_network_where_it_is_given():
    net = SuperNet(SHARED, 4, cells=3, channels=2, input_shape=(8, 8, 3))
    own = ExpectedCost.from_settings(CostTermSettings(target=1e6), net.space, network_of(net))
    assert own.network == NetworkConfig(**SMALL)
    large = NetworkConfig(**{**SMALL, "cells": 5, "channels": 8})
    term = ExpectedCost.from_settings(CostTermSettings(target=1e6), net.space, large)
    genotype = Genotype.random(SHARED, 1)
    wanted = planned_costs(genotype, large).ops_honest
    expected = float(term.expected(*shares(decided(genotype, SHARED))))
    assert expected == pytest.approx(wanted, rel=1e-5)


TABLE = {
    "max_pool_3x3": 0.5,
    CONVOLUTION: [{"stride": 2, "milliseconds": 1.0}, {"milliseconds": 2.0}],
    "stem": 3.0,
    "preprocess": [{"size": 8, "milliseconds": 0.1}, {"milliseconds": 0.01}],
    "shortcut": 10.0,
    "classifier": 4.0,
}


def test_latency_by_hand():
    """Cells: normal at 8×8, reduction 8×8 → 4×4 and 4×4 → 2×2, each with both kinds of input."""
    space = SearchSpace("one", NAMES, NAMES, nodes=1)
    normal = [[(CONVOLUTION, 0), ("max_pool_3x3", 1)]]
    genotype = Genotype(normal, [[(CONVOLUTION, 0), (CONVOLUTION, 1)]])
    table = LatencyTable.from_dict(TABLE)
    term = ExpectedCost(space, NetworkConfig(**SMALL), measure="latency", target=100.0, table=table)
    edges = (2.0 + 0.5) + 2 * (1.0 + 1.0)
    preprocessing = 2 * 0.1 + 2 * 0.1 + (0.1 + 0.01)
    wanted = 3.0 + 4.0 + edges + preprocessing + 2 * 10.0
    expected = float(term.expected(*shares(decided(genotype, space))))
    assert expected == pytest.approx(wanted, rel=1e-5)


def test_round_trip():
    table = LatencyTable.from_dict(TABLE)
    config = NetworkConfig(**SMALL)
    for settings in ({"gamma": 2.0}, {"measure": "latency", "table": table, "weight": 3.0}):
        term = ExpectedCost(SHARED, config, target=1e6, **settings)
        text = keras.utils.serialize_keras_object(term)
        again = keras.utils.deserialize_keras_object(text)
        assert again.get_config() == term.get_config()
        assert float(again(*even(SHARED))) == float(term(*even(SHARED)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measure": "flops"}, "Received: 'flops'; did you mean 'ops'"),
        ({"target": 0.0}, "above 0. Received: target=0.0"),
        ({}, "Received: target=1 for .* of a network of 3 cells and 2 channels. Raise the target"),
        ({"measure": "latency"}, "Received: measure 'latency' without a table. Give search.cost"),
        ({"table": LatencyTable.from_dict(TABLE)}, "Received: measure 'ops' with a table"),
        (
            {"measure": "latency", "table": LatencyTable.from_dict({"stem": 1.0})},
            "every candidate of the search space. Received: none for max_pool_3x3, bin_conv_3x3",
        ),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(BnasLarqError, match=message):
        ExpectedCost(SHARED, NetworkConfig(**SMALL), **{"target": 1.0, **settings})
