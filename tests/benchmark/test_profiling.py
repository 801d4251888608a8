"""Kinds of operations, and a real trace."""

from __future__ import annotations

import pytest

from bnas_larq.backend import tf
from bnas_larq.benchmark import profiling


@pytest.mark.parametrize(
    ("name", "type_", "kind"),
    [
        ("net/conv/QuantConv2D", "_MklNativeConv2D", profiling.CONVOLUTIONS),
        ("net/conv/QuantConv2D", "Conv2D", profiling.CONVOLUTIONS),
        ("net/add", "_MklNativeFusedConv2D", profiling.CONVOLUTIONS),
        ("net/conv", "_FusedConv2D", profiling.CONVOLUTIONS),
        ("g/c", "_MklNativeConv2DBackpropInput", profiling.INPUT_GRADIENTS),
        ("g/c", "_MklNativeConv2DBackpropFilterWithBias", profiling.KERNEL_GRADIENTS),
        ("g/c", "DepthwiseConv2dNativeBackpropFilter", profiling.KERNEL_GRADIENTS),
        ("net/bn", "_MklNativeFusedBatchNormV3", profiling.BATCH_NORM),
        ("net/bn", "_FusedBatchNormEx", profiling.BATCH_NORM),
        ("g/bn", "FusedBatchNormGradV3", profiling.BATCH_NORM),
        ("net/pool", "_MklNativeMaxPool", profiling.POOLING),
        ("net/classifier", "_MklNativeFusedMatMul", profiling.OTHER_PRODUCTS),
        ("cluster", "_XlaRun", profiling.COMPILED),
        ("net/cast", "Cast", profiling.CASTS),
        ("net/concat", "ConcatV2", profiling.COPIES),
        ("net/dilated", "SpaceToBatchND", profiling.COPIES),
        ("net/mul", "Mul", profiling.ELEMENTWISE),
        ("g/relu", "ReluGrad", profiling.ELEMENTWISE),
        ("SGD/mul_153", "Mul", profiling.OPTIMIZER),
        ("clip_by_global_norm/truediv", "Mul", profiling.OPTIMIZER),
    ],
)
def test_kinds(name, type_, kind):
    assert profiling.kind_of(name, type_, ["SGD", "Adam"]) == kind


def test_a_traced_step():
    images = tf.random.stateless_normal([8, 16, 16, 4], [0, 0])
    kernel = tf.random.stateless_normal([3, 3, 4, 4], [0, 1])

    @tf.function
    def step():
        return tf.reduce_sum(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")))

    step()
    profile = profiling.profile_steps(lambda: step().numpy(), steps=3)
    kinds = {row["name"]: row for row in profile["kinds"]}
    assert kinds[profiling.CONVOLUTIONS]["calls"] == 1
    assert profiling.INPUT_GRADIENTS not in kinds
    assert "Conv2D" in {row["name"] for row in profile["operations"]}
    for rows in (profile["kinds"], profile["operations"]):
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert sum(row["seconds"] for row in rows) == pytest.approx(profile["operation_seconds"])
        assert rows == sorted(rows, key=lambda row: -row["seconds"])


def test_what_runs_inside_an_operation_is_not_counted_twice():
    from types import SimpleNamespace as Event

    names = {1: "f:Call", 2: "f/a:Mul", 3: "ExecutorState::Process", 4: "b:Add"}
    metadata = {key: Event(name=name) for key, name in names.items()}
    events = [
        Event(metadata_id=3, offset_ps=0, duration_ps=100),
        Event(metadata_id=1, offset_ps=10, duration_ps=50),
        Event(metadata_id=2, offset_ps=20, duration_ps=30),
        Event(metadata_id=4, offset_ps=60, duration_ps=5),
    ]
    assert list(profiling._of_thread(events, metadata)) == [
        ("f", "Call", 20e-12),
        ("f/a", "Mul", 30e-12),
        ("b", "Add", 5e-12),
    ]
