"""Dead sign activations, planted in the statistics of BatchNorm."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers import operations
from bnas_larq.spaces import ZEROISE, SearchSpace
from bnas_larq.supernet.dead_signs import dead_channels, dead_sign_share
from bnas_larq.supernet.relaxations import GumbelHard, SampledPath
from bnas_larq.supernet.search_cell import PartialChannels, SearchCell
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.supernet.temperature_schedule import TemperatureSchedule

NAMES = (ZEROISE, "max_pool_3x3", "bin_conv_3x3", "bin_dil_conv_3x3")
CHANNELS, CELLS, NODES = 4, 3, 2
#: Both inputs and the first node of each cell: candidates share the sign of a state.
SIGNS = (1 + 2 + 4) * CHANNELS * (NODES + 1)


def test_a_channel_is_dead_if_it_never_changes_or_passes_no_gradient():
    flips = np.tile([1.0, -1.0], 8).reshape(1, 4, 4, 1)
    values = np.concatenate([0.5 * flips, 0.5 + abs(flips), 0 * flips - 0.1, 2 * flips], axis=-1)
    inputs = tf.constant(values, tf.float32)
    dead = dead_channels(lq.quantizers.SteSign(), inputs)
    assert dead.numpy().tolist() == [False, True, True, True]
    # A sign whose gradient reaches further.
    dead = dead_channels(lq.quantizers.SteSign(clip_value=3.0), inputs)
    assert dead.numpy().tolist() == [False, True, True, False]


@pytest.fixture(scope="module")
def images():
    return tf.random.stateless_normal((16, 8, 8, 3), seed=(0, 1))


def settled(images, names=NAMES, **settings):
    """A supernet whose moving statistics are those of the images."""
    keras.utils.set_random_seed(0)
    space = SearchSpace("small", names, names, nodes=NODES)
    net = SuperNet(space, 4, CELLS, CHANNELS, input_shape=images.shape[1:], **settings)
    for _ in range(30):
        net(images, training=True)
    return net


@pytest.fixture(scope="module")
def net(images):
    return settled(images)


def norm_of(net, cell, state):
    """BatchNorm in front of a state's sign."""
    candidates = net.cells[cell].outgoing[state].candidates
    return next(c for c in candidates if c.convolution is not None).chains[0][0]


def test_planted_channels_are_found(net, images):
    before = [weight.numpy() for weight in net.weights]
    healthy = dead_sign_share(net, images)
    assert healthy < 0.2
    for after, value in zip(net.weights, before, strict=True):
        np.testing.assert_array_equal(after.numpy(), value)
    # Three of the 8 channels that the first node of the second cell has.
    norm = norm_of(net, cell=1, state=2)
    mean = norm.moving_mean.numpy()
    norm.moving_mean.assign(np.where(np.arange(8) < 3, 1e3, mean))
    share = dead_sign_share(net, images)
    norm.moving_mean.assign(mean)
    assert share == pytest.approx(healthy + 3 / SIGNS)


def test_candidates_that_nobody_computes_do_not_count(net, images):
    """Without convolutions on the edges from the first input, its sign is not taken."""
    norms = [norm_of(net, cell, 0) for cell in range(CELLS)]
    kept = [norm.moving_mean.numpy() for norm in norms]
    for norm in norms:
        norm.moving_mean.assign(1e3 * np.ones(norm.moving_mean.shape))
    assert dead_sign_share(net, images) >= 1 / 3
    everything = alive = np.ones((len(net.space.edges), len(NAMES)), bool)
    for states, share in (((0,), 0.0), ((0, 1, 2), None)):
        alive = alive.copy()
        alive[np.isin([state for _, state in net.space.edges], states), 2:] = False
        net.prune(alive, alive)
        found = dead_sign_share(net, images)
        assert found is None if share is None else found < 0.2
    net.prune(everything, everything)
    for norm, mean in zip(norms, kept, strict=True):
        norm.moving_mean.assign(mean)


def test_signs_inside_of_a_candidate_count(images, registry):
    """A user's operation with two convolutions, of which the second reads half the channels."""

    @operations.register_operation("narrow")
    def narrow(context):
        """1×1 to half the channels, 3×3 back to all of them"""
        first = context.at(f"{context.name}_first", context.filters // 2)
        second = context.at(f"{context.name}_second", context.filters, context.strides)
        return [
            *first.binary_input(),
            *first.binary_conv(1),
            *second.binary_input(),
            *second.binary_conv(3),
        ]

    net = settled(images, (ZEROISE, "narrow"))
    # Each edge has its own operation, of C and C/2 channels: (1 + 1/2)·5 edges.
    total = (1 + 2 + 4) * CHANNELS * 1.5 * len(net.space.edges)
    healthy = dead_sign_share(net, images)
    norm = net.cells[2].outgoing[0].candidates[0].chains[0][3]
    assert norm.moving_mean.shape == (8,)
    norm.moving_mean.assign(1e3 * np.ones(8))
    found = dead_sign_share(net, images)
    assert 1 <= round((found - healthy) * total, 3) <= 8


def test_signs_behind_a_first_convolution_count_for_live_edges_only(images):
    """A separable convolution takes three further signs, of the channels of all edges at once."""
    net = settled(images, (ZEROISE, "bin_sep_conv_3x3"))
    outgoing = net.cells[-1].outgoing[0]
    (separable,) = outgoing.candidates
    last = [layer for layer in separable.chains[0] if "_bn" in layer.name][-1]
    edges, filters = len(outgoing.rows), outgoing.filters
    dead = np.repeat([0.0] * (edges - 1) + [1e3], filters)
    alive = np.ones((len(net.space.edges), 2), bool)
    shares = []
    for pruned in ([], [outgoing.rows[-1]]):
        alive[pruned, 1] = False
        net.prune(alive, alive)
        healthy = dead_sign_share(net, images)
        mean = last.moving_mean.numpy()
        last.moving_mean.assign(mean + dead)
        shares.append(dead_sign_share(net, images) - healthy)
        last.moving_mean.assign(mean)
    # One sign of each state, and three of each edge; nobody reads the last cell's last node.
    signs = (1 + 2 + 4) * CHANNELS * (NODES + 1 + 3 * len(net.space.edges))
    assert 0 < shares[0] <= filters / signs + 1e-9
    assert shares[1] == 0.0


def test_partial_channels(images):
    net = settled(images, channel_sampling=PartialChannels(2))
    norm = norm_of(net, cell=0, state=2)
    assert norm.moving_mean.shape == (2,)
    healthy = dead_sign_share(net, images)
    norm.moving_mean.assign([1e3, 1e3])
    # Half of the channels pass the candidates.
    assert dead_sign_share(net, images) == pytest.approx(healthy + 2 / (SIGNS / 2))


@pytest.mark.parametrize("settings", [{"edge_normalization": True}, {"relaxation": "sampled"}])
def test_it_looks_at_the_network_that_is_evaluated(settings, monkeypatch):
    if "relaxation" in settings:
        settings = {"relaxation": GumbelHard(TemperatureSchedule(1.0, 1.0, 1))}
    operations = ("none", "max_pool_3x3", "bin_conv_3x3")
    space = SearchSpace("small", operations, operations, nodes=1)
    net = SuperNet(space, 3, cells=1, channels=2, input_shape=(8, 8, 3), **settings)
    seen, values = [], SearchCell.values

    def spied(self, states, choice, training=None):
        seen.append(choice)
        return values(self, states, choice, training)

    monkeypatch.setattr(SearchCell, "values", spied)
    assert 0 <= dead_sign_share(net, tf.zeros([2, 8, 8, 3])) <= 1
    (choice,) = seen
    if net.betas:
        assert choice.edge_weights is not None
    else:
        assert isinstance(choice, SampledPath)
