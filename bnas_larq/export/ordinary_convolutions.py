"""Convolutions of published systems, rewritten as ordinary ones of ±1, for which Larq Compute
Engine (LCE) has 1-bit kernels. The function stays the same.

Circulant convolutions (CBCN, arXiv 1910.10853): their kernel becomes the rotated one. The converter
(0.16) does not compute large kernels in advance, and would leave a gather and a real convolution.
So does that of convolutions with several projections (PCNN, arXiv 1811.12755).

Activations 0 and 1 (BinaryDuo, arXiv 2002.06517): with t = −1 where h = 1, and t = +1 where h = 0,
h = (1 − t)/2, so conv(h, W) = ½·ΣW + conv(t, −W/2). Padded zeros are padded ones of t.
"""

from __future__ import annotations

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.binary_convolution import BinaryConv2D
from bnas_larq.layers.circulant import CirculantQuantConv2D, rotated
from bnas_larq.layers.coupled_activation import ClippedRound
from bnas_larq.layers.projected_convolution import ProjectedConv2D


def with_ordinary_convolutions(model: keras.Model) -> keras.Model:
    """A copy of a model without nested ones, in which LCE knows all binary convolutions of this
    package; the model itself if it knows them already."""
    copies = {layer.name: _ordinary(layer) for layer in model.layers}
    if not any(copies.values()):
        return model

    def replacement(layer: keras.layers.Layer) -> keras.layers.Layer:
        ordinary = copies[layer.name]
        return ordinary[0] if ordinary else type(layer).from_config(layer.get_config())

    clone = keras.models.clone_model(model, clone_function=replacement)
    for layer in model.layers:
        ordinary = copies[layer.name]
        clone.get_layer(layer.name).set_weights(ordinary[1] if ordinary else layer.get_weights())
    return clone


class _StepConv2D(lq.layers.QuantConv2D):
    """A binary convolution of t, see above, whose input quantizer is the sign.

    Exists during export only.

    Input shape: [1, height, width, channels]. Output shape: as of the layer that it replaces.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return super().call(0.5 - inputs)


def _ordinary(layer: keras.layers.Layer) -> tuple[lq.layers.QuantConv2D, list[np.ndarray]] | None:
    """The layer that takes another one's place, and its weights; None for one that may stay."""
    turns, steps = isinstance(layer, CirculantQuantConv2D), _reads_steps(layer)
    projects = isinstance(layer, ProjectedConv2D)
    if not (turns or steps or projects):
        return None
    kind, config = lq.layers.QuantConv2D, layer.get_config()
    bias = [layer.bias.numpy()] if layer.use_bias else []
    with lq.context.quantized_scope(True):
        kernel = tf.convert_to_tensor(layer.kernel).numpy()
    # The kernel is ±scale already, which this quantizer keeps.
    config["kernel_quantizer"] = layer.kernel_quantizer and "magnitude_aware_sign"
    config["kernel_regularizer"] = None
    if turns:
        kernel = rotated(kernel, layer.orientations).numpy()
    if turns or projects:
        own = ("planes", "orientations", "projections", "held")
        config = {key: value for key, value in config.items() if key not in own}
        config |= {"filters": layer.filters, "use_bias": False}
    if projects and layer.held:
        config["kernel_quantizer"] = None
    if steps:
        kind, kernel = _StepConv2D, -0.5 * kernel
        bias = [sum(bias) - kernel.sum((0, 1, 2))]
        config |= {"input_quantizer": "ste_sign", "pad_values": 1.0, "use_bias": True}
    return kind.from_config(config), [kernel, *bias]


def _reads_steps(layer: keras.layers.Layer) -> bool:
    """Whether it is a zero-padded binary convolution of activations 0 and 1."""
    return (
        type(layer) in (lq.layers.QuantConv2D, BinaryConv2D)
        and isinstance(layer.input_quantizer, ClippedRound)
        and layer.input_quantizer.precision == 1
        and layer.kernel_quantizer is not None
        and keras.backend.get_value(layer.pad_values) == 0
    )
