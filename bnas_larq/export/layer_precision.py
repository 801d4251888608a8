"""Which convolutions Larq Compute Engine will make 1-bit, told from the Keras model alone.

The rules were found by converting (LCE 0.16) and are tested against conversions. A convolution
becomes 1-bit when all of this holds:

- It is an ordinary 2-D convolution without groups. LCE has no 1-bit dense, depthwise, separable,
  transposed, 1-D or 3-D kernels.
- Its kernel, as used, is ±scale with one scale for each output channel; how it came to be is
  indifferent.
- Its input is ±1 and comes straight from a sign: its own input quantizer, or a quantizer before
  it. A pool, pad, crop, reshape or concatenation between the sign and the convolution breaks the
  pattern; in front of the sign they do not.
- Padding is VALID, or SAME with zeros or ones. Zeros that are padded behind the sign any other way
  are neither +1 nor −1.
- It is not one of several dilated convolutions of one size on the same signs, see
  `bnas_larq.export.layer_precision`.

A convolution that reads nothing but constants (Zeroise) is computed while converting and is not in
the file at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.export.nested_models import calls, flattened
from bnas_larq.export.tensor_facts import VANISH, Value, is_sign, merged, trace
from bnas_larq.layers.convolutions import SymmetricQuantConv2D

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_UNUSUAL = (
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Conv1D,
    keras.layers.Conv3D,
    keras.layers.LocallyConnected1D,
    keras.layers.LocallyConnected2D,
)
#: Where Keras, Larq and this package define layers; others' convolutions may compute anything.
_KNOWN_PACKAGES = ("keras", "tf_keras", "larq", "bnas_larq", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of one convolution or dense layer.

    Attributes:
        name: the layer's name; inside a nested model `model/layer`.
        kind: `"convolution"`, `"depthwise"`, `"dense"` or `"other"`.
        binary: whether it will be 1-bit in the file.
        meant: whether its kernel was meant to be binary: it has a kernel quantizer.
        cause: why it is not 1-bit: `"design"`, `"padding"`, `"groups"`, `"precision"`, `"kind"`,
            `"custom"`, `"shared"` or `"constant"` (computed while converting, so not in the file);
            empty for 1-bit ones.
        reason: the same as a phrase for people.
        kernel: kernel shape as in Keras.
    """

    name: str
    kind: str
    binary: bool
    meant: bool
    cause: str
    reason: str
    kernel: tuple[int, ...]


def judge(model: keras.Model) -> dict[str, Verdict]:
    """Tell for every convolution and dense layer whether it will be 1-bit in an exported file.

    Args:
        model: functional or sequential; nested models are looked into. Its weights are read, as a
            quantizer's name does not tell what its kernels are.

    Returns:
        Name → verdict, in the model's order.

    Raises:
        ExportError: the model, or one nested in it, has no graph.
    """
    model = flattened(model)
    values = trace(model)
    inputs: dict[int, list[Value]] = {}
    for node in calls(model):
        read = [values[id(tensor)] for tensor in node.keras_inputs]
        inputs.setdefault(id(node.layer), []).append(merged(read))
    verdicts = {
        layer.name: _verdict(layer, inputs[id(layer)])
        for layer in model.layers
        if _kind(layer) and id(layer) in inputs
    }
    for name, others in shared_dilations(model, VANISH).items():
        if verdicts[name].binary:
            verdicts[name] = dataclasses.replace(
                verdicts[name],
                binary=False,
                cause="shared",
                reason=f"it reads the same signs as {', '.join(others)}, dilated like it, and Larq "
                "Compute Engine recognises neither; give each a BatchNorm of its own (training "
                "tells equal ones apart)",
            )
    return verdicts


def _kind(layer: keras.layers.Layer) -> str:
    """What is multiplied; empty for layers without a kernel."""
    if isinstance(layer, _DEPTHWISE):
        return "depthwise"
    if isinstance(layer, _UNUSUAL):
        return "other"
    if isinstance(layer, keras.layers.Conv2D):
        return "convolution"
    return "dense" if isinstance(layer, keras.layers.Dense) else ""


def _verdict(layer: keras.layers.Layer, inputs: list[Value]) -> Verdict:
    cause, reason = _cause(layer, inputs)
    return Verdict(
        name=layer.name,
        kind=_kind(layer),
        binary=not cause,
        meant=_kernel_quantizer(layer) is not None,
        cause=cause,
        reason=reason,
        kernel=tuple(_kernel(layer).shape),
    )


def _kernel(layer: keras.layers.Layer) -> tf.Variable:
    return layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel


def _kernel_quantizer(layer: keras.layers.Layer) -> Any:
    return getattr(layer, "kernel_quantizer", None) or getattr(layer, "depthwise_quantizer", None)


def _cause(layer: keras.layers.Layer, inputs: list[Value]) -> tuple[str, str]:
    """(cause, reason) why it will not be 1-bit; both empty if it will be."""
    kernel_quantizer = _kernel_quantizer(layer)
    own = getattr(layer, "input_quantizer", None)
    own = None if isinstance(own, lq.quantizers.NoOp) else own
    if all(value.constant for value in inputs):
        return "constant", "it reads nothing but Zeroise: it is computed while converting"
    if kernel_quantizer is None and not (
        all(value.sign for value in inputs) and _is_scaled_sign(_kernel(layer))
    ):
        return (
            "design",
            "full precision by design: it has no kernel quantizer (stem, shortcut, classifier)",
        )
    if _kind(layer) != "convolution":
        return (
            "kind",
            f"it is a {type(layer).__name__}; "
            "Larq Compute Engine has 1-bit kernels for ordinary convolutions only",
        )
    if isinstance(layer, SymmetricQuantConv2D):
        return (
            "padding",
            "zeros are padded behind the sign, neither +1 nor -1; build it with padding='same'",
        )
    if type(layer).__module__.split(".")[0] not in _KNOWN_PACKAGES:
        return (
            "custom",
            f"it is a {type(layer).__name__} of {type(layer).__module__}, which may compute "
            "anything; only a conversion can tell",
        )
    if layer.groups != 1:
        return (
            "groups",
            f"it has {layer.groups} groups; Larq Compute Engine has no grouped 1-bit convolution",
        )
    if own is None and not all(value.sign for value in inputs):
        return (
            "precision",
            "its input is not quantised: it has no input quantizer, and no sign stands straight "
            "in front of it (a pad, pool or concatenation between them breaks the pattern)",
        )
    padding = _padding_value(layer)
    if layer.padding == "same" and padding not in (0, 1):
        return "padding", f"it pads with {padding:g}; 0 and 1 export"
    if (own is not None and not is_sign(own)) or not _is_scaled_sign(_kernel(layer)):
        return (
            "precision",
            "its quantised input is not ±1, or its kernel not ±scale with one scale per output "
            "channel",
        )
    return "", ""


def _padding_value(layer: keras.layers.Layer) -> float:
    return float(keras.backend.get_value(getattr(layer, "pad_values", 0.0)))


def _is_scaled_sign(kernel: tf.Variable) -> bool:
    """Whether the kernel, as used, has one magnitude above 0 for each output channel."""
    with lq.context.quantized_scope(True):
        magnitude = np.abs(keras.backend.get_value(kernel))
    magnitude = magnitude.reshape(-1, magnitude.shape[-1])
    return bool((magnitude > 0).all() and (magnitude == magnitude[0]).all())


def shared_dilations(model: keras.Model, vanish: tuple[type, ...]) -> dict[str, list[str]]:
    """Dilated convolutions that read the same signs as others of their size.

    Args:
        model: without nested models.
        vanish: kinds of layers that the converter drops.

    Returns:
        Name → names of the others.
    """
    keys: dict[int, Hashable] = {}
    groups: dict[Hashable, list[str]] = {}
    for node in calls(model):
        layer, inputs = node.layer, node.keras_inputs
        read = keys.get(id(inputs[0]), id(inputs[0]))
        if len(inputs) == 1 and not isinstance(node.outputs, (list, tuple, dict)):
            keys[id(node.outputs)] = _key(layer, read, vanish, id(node.outputs))
        if isinstance(layer, keras.layers.Conv2D) and set(layer.dilation_rate) != {1}:
            own = getattr(layer, "input_quantizer", None)
            signs = read if own is None or isinstance(own, lq.quantizers.NoOp) else ("sign", read)
            size = (layer.kernel_size, layer.dilation_rate, layer.padding, _padding(layer))
            group = groups.setdefault((signs, size), [])
            group += [layer.name] if layer.name not in group else []
    return {
        name: [other for other in group if other != name]
        for group in groups.values()
        if len(group) > 1
        for name in group
    }


def _key(
    layer: keras.layers.Layer, read: Hashable, vanish: tuple[type, ...], itself: int
) -> Hashable:
    """Equal for tensors that TensorFlow's optimizer sees to be equal."""
    if isinstance(layer, vanish):
        return read
    if isinstance(layer, lq.quantizers.Quantizer):
        return "sign", read
    if isinstance(layer, keras.layers.BatchNormalization):
        digest = hashlib.sha256(str(layer.epsilon).encode())
        for array in layer.get_weights():
            digest.update(array.tobytes())
        return "batch norm", digest.hexdigest(), read
    return itself


def _padding(layer: keras.layers.Layer) -> Any:
    return float(keras.backend.get_value(getattr(layer, "pad_values", 0.0)))
