"""ReLUs behind binary convolutions, rewritten so that Larq Compute Engine (LCE) fuses them.

LCE (0.16) computes a ReLU together with a binary convolution, and a multiplication and an addition
behind both, too, if the convolution pads ones (or nothing) and its kernel is ±1. With a kernel of
±s it leaves all of them as operations of their own. But relu(s·x) = s·relu(x) for s > 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.multiplications import calls
from bnas_larq.export.layer_precision import judge
from bnas_larq.layers.activations import is_relu
from bnas_larq.layers.binary_convolution import BinaryConv2D, only_convolves


class _ScaledReLU(keras.layers.Layer):
    """A ReLU, multiplied by a number for each channel. Exists during export only.

    Input and output shape: [1, height, width, channels].
    """

    def __init__(self, scale: np.ndarray, **kwargs) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(inputs) * self.scale


def with_fused_relus(model: keras.Model) -> keras.Model:
    """A copy of a model without nested ones, in which scales of binary kernels stand behind the
    ReLUs that read their convolutions; the model itself if there are none to move."""
    pairs = list(_pairs(model))
    if not pairs:
        return model
    kernels = {conv.name: _used_kernel(conv) for conv, _ in pairs}
    scales = {relu.name: np.abs(kernels[conv.name][0, 0, 0]) for conv, relu in pairs}

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in scales:
            return _ScaledReLU(scales[layer.name], name=layer.name)
        config = layer.get_config()
        if layer.name in kernels:
            config["kernel_quantizer"] = "ste_sign"
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=replacement)
    for layer in model.layers:
        kernel = kernels.get(layer.name)
        weights = layer.get_weights() if kernel is None else [np.sign(kernel)]
        clone.get_layer(layer.name).set_weights(weights)
    return clone


def _pairs(
    model: keras.Model,
) -> Iterator[tuple[lq.layers.QuantConv2D, keras.layers.ReLU]]:
    """Convolutions that become 1-bit, each with the ReLU that alone reads it."""
    nodes = list(calls(model))
    times = Counter(id(node.layer) for node in nodes)
    readers: dict[int, list] = {id(tensor): [None] for tensor in model.outputs}
    for node in nodes:
        for tensor in node.keras_inputs:
            readers.setdefault(id(tensor), []).append(node)
    candidates = [node for node in nodes if times[id(node.layer)] == 1 and _fits(node.layer)]
    verdicts = judge(model) if candidates else {}
    for node in candidates:
        reader, *others = readers[id(node.outputs)]
        alone = reader and not others and times[id(reader.layer)] == 1
        if alone and is_relu(reader.layer) and verdicts[node.layer.name].binary:
            yield node.layer, reader.layer


def _fits(layer: keras.layers.Layer) -> bool:
    """Whether LCE fuses what follows once the kernel is ±1, if the convolution is 1-bit."""
    return (
        type(layer) in (lq.layers.QuantConv2D, BinaryConv2D)
        and only_convolves(layer, pad_values=(1.0,) if layer.padding == "same" else (0.0, 1.0))
        and not layer.use_bias
    )


def _used_kernel(layer: lq.layers.QuantConv2D) -> np.ndarray:
    with lq.context.quantized_scope(True):
        return keras.backend.get_value(layer.kernel)
