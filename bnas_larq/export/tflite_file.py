"""What an exported file holds: which convolutions are 1-bit, and which layers they came from.

LCE cuts tensor names at 50 characters and names a fused operation after its activation, so names
alone do not identify the layer. The signs of a kernel do: they survive bit packing, transposition,
a scale folded into the kernel, and storage as float16 or int8, but for values rounded to 0.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq
from bnas_larq.costs.float_kernels import FLOAT32
from bnas_larq.costs.multiplications import calls
from bnas_larq.export.flatbuffer import DAMAGE, FileGraph, FileTensor, damaged, read_graph
from bnas_larq.export.nested_models import flattened
from bnas_larq.layers.operations import FactorizedReduction

_BINARY = "1 bit"


@dataclasses.dataclass(frozen=True)
class ConvolutionRecord:
    """A convolution or dense layer of an exported file.

    Attributes:
        name: the Keras layer's name (`model/layer` inside a nested model), or the tensor's name
            where `named_by` is `"tensor"`.
        binary: whether it is a 1-bit operation (LceBconv2d) in the file.
        kind: `"convolution"`, `"depthwise"` or `"dense"`.
        kernel: its shape in Keras' order: height, width, input channels per group, output channels.
        stored: type of its kernel in the file: `"1 bit"`, `"float32"`, `"float16"` or `"int8"`.
        bytes: size of its kernel in the file, without scales.
        named_by: what identified it: `"kernel"` (its signs), `"order"` (the first unidentified
            layer with a kernel of this shape) or `"tensor"` (no model given, or no layer fits).
    """

    name: str
    binary: bool
    kind: str
    kernel: tuple[int, int, int, int]
    stored: str
    bytes: int
    named_by: str


def read_convolutions(tflite: bytes, model: keras.Model | None = None) -> list[ConvolutionRecord]:
    """List the convolutions and dense layers of an exported file, in order of execution.

    Args:
        model: the Keras model it was converted from, to name the layers.

    Raises:
        ExportError: the bytes are not an intact `.tflite` file.
    """
    operators = _read(tflite)
    layers = _convolution_layers(model)
    names: dict[int, tuple[str, str]] = {}  # operator's index → its name, what identified it
    by_shape = {"kernel": _fits, "order": lambda o, kernel: o["kernel"].shape == kernel.shape}
    for named_by, fits in by_shape.items():
        for index, operator in enumerate(operators):
            if index in names:
                continue
            match = next((i for i, (_, k) in enumerate(layers) if fits(operator, k)), None)
            if match is not None:
                names[index] = layers.pop(match)[0], named_by
    records = []
    for index, operator in enumerate(operators):
        name, named_by = names.get(index, (operator["tensor"], "tensor"))
        facts = {key: operator[key] for key in ("binary", "kind", "stored", "bytes")}
        shape = operator["kernel"].shape
        records.append(ConvolutionRecord(name=name, kernel=shape, named_by=named_by, **facts))
    return records


def custom_operations(tflite: bytes) -> list[str]:
    """Names of the operations in a file that are not TensorFlow Lite's own; raises as above."""
    return sorted({o.custom for o in read_graph(tflite).operations if o.custom})


def _read(tflite: bytes) -> list[dict[str, Any]]:
    graph = read_graph(tflite)
    try:
        return list(_kernels_of(graph))
    except DAMAGE as error:
        raise damaged(tflite, error) from error


def _convolution_layers(model: keras.Model | None) -> list[tuple[str, np.ndarray]]:
    """Name and kernel of every convolution and dense layer, once for each call."""
    if model is None:
        return []
    model = flattened(model)
    times = Counter(id(node.layer) for node in calls(model))
    entries = []
    with lq.context.quantized_scope(True):
        for layer in model.layers:
            for kernel in _kernels(layer):
                entries += [(layer.name, kernel)] * times[id(layer)]
    return entries


def _kernels(layer: keras.layers.Layer) -> list[np.ndarray]:
    """The layer's kernels [height, width, in, out] as they would be in a file."""
    value = keras.backend.get_value
    if isinstance(layer, keras.layers.SeparableConv2D):
        return [_depthwise(value(layer.depthwise_kernel)), value(layer.pointwise_kernel)]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return [_depthwise(value(layer.depthwise_kernel))]
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return []  # another operation of TensorFlow Lite, not listed
    if isinstance(layer, FactorizedReduction):
        return np.split(value(layer.kernel), [layer.halves[0]], axis=-1)
    if isinstance(layer, keras.layers.Conv1D) and layer.kernel.shape.rank == 3:
        return [value(layer.kernel)[None]]
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
        kernel = value(layer.kernel)
        return [kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)]
    return []


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(*kernel.shape[:2], 1, -1)


def _fits(operator: dict[str, Any], kernel: np.ndarray) -> bool:
    """Whether an operation's kernel has the signs of a layer's, up to one sign for each output
    channel, so that a folded scale does not matter. What float16 or int8 rounds to 0 has none."""
    stored = operator["kernel"]
    if stored.shape != kernel.shape:
        return False
    equal = ((stored >= 0) == (kernel >= 0)).reshape(-1, kernel.shape[-1])
    lost = np.zeros(1, bool) if operator["exact"] else (stored == 0).reshape(equal.shape)
    return bool(((equal | lost).all(0) | (~equal | lost).all(0)).all())


def _kernels_of(graph: FileGraph) -> Iterator[dict[str, Any]]:
    """The operations of a file with a kernel: `tensor` (name of its output), `binary`, `kind`,
    `kernel` (as in Keras), `exact` (whether it is stored in full), `stored` and `bytes`."""
    from larq_compute_engine.mlir.python.tflite_schema import BuiltinOperator

    kinds = {
        BuiltinOperator.CONV_2D: "convolution",
        BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
        BuiltinOperator.FULLY_CONNECTED: "dense",
    }
    restored = graph.restored()
    for operation in graph.operations:
        binary = operation.custom == "LceBconv2d"
        kind = "convolution" if binary else kinds.get(operation.code)
        if not kind:
            continue
        index = operation.inputs[1]
        tensor = graph.tensors[restored.get(index, index)]
        if not tensor.content:
            continue  # one that the file computes, which is not a layer's
        stored = _BINARY if binary else np.dtype(tensor.dtype).name
        yield {
            "tensor": graph.tensors[operation.outputs[0]].name,
            "binary": binary,
            "kind": kind,
            "kernel": _unpacked(tensor, operation.options) if binary else _floats(tensor, kind),
            "exact": stored in (_BINARY, FLOAT32),
            "stored": stored,
            "bytes": len(tensor.content),
        }


def _floats(tensor: FileTensor, kind: str) -> np.ndarray:
    """A full-precision kernel [out, height, width, in] (depthwise [1, height, width, out], dense
    [out, in]) in Keras' order."""
    kernel, shape = tensor.values(), tensor.shape
    if kind == "depthwise":
        return kernel.transpose(1, 2, 0, 3)
    return np.moveaxis(kernel.reshape(shape[0], *(1,) * (4 - len(shape)), *shape[1:]), 0, -1)


def _unpacked(tensor: FileTensor, options: bytes) -> np.ndarray:
    """A bit-packed kernel [out, height, width, ⌈in/32⌉] as ±1 in Keras' order: bit i of a 32-bit
    word is input channel i, set where the weight is negative."""
    from flatbuffers import flexbuffers

    channels = int(flexbuffers.Loads(options)["channels_in"])
    words = np.frombuffer(tensor.content, "<u4").reshape(tensor.shape)
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    return np.moveaxis(1.0 - 2.0 * bits.astype(np.float32), 0, -1)
