"""Which convolutions Larq Compute Engine (LCE) will make 1-bit, judged from the Keras model alone.

The rules were found by converting (LCE 0.16) and are tested against conversions. A convolution
becomes 1-bit when all of this holds:

- It is an ordinary 2-D convolution. LCE has no 1-bit dense, depthwise, separable, transposed, 1-D
  or 3-D kernels.
- Each of its groups, if it has some, reads a multiple of 32 input channels. LCE's default kernel
  then refuses to run it, its indirect one (`use_indirect_bgemm`) does.
- Its kernel, as used, is ±scale with one scale per output channel, however it is computed.
- Its input is ±1 and comes directly from a sign: its own input quantizer, or a quantizer before it.
  A pool, pad, crop, reshape or concatenation between sign and convolution breaks the pattern; in
  front of the sign it does not.
- Padding is VALID, or SAME with zeros or ones. Zeros padded behind the sign in any other way are
  neither +1 nor −1.
- If dilated, no other dilated convolution of its size reads the same signs. TensorFlow writes a
  dilated convolution as three operations and computes the first only once for both; LCE then
  recognises neither. The BatchNorms of an untrained network are all alike, so the signs behind
  them are the same, too; training makes them differ.

A convolution that reads nothing but constants (Zeroise) is computed during conversion and is not in
the file at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.costs.multiplications import calls
from bnas_larq.costs.peak_memory import WORD_BITS
from bnas_larq.export.nested_models import flattened
from bnas_larq.export.tensor_facts import DROPPED, TensorFacts, common_facts, is_sign, trace
from bnas_larq.layers.activations import RealActivation
from bnas_larq.layers.bayesian import HeldBONNKernel
from bnas_larq.layers.convolutions import SymmetricQuantConv2D
from bnas_larq.layers.projection import HeldProjection
from bnas_larq.layers.quantizers import DepthwiseQuantizer

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
#: Convolutions defined elsewhere may compute anything.
_KNOWN_PACKAGES = ("keras", "tf_keras", "larq", "bnas_larq", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of a convolution or dense layer in the file.

    Attributes:
        name: the layer's name, `model/layer` inside a nested model.
        kind: `"convolution"`, `"depthwise"`, `"dense"` or `"other"`.
        binary: whether it will be 1-bit in the file.
        meant: whether its kernel was meant to be binary: it has a kernel quantizer.
        cause: why it is not 1-bit: `"design"`, `"padding"`, `"groups"`, `"precision"`, `"kind"`,
            `"custom"`, `"shared"` or `"constant"` (computed during conversion, so not in the file);
            empty if it is.
        reason: the same as a phrase for people.
        kernel: shape of the kernel in Keras.
        groups: of a convolution.
    """

    name: str
    kind: str
    binary: bool
    meant: bool
    cause: str
    reason: str
    kernel: tuple[int, ...]
    groups: int = 1


def judge(model: keras.Model) -> dict[str, Verdict]:
    """Judge for every convolution and dense layer whether it will be 1-bit in an exported file.

    Args:
        model: functional or sequential; nested models are followed. Its weights are read, since a
            quantizer's name does not tell what its kernels are.

    Returns:
        Name → verdict, in the model's order.

    Raises:
        ExportError: the model, or one nested in it, has no graph.
    """
    model = flattened(model)
    facts = trace(model)
    inputs: dict[int, list[TensorFacts]] = {}
    for node in calls(model):
        read = [facts[id(tensor)] for tensor in node.keras_inputs]
        inputs.setdefault(id(node.layer), []).append(common_facts(read))
    verdicts = {
        layer.name: _verdict(layer, inputs[id(layer)])
        for layer in model.layers
        if _kind(layer) and id(layer) in inputs
    }
    for name, others in _shared_dilations(model).items():
        if verdicts[name].binary:
            verdicts[name] = dataclasses.replace(
                verdicts[name],
                binary=False,
                cause="shared",
                reason=f"it reads the same signs as {', '.join(others)}, with the same dilation, "
                "and Larq Compute Engine recognises neither; give each its own BatchNorm (training "
                "makes them differ)",
            )
    return verdicts


def _kind(layer: keras.layers.Layer) -> str:
    """`Verdict.kind`; empty for layers without a kernel."""
    if isinstance(layer, _DEPTHWISE):
        return "depthwise"
    if isinstance(layer, _UNUSUAL):
        return "other"
    if isinstance(layer, keras.layers.Conv2D):
        return "convolution"
    return "dense" if isinstance(layer, keras.layers.Dense) else ""


def _verdict(layer: keras.layers.Layer, inputs: list[TensorFacts]) -> Verdict:
    cause, reason = _cause(layer, inputs)
    return Verdict(
        name=layer.name,
        kind=_kind(layer),
        binary=not cause,
        meant=_kernel_quantizer(layer) is not None,
        cause=cause,
        reason=reason,
        kernel=tuple(_kernel(layer).shape),
        groups=getattr(layer, "groups", 1),
    )


def _kernel(layer: keras.layers.Layer) -> tf.Variable:
    return layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel


def _kernel_quantizer(layer: keras.layers.Layer) -> Any:
    """None also for the quantizer that leaves kernels real."""
    own = getattr(layer, "kernel_quantizer", None) or getattr(layer, "depthwise_quantizer", None)
    inner = own.quantizer if isinstance(own, DepthwiseQuantizer) else own
    return None if isinstance(inner, HeldProjection | HeldBONNKernel) else own


def _input_quantizer(layer: keras.layers.Layer) -> Any:
    quantizer = getattr(layer, "input_quantizer", None)
    return None if isinstance(quantizer, lq.quantizers.NoOp) else quantizer


def _cause(layer: keras.layers.Layer, inputs: list[TensorFacts]) -> tuple[str, str]:
    """(cause, reason) why it will not be 1-bit; both empty if it will be."""
    quantizer = _input_quantizer(layer)
    reads_signs = all(facts.sign for facts in inputs)
    if all(facts.constant for facts in inputs):
        return "constant", "it reads nothing but Zeroise: it is computed during conversion"
    if _kernel_quantizer(layer) is None and not (reads_signs and _is_scaled_sign(_kernel(layer))):
        return (
            "design",
            "full precision by design: it has no kernel quantizer (stem, shortcut, classifier, or "
            "a network with real kernels)",
        )
    if isinstance(quantizer, RealActivation):
        return "design", f"full precision by design: its input is real, behind {quantizer.kind}"
    if _kind(layer) != "convolution":
        return (
            "kind",
            f"it is a {type(layer).__name__}; "
            "Larq Compute Engine has 1-bit kernels for ordinary convolutions only",
        )
    if isinstance(layer, SymmetricQuantConv2D):
        return (
            "padding",
            "zeros padded behind the sign are neither +1 nor -1; build it with padding='same'",
        )
    if type(layer).__module__.split(".")[0] not in _KNOWN_PACKAGES:
        return (
            "custom",
            f"it is a {type(layer).__name__} of {type(layer).__module__}, which may compute "
            "anything; only a conversion can tell",
        )
    if not reads_whole_words(layer):
        return (
            "groups",
            f"each of its {layer.groups} groups reads {layer.kernel.shape[-2]} input channels; "
            "Larq Compute Engine's grouped 1-bit convolutions need a multiple of "
            f"{WORD_BITS}",
        )
    if quantizer is None and not reads_signs:
        return (
            "precision",
            "its input is not quantised: it has no input quantizer, and no sign directly in front "
            "of it (a pad, pool or concatenation between them breaks the pattern)",
        )
    padding = _padding_value(layer)
    if layer.padding == "same" and padding not in (0, 1):
        return "padding", f"it pads with {padding:g}; 0 and 1 export"
    if (quantizer is not None and not is_sign(quantizer)) or not _is_scaled_sign(_kernel(layer)):
        return (
            "precision",
            "its quantised input is not ±1, or its kernel is not ±scale with one scale per output "
            "channel",
        )
    return "", ""


def reads_whole_words(layer: keras.layers.Conv2D) -> bool:
    """Whether its channels are in one group, or in groups that each fill LCE's packed words."""
    return layer.groups == 1 or layer.kernel.shape[-2] % WORD_BITS == 0


def _padding_value(layer: keras.layers.Layer) -> float:
    return float(keras.backend.get_value(getattr(layer, "pad_values", 0.0)))


def _is_scaled_sign(kernel: tf.Variable) -> bool:
    """Whether the kernel, as used, has one magnitude above 0 for each output channel."""
    with lq.context.quantized_scope(True):
        magnitude = np.abs(keras.backend.get_value(kernel))
    magnitude = magnitude.reshape(-1, magnitude.shape[-1])
    return bool((magnitude > 0).all() and (magnitude == magnitude[0]).all())


def _shared_dilations(model: keras.Model) -> dict[str, list[str]]:
    """Dilated convolution → the others of its size and padding that read the same signs, in a model
    without nested ones."""
    keys: dict[int, Hashable] = {}
    groups: dict[Hashable, list[str]] = {}
    for node in calls(model):
        layer, inputs = node.layer, node.keras_inputs
        read = keys.get(id(inputs[0]), id(inputs[0]))
        if len(inputs) == 1 and not isinstance(node.outputs, (list, tuple, dict)):
            keys[id(node.outputs)] = _key(layer, read, id(node.outputs))
        if isinstance(layer, keras.layers.Conv2D) and set(layer.dilation_rate) != {1}:
            signs = read if _input_quantizer(layer) is None else ("sign", read)
            size = (layer.kernel_size, layer.dilation_rate, layer.padding, _padding_value(layer))
            group = groups.setdefault((signs, size), [])
            group += [layer.name] if layer.name not in group else []
    return {
        name: [other for other in group if other != name]
        for group in groups.values()
        if len(group) > 1
        for name in group
    }


def _key(layer: keras.layers.Layer, read: Hashable, unique: int) -> Hashable:
    """A key of a layer's output, equal for tensors that TensorFlow's optimizer knows to be equal:
    from the key `read` of its input, or `unique`, if it equals no other."""
    if isinstance(layer, DROPPED):
        return read
    if isinstance(layer, lq.quantizers.Quantizer):
        return "sign", read
    if isinstance(layer, keras.layers.BatchNormalization):
        digest = hashlib.sha256(str(layer.epsilon).encode())
        for array in layer.get_weights():
            digest.update(array.tobytes())
        return "batch norm", digest.hexdigest(), read
    return unique
