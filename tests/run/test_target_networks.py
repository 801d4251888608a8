"""larq_zoo's networks by name; what they cost agrees with larq's own summary."""

from __future__ import annotations

import pytest

from bnas_larq.backend import keras, lq
from bnas_larq.costs.accounting import count_costs
from bnas_larq.errors import BnasLarqError
from bnas_larq.run.target_networks import reference_model


# QuickNetSmall and BiRealNet at its paper's size: see test_costs.py
@pytest.mark.parametrize(("name", "size"), [("QuickNet", 224), ("BinaryDenseNet28", 64)])
def test_agrees_with_larq(name, size):
    model = reference_model(f"larq_zoo:{name}", (size, size, 3), num_classes=7)
    costs, profile = count_costs(model), lq.models.ModelProfile(model)
    assert costs.binary_macs == profile.op_count("mac", 1) > 0
    assert costs.full_precision_macs == profile.op_count("mac", 32)
    assert costs.uncounted == ()
    # larq counts two vectors of a BatchNorm, as its converter leaves them; we count all it stores
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    fused = sum(norm.count_params() - 2 * norm.moving_mean.shape[0] for norm in norms)
    assert costs.parameters == profile.weight_count() + fused == model.count_params()
    assert model.output_shape == (None, 7)


def test_names():
    with pytest.raises(BnasLarqError, match="known: .*BiRealNet, .*BinaryDenseNet28, .*QuickNet"):
        reference_model("nothing like it")
    with pytest.raises(BnasLarqError, match="Received: 'QuikNet'; did you mean 'QuickNet'"):
        reference_model("larq_zoo:QuikNet")


def test_impossible_sizes():
    with pytest.raises(
        BnasLarqError, match="BinaryAlexNet cannot have every size. Received: input_shape"
    ):
        reference_model("binaryalexnet", (16, 16, 3))
