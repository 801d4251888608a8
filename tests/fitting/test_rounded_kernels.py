"""Which kernels are rounded to int8."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.costs.float_kernels import int8_codes
from bnas_larq.fitting.rounded_kernels import round_to_int8
from bnas_larq.networks.residual_network import build_residual_network


def test_full_precision_kernels_of_256_weights_are_rounded_and_nothing_else():
    """The stem has 3·3·3·16 weights, the depthwise transition 2·2·16·2, the classifier 32·10."""
    model = build_residual_network(
        input_shape=(8, 8, 3), widths=(16, 32), blocks=(1, 1), transition="depthwise"
    )
    before = {weight.name: weight.numpy() for weight in model.weights}
    round_to_int8(model)
    changed = {w.name for w in model.weights if not np.array_equal(w.numpy(), before[w.name])}
    assert changed == {"stem_conv/kernel:0", "classifier/kernel:0"}
    for weight in model.weights:
        if weight.name in changed:
            codes, scales = int8_codes(before[weight.name], axes=(-1,))
            np.testing.assert_array_equal(weight.numpy(), codes * scales)


@pytest.mark.parametrize("scheme", ["abc-net-3x3", "bonn", "circulant", "pcnn-4", "xnor-k"])
def test_latent_kernels_of_every_kind_stay_as_they_are(scheme):
    model = build_residual_network(
        input_shape=(8, 8, 3), widths=(16,), blocks=(1,), num_classes=2, scheme=scheme
    )
    before = {weight.name: weight.numpy() for weight in model.weights}
    round_to_int8(model)
    changed = {w.name for w in model.weights if not np.array_equal(w.numpy(), before[w.name])}
    assert changed == {"stem_conv/kernel:0"}
