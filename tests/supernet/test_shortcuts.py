"""Shortcuts of each kind in the supernet's reduction cells, which double the channels."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import tf
from bnas_larq.spaces import SHORTCUTS, SearchSpace
from bnas_larq.supernet.super_net import SuperNet

NAMES = ("none", "max_pool_3x3")
#: What leads from the newer input to the cell's output.
LAYERS = {
    "conv": ["cell1_shortcut_bn", "cell1_shortcut_conv"],
    "depthwise": ["cell1_shortcut_bn", "cell1_shortcut_conv"],
    "pool": ["cell1_shortcut_pool", "cell1_shortcut_repeat", "cell1_shortcut_scale"],
    "none": [],
}


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_a_reduction_cell_has_the_spaces_shortcut(kind, edge_by_edge):
    space = SearchSpace("small", NAMES, NAMES, nodes=1, shortcut=kind)
    net = SuperNet(space, 3, cells=3, channels=2, input_shape=(8, 8, 3))
    cell = net.cells[1]
    assert [layer.name for layer in cell.shortcut] == LAYERS[kind]
    # The stem's 3·2 channels, and the first cell's.
    states = [tf.random.stateless_normal([2, 8, 8, width], [width, 1]) for width in (6, 2)]
    weights = tf.nn.softmax(tf.random.stateless_normal([2, 2], [3, 4]))
    outputs = cell(states, weights, training=True)
    assert outputs.shape == (2, 4, 4, 4)
    np.testing.assert_allclose(outputs, edge_by_edge(cell, states, weights), atol=1e-5)
    assert SuperNet.from_config(net.get_config()).space == space
    assert net(tf.zeros([1, 8, 8, 3])).shape == (1, 3)
