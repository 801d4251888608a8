"""The form in which a network trains: the same function and weights, in few passes over memory."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

from bnas_larq.backend import keras, lq, tf
from bnas_larq.determinism import uncollected
from bnas_larq.errors import BnasLarqError, nearest
from bnas_larq.layers.batch_norm import BatchNorm2D
from bnas_larq.layers.binary_convolution import BinaryConv2D, MixedPrecisionConv2D
from bnas_larq.layers.kernel_groups import StepKernels
from bnas_larq.layers.quantizers import SignScale

#: What networks may compute in while training; both hold ±1 exactly.
COMPUTE_TYPES = ("float32", "bfloat16")


@contextlib.contextmanager
def fast_training(model: keras.Model, compute: str) -> Iterator[None]:
    """Inside, `model` trains fast: from the first convolution to the last pool its activations and
    their gradients have one of `COMPUTE_TYPES` (BnasLarqError for others), a BatchNorm that only a
    sign reads is computed together with it, and kernels are quantised in groups. Weights,
    statistics and losses, and all of evaluation, stay float32. The training function is traced anew
    on entry and exit.
    """
    if compute not in COMPUTE_TYPES:
        raise BnasLarqError(
            "Networks train in 'float32' or 'bfloat16'. "
            f"Received: {compute!r}; {nearest(str(compute), COMPUTE_TYPES)}"
        )
    layers = [layer for layer in model.submodules if isinstance(layer, MixedPrecisionConv2D)]
    pairs = _behind_norms(model)
    # A projection of kernels (PCNN) remembers its own loss, so each is quantised by its layer.
    binary = [
        layer
        for layer in layers
        if isinstance(layer, BinaryConv2D)
        and layer.is_plain
        and type(layer.kernel_quantizer) is SignScale
    ]
    kernels = StepKernels(binary)
    earlier = [layer.compute for layer in layers]
    step = model.train_step

    # Nothing in here needs AutoGraph, whose conversion takes most of the time to trace a step.
    @tf.autograph.experimental.do_not_convert
    def train_step(data: Any) -> dict[str, tf.Tensor]:
        with uncollected(), kernels.step():
            return step(data)

    try:
        for layer in layers:
            layer.compute = compute
        for conv, norm in pairs:
            # Weak: Keras would count the layer among the convolution's own.
            conv.norm, norm.deferred = weakref.ref(norm), True
        for layer in binary:
            layer.step_kernels = kernels
        model.train_function, model.train_step = None, train_step
        yield
    finally:
        for layer, before in zip(layers, earlier, strict=True):
            layer.compute = before
        for conv, norm in pairs:
            conv.norm, norm.deferred = None, False
        for layer in binary:
            layer.step_kernels = None
        model.train_function, model.train_step = None, step


def _behind_norms(model: keras.Model) -> list[tuple[BinaryConv2D, BatchNorm2D]]:
    """The binary convolutions that alone read what a BatchNorm in front of them returns."""
    models = [model, *model.submodules]
    ends = [tensor for part in models for tensor in tf.nest.flatten(getattr(part, "outputs", []))]
    # Of a student, whose loss reads them.
    ends += getattr(model, "attended", [])
    read = {id(tensor.node.layer) for tensor in ends if hasattr(tensor, "node")}
    pairs = []
    for layer in model.submodules:
        if not isinstance(layer, BinaryConv2D) or len(layer.inbound_nodes) != 1:
            continue
        norm = layer.inbound_nodes[0].inbound_layers
        plain = type(layer.input_quantizer) is lq.quantizers.SteSign and layer.is_plain
        alone = type(norm) is BatchNorm2D and len(norm.outbound_nodes) == 1
        if plain and alone and id(norm) not in read:
            pairs.append((layer, norm))
    return pairs
