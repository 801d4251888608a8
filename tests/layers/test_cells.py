"""Cells of final networks: drop-path, dead branches, nodes of nothing but Zeroise."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.layers.cells import DropPath, DropPathControl, final_cell
from bnas_larq.layers.operations import Context
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import MAX_NODES

NORMAL = CellPlan(index=1, filters=2, reduction=False, after_reduction=False)
REDUCE = CellPlan(index=1, filters=2, reduction=True, after_reduction=False)
ALL_ZEROISE: Cell = ((Edge("none", 0), Edge("none", 1)), (Edge("none", 1), Edge("none", 2)))


def cell_model(
    cell: Cell,
    plan: CellPlan = NORMAL,
    *,
    shortcut: str = "none",
    drop_path: DropPathControl | None = None,
    size: int = 8,
    width: int | None = None,
) -> keras.Model:
    """A model of one cell, whose inputs have `width` channels, by default as many as its output."""
    width = width or len(cell) * plan.filters
    inputs = [keras.Input((size, size, width), name=name) for name in ("older", "newer")]
    outputs = final_cell(
        cell,
        plan,
        tuple(inputs),
        stem="cifar",
        context=Context("", plan.filters),
        shortcut_kind=shortcut,
        preprocessing="relu",
        drop_path=drop_path,
    )
    return keras.Model(inputs, outputs)


def states_of(model: keras.Model, seed: int = 0) -> list[tf.Tensor]:
    return [
        tf.random.stateless_normal([3, *tensor.shape[1:]], [seed, index])
        for index, tensor in enumerate(model.inputs)
    ]


def names_of(model: keras.Model) -> set[str]:
    return {layer.name for layer in model.layers}


# -- drop-path -------------------------------------------------------------------------------------


def ones(batch: int = 4000) -> tf.Tensor:
    return tf.ones([batch, 2, 3, 4])


def layer_at(rate: float, step: int = 0, seed: int = 7, run_seed: int = 0) -> DropPath:
    layer = DropPath(seed)
    layer.control.rate.assign(rate)
    layer.control.step.assign(step)
    layer.control.seed.assign(run_seed)
    return layer


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    outputs = layer_at(0.2)(ones(), training=True).numpy()
    per_example = outputs[:, 0, 0, 0]
    np.testing.assert_array_equal(
        outputs, np.broadcast_to(per_example[:, None, None, None], outputs.shape)
    )
    np.testing.assert_allclose(np.unique(per_example), [0.0, 1 / (1 - 0.2)], rtol=1e-6)
    # Five standard errors of a proportion around the rate.
    assert np.mean(per_example == 0) == pytest.approx(0.2, abs=5 * np.sqrt(0.2 * 0.8 / 4000))


def test_drop_path_is_a_function_of_seeds_and_step():
    first = layer_at(0.5, step=3)(ones(), training=True).numpy()
    np.testing.assert_array_equal(first, layer_at(0.5, step=3)(ones(), training=True).numpy())
    others = {
        "step": layer_at(0.5, step=4),
        "seed": layer_at(0.5, 3, seed=8),
        "run's seed": layer_at(0.5, 3, run_seed=1),
        "largest run's seed": layer_at(0.5, 3, run_seed=2**32 - 1),
    }
    agreement = {
        what: np.mean(first == layer(ones(), training=True).numpy())
        for what, layer in others.items()
    }
    # Independent masks of rate 1/2 agree in half of the examples.
    assert agreement == pytest.approx(dict.fromkeys(others, 0.5), abs=0.04)


def test_drop_path_repeats_inside_a_graph_that_reads_the_step():
    layer = layer_at(0.5)
    graph = tf.function(lambda x: layer(x, training=True))
    masks = []
    for step in (0, 1, 0):
        layer.control.step.assign(step)
        masks.append(graph(ones(64)).numpy())
    np.testing.assert_array_equal(masks[0], masks[2])
    assert np.any(masks[0] != masks[1])


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False), (0.5, None)])
def test_drop_path_is_the_identity_at_rate_0_and_in_inference(rate, training):
    np.testing.assert_array_equal(layer_at(rate)(ones(8), training=training), ones(8))


def test_drop_path_holds_no_weights_and_survives_its_config():
    layer = layer_at(0.3, seed=9)
    layer(ones(8), training=True)
    assert layer.weights == []
    again = DropPath.from_config(layer.get_config())
    assert again.seed == 9 and float(again.control.rate) == 0.0


def test_drop_path_stands_on_every_edge_but_zeroise_with_a_seed_of_its_own():
    genotype = Genotype.published("bnas_imagenet")
    control = DropPathControl()
    model = cell_model(genotype.normal, drop_path=control)
    drops = [layer for layer in model.layers if isinstance(layer, DropPath)]
    assert len(drops) == 4 * 2
    assert len({layer.seed for layer in drops}) == 4 * 2
    assert all(layer.control is control for layer in drops)
    largest = tuple(
        tuple(Edge("max_pool_3x3", state) for state in {0, 1 + node}) for node in range(MAX_NODES)
    )
    model = cell_model(largest, shortcut="conv", drop_path=control)
    assert len({layer.seed for layer in model.layers if isinstance(layer, DropPath)}) == 2 * 32
    zeroise = Genotype.published("bnas_cifar")
    model = cell_model(zeroise.normal, drop_path=control)
    drops = [layer.name for layer in model.layers if isinstance(layer, DropPath)]
    assert sorted(drops) == [
        "cell1_node0_from0_bin_dil_conv_3x3_drop",
        "cell1_node1_from1_bin_conv_3x3_drop",
    ]


@pytest.mark.parametrize(
    ("plan", "dropped"), [(NORMAL, {"max_pool"}), (REDUCE, {"max_pool", "identity"})]
)
def test_drop_path_never_drops_an_identity(plan, dropped):
    """With strides it is the factorised reduction, as in DARTS."""
    cell: Cell = ((Edge("identity", 0), Edge("max_pool_3x3", 1)),)
    model = cell_model(cell, plan, drop_path=DropPathControl())
    names = [layer.name for layer in model.layers if isinstance(layer, DropPath)]
    assert {kind for kind in ("max_pool", "identity") if any(kind in n for n in names)} == dropped


def test_drop_path_changes_training_only():
    genotype = Genotype.published("bnas_imagenet")
    control = DropPathControl()
    with_drops, without = (cell_model(genotype.normal, drop_path=c) for c in (control, None))
    with_drops.set_weights(without.get_weights())
    control.rate.assign(0.5)
    x = states_of(without)
    np.testing.assert_array_equal(with_drops(x, training=False), without(x, training=False))
    dropped = with_drops(x, training=True).numpy()
    assert np.any(dropped != without(x, training=True).numpy())


# -- structure -------------------------------------------------------------------------------------


def test_a_node_is_the_sum_of_its_edges_and_the_output_their_concatenation():
    cell: Cell = (
        (Edge("max_pool_3x3", 0), Edge("avg_pool_3x3", 1)),
        (Edge("avg_pool_3x3", 2), Edge("none", 0)),
    )
    model = cell_model(cell)
    x = states_of(model)
    inner = keras.Model(
        model.inputs,
        [model.get_layer(f"cell1_preprocess{which}_relu").output for which in (0, 1)],
    )
    older, newer = inner(x)
    first = tf.nn.max_pool2d(older, 3, 1, "SAME") + tf.nn.avg_pool2d(newer, 3, 1, "SAME")
    second = tf.nn.avg_pool2d(first, 3, 1, "SAME")
    np.testing.assert_allclose(model(x), tf.concat([first, second], -1), atol=1e-6)


def test_branches_that_reach_no_output_are_absent():
    """The published reduction cell never uses its newer input: no layer of it, no weight."""
    reduce = Genotype.published("bnas_cifar").reduce
    model = cell_model(reduce, REDUCE)
    assert not any("preprocess1" in name for name in names_of(model))
    assert any("preprocess0" in name for name in names_of(model))
    # BatchNorm with scale and offset, and a 1×1 convolution from 4·2 to 2 channels.
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 2 * 8 + 8 * 2


def test_zeroise_beside_another_edge_gets_no_layer():
    model = cell_model(((Edge("max_pool_3x3", 0), Edge("none", 1)),))
    assert not any("none" in name or "preprocess1" in name for name in names_of(model))


@pytest.mark.parametrize("plan", [NORMAL, REDUCE], ids=["normal", "reduce"])
def test_a_node_of_nothing_but_zeroise_outputs_zeros(plan):
    cell: Cell = (
        (Edge("max_pool_3x3", 0), Edge("none", 1)),
        (Edge("none", 0), Edge("none", 2)),
        (Edge("none", 3),),
    )
    model = cell_model(cell, plan)
    outputs = model(states_of(model), training=True).numpy()
    side = 4 if plan.reduction else 8
    assert outputs.shape == (3, side, side, 3 * plan.filters)
    assert np.any(outputs[..., : plan.filters]) and not np.any(outputs[..., plan.filters :])
    # It takes its shape from the cell's own node, so that the unused input stays dead.
    assert not any("preprocess1" in name for name in names_of(model))


def test_a_cell_of_nothing_but_zeroise_leaves_the_shortcut():
    model = cell_model(ALL_ZEROISE, shortcut="conv")
    x = states_of(model)
    np.testing.assert_array_equal(model(x), x[1])
    assert model.weights == []  # not even the preprocessing


@pytest.mark.parametrize("plan", [NORMAL, REDUCE], ids=["normal", "reduce"])
@pytest.mark.parametrize("state", [0, 1])
def test_a_first_node_of_zeros_revives_no_input(plan, state):
    cell: Cell = ((Edge("none", 0), Edge("none", 1)), (Edge("max_pool_3x3", state),))
    model = cell_model(cell, plan)
    assert not any(f"preprocess{1 - state}" in name for name in names_of(model))
    outputs = model(states_of(model), training=True).numpy()
    assert not np.any(outputs[..., : plan.filters]) and np.any(outputs[..., plan.filters :])


def test_an_older_input_of_twice_the_resolution():
    plan = CellPlan(2, 2, reduction=False, after_reduction=True)
    cell: Cell = ((Edge("none", 0),), (Edge("max_pool_3x3", 0),))
    inputs = [keras.Input((16, 16, 2)), keras.Input((8, 8, 4))]
    outputs = final_cell(
        cell,
        plan,
        tuple(inputs),
        stem="cifar",
        context=Context("", 2),
        shortcut_kind="conv",
        preprocessing="relu",
        drop_path=None,
    )
    assert outputs.shape == (None, 8, 8, 4)


@pytest.mark.parametrize("index", [0, 1])
def test_shortcut_stands_in_all_cells_but_the_first(index):
    plan = CellPlan(index, 2, reduction=False, after_reduction=False)
    cell: Cell = ((Edge("max_pool_3x3", 0), Edge("max_pool_3x3", 1)),)
    with_it, without = (cell_model(cell, plan, shortcut=kind) for kind in ("conv", "none"))
    with_it.set_weights(without.get_weights())
    x = states_of(without)
    expected = without(x) + (x[1] if index else 0.0)
    np.testing.assert_allclose(with_it(x), expected, atol=1e-6)


def test_shortcut_of_a_reduction_cell_is_full_precision_with_bias():
    cell: Cell = ((Edge("max_pool_3x3", 0), Edge("max_pool_3x3", 1)),)
    model = cell_model(cell, REDUCE, shortcut="conv")
    conv = model.get_layer("cell1_shortcut_conv")
    assert (conv.kernel_size, conv.strides, conv.use_bias) == ((2, 2), (2, 2), True)
    assert conv.kernel_quantizer is None and conv.input_quantizer is None
    assert model.get_layer("cell1_shortcut_bn").scale


def test_a_pooled_shortcut_is_the_mean_of_four_pixels_twice_times_a_scale():
    cell: Cell = ((Edge("max_pool_3x3", 0),), (Edge("max_pool_3x3", 1),))
    kinds = ("pool", "none")
    model, without = (cell_model(cell, REDUCE, shortcut=kind, width=2) for kind in kinds)
    x = states_of(model)
    (scale,) = model.get_layer("cell1_shortcut_scale").weights
    assert np.all(scale == 1.0)
    scale.assign(np.arange(1.0, 5.0))
    without.set_weights([w for w in model.get_weights() if w.shape != (4,) or np.any(w != scale)])
    mean = np.mean(x[1].numpy().reshape(3, 4, 2, 4, 2, 2), axis=(2, 4))
    expected = without(x) + np.concatenate([mean, mean], axis=-1) * scale.numpy()
    np.testing.assert_allclose(model(x), expected, atol=1e-5)


def test_a_depthwise_shortcut_is_full_precision_with_bias():
    cell: Cell = ((Edge("max_pool_3x3", 0),), (Edge("max_pool_3x3", 1),))
    model = cell_model(cell, REDUCE, shortcut="depthwise", width=2)
    conv = model.get_layer("cell1_shortcut_conv")
    assert conv.depthwise_kernel.shape == (2, 2, 2, 2)
    assert (conv.strides, conv.use_bias, conv.depthwise_quantizer) == ((2, 2), True, None)
    assert model.get_layer("cell1_shortcut_bn").scale
    # U(−1/√4, 1/√4): each filter reads four numbers.
    largest = np.abs(conv.depthwise_kernel).max()
    assert 0 < largest <= 0.5


def test_shortcut_of_another_shape_is_refused():
    inputs = [keras.Input((8, 8, 2)), keras.Input((8, 8, 5))]
    with pytest.raises(BnasLarqError, match=r"Received: \(8, 8, 5\) and \(8, 8, 2\) in cell1"):
        final_cell(
            ((Edge("max_pool_3x3", 0),),),
            NORMAL,
            tuple(inputs),
            stem="cifar",
            context=Context("", 2),
            shortcut_kind="conv",
            preprocessing="relu",
            drop_path=None,
        )
