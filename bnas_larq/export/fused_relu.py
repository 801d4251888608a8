"""ReLUs behind binary convolutions, rewritten so that Larq Compute Engine (LCE) fuses them.

LCE (0.16) computes a ReLU together with a binary convolution, and a BatchNorm behind both, too, if
the convolution pads ones (or nothing) and its kernel is ±1. With a kernel of ±s it leaves all
three as operations of their own. But relu(s·x) = s·relu(x) for s > 0, and a BatchNorm of s·x is one
of x with other statistics: its mean divided by s, and its variance and ε by s².
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from bnas_larq.backend import keras, lq
from bnas_larq.costs.multiplications import calls
from bnas_larq.export.layer_precision import is_scaled_sign
from bnas_larq.layers.activations import is_relu
from bnas_larq.layers.binary_convolution import BinaryConv2D, only_convolves


def with_fused_relus(model: keras.Model) -> keras.Model:
    """A copy of a model without nested ones, in which BatchNorms behind a ReLU have the scales of
    binary kernels; the model itself if there are none to move."""
    pairs = {conv.name: norm.name for conv, norm in _chains(model)}
    if not pairs:
        return model

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name in pairs:
            config["kernel_quantizer"] = "ste_sign"
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=replacement)
    for layer in model.layers:
        if layer.name not in pairs:
            clone.get_layer(layer.name).set_weights(layer.get_weights())
    for conv, norm in pairs.items():
        kernel = _used_kernel(model.get_layer(conv))
        scale, own = np.abs(kernel[0, 0, 0]), clone.get_layer(norm)
        clone.get_layer(conv).set_weights([np.sign(kernel)])
        own.moving_mean.assign(own.moving_mean / scale)
        own.moving_variance.assign((own.moving_variance + own.epsilon) / scale**2 - own.epsilon)
    return clone


def _chains(
    model: keras.Model,
) -> Iterator[tuple[lq.layers.QuantConv2D, keras.layers.BatchNormalization]]:
    """Binary convolutions with scales that a ReLU alone reads, and the BatchNorm that alone reads
    that."""
    nodes = list(calls(model))
    times = Counter(id(node.layer) for node in nodes)
    readers: dict[int, list] = {id(tensor): [None] for tensor in model.outputs}
    for node in nodes:
        for tensor in node.keras_inputs:
            readers.setdefault(id(tensor), []).append(node)
    for conv in nodes:
        chain = [conv]
        while chain[-1] and times[id(chain[-1].layer)] == 1 and len(chain) < 3:
            read_by = readers[id(chain[-1].outputs)]
            chain.append(read_by[0] if len(read_by) == 1 else None)
        if len(chain) == 3 and all(chain) and times[id(chain[2].layer)] == 1:
            _, relu, norm = (node.layer for node in chain)
            is_norm = isinstance(norm, keras.layers.BatchNormalization)
            if is_norm and is_relu(relu) and _fits(conv.layer):
                yield conv.layer, norm


def _fits(layer: keras.layers.Layer) -> bool:
    """Whether LCE fuses what follows once the kernel is ±1."""
    return (
        type(layer) in (lq.layers.QuantConv2D, BinaryConv2D)
        and only_convolves(layer, pad_values=(1.0,) if layer.padding == "same" else (0.0, 1.0))
        and layer.kernel_quantizer is not None
        and not layer.use_bias
        and is_scaled_sign(layer.kernel)
    )


def _used_kernel(layer: lq.layers.QuantConv2D) -> np.ndarray:
    with lq.context.quantized_scope(True):
        return keras.backend.get_value(layer.kernel)
