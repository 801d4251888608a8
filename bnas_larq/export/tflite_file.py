"""What an exported file holds: which convolutions are 1-bit, and which layers they came from.

LCE cuts tensor names at 50 characters and names a fused operation after its activation, so names
alone do not identify the layer. The signs of a kernel do: they survive bit packing, transposition
and a scale folded into the kernel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnas_larq.backend import keras, lq
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.compute_engine import compute_engine
from bnas_larq.export.nested_models import calls, flattened
from bnas_larq.layers.operations import FactorizedReduction

#: Errors of reading a damaged flatbuffer, whose offsets point anywhere.
_DAMAGE = (
    *(struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError),
    *(OverflowError, MemoryError),
)


@dataclasses.dataclass(frozen=True)
class ConvolutionRecord:
    """A convolution or dense layer of an exported file.

    Attributes:
        name: the Keras layer's name (`model/layer` inside a nested model), or the tensor's name
            where `named_by` is `"tensor"`.
        binary: whether it is a 1-bit operation (LceBconv2d) in the file.
        kind: `"convolution"`, `"depthwise"` or `"dense"`.
        kernel: its shape in Keras' order: height, width, input channels per group, output channels.
        bytes: size of its kernel in the file.
        named_by: what identified it: `"kernel"` (its signs), `"order"` (the first unidentified
            layer with a kernel of this shape) or `"tensor"` (no model given, or no layer fits).
    """

    name: str
    binary: bool
    kind: str
    kernel: tuple[int, int, int, int]
    bytes: int
    named_by: str


def read_convolutions(tflite: bytes, model: keras.Model | None = None) -> list[ConvolutionRecord]:
    """List the convolutions and dense layers of an exported file, in order of execution.

    Args:
        model: the Keras model it was converted from, to name the layers.

    Raises:
        ExportError: the bytes are not an intact `.tflite` file.
    """
    operators = [operator for operator in _read(tflite) if "signs" in operator]
    layers = _convolution_layers(model)
    names: dict[int, tuple[str, str]] = {}  # operator's index → its name, what identified it
    for named_by, key in (("kernel", "signs"), ("order", "shape")):
        for index, operator in enumerate(operators):
            fitting = [layer for layer in layers if layer[key] == operator[key]]
            if index not in names and fitting:
                names[index] = fitting[0]["name"], named_by
                layers.remove(fitting[0])
    records = []
    for index, operator in enumerate(operators):
        name, named_by = names.get(index, (operator["tensor"], "tensor"))
        binary, kind, kernel = operator["binary"], operator["kind"], operator["shape"]
        records.append(ConvolutionRecord(name, binary, kind, kernel, operator["bytes"], named_by))
    return records


def custom_operations(tflite: bytes) -> list[str]:
    """Names of the operations in a file that are not TensorFlow Lite's own; raises as above."""
    return sorted({operator["custom"] for operator in _read(tflite) if operator["custom"]})


def _read(tflite: bytes) -> list[dict[str, Any]]:
    try:
        return list(_operators(tflite))
    except _DAMAGE as error:
        raise ExportError(
            f"A .tflite file must be an intact flatbuffer. Received: {len(tflite)} bytes "
            f"({one_line(error)}). Export the network again."
        ) from error


def _convolution_layers(model: keras.Model | None) -> list[dict[str, Any]]:
    """Name, kernel shape and signs of every convolution and dense layer, once for each call."""
    if model is None:
        return []
    model = flattened(model)
    times = Counter(id(node.layer) for node in calls(model))
    entries = []
    with lq.context.quantized_scope(True):
        for layer in model.layers:
            for kernel in _kernels(layer):
                entry = {"name": layer.name, "shape": kernel.shape, "signs": _signs(kernel)}
                entries += [entry] * times[id(layer)]
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


def _signs(kernel: np.ndarray) -> str:
    """Digest of a kernel's shape and signs, relative to each output channel's first weight, so that
    neither a folded scale nor its sign matters."""
    positive = kernel >= 0
    positive = positive ^ ~positive.reshape(-1, kernel.shape[-1])[0]
    return f"{kernel.shape} {hashlib.sha256(np.packbits(positive).tobytes()).hexdigest()}"


def _operators(tflite: bytes) -> Iterator[dict[str, Any]]:
    """The operations of a flatbuffer: `custom` (name or "") of each; of those with a kernel also
    `tensor` (name of its output), `binary`, `kind`, `shape` (of the kernel, as in Keras), `signs`
    and `bytes`.

    Reads the whole file, including every constant, to detect a truncated file before it reaches
    LCE's interpreter, which does not verify its input but crashes.
    """
    compute_engine()
    from larq_compute_engine.mlir.python import tflite_schema as schema

    if tflite[4:8] != b"TFL3":
        raise ValueError("no TFL3 mark")
    model = schema.Model.GetRootAs(tflite, 0)
    codes = list(map(model.OperatorCodes, _indices(model.OperatorCodesLength(), tflite)))
    buffers = [_constant(model.Buffers(i)) for i in _indices(model.BuffersLength(), tflite)]
    if model.SubgraphsLength() < 1 or not buffers:
        raise ValueError("no graph in it")
    graph = model.Subgraphs(0)
    tensors = list(map(graph.Tensors, _indices(graph.TensorsLength(), tflite)))
    shapes = [tuple(np.atleast_1d(tensor.ShapeAsNumpy()).tolist()) for tensor in tensors]
    kinds = {
        schema.BuiltinOperator.CONV_2D: "convolution",
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: "depthwise",
        schema.BuiltinOperator.FULLY_CONNECTED: "dense",
    }
    for operator in map(graph.Operators, _indices(graph.OperatorsLength(), tflite)):
        code = codes[operator.OpcodeIndex()]
        custom = (code.CustomCode() or b"").decode()
        inputs, outputs = operator.InputsAsNumpy(), operator.OutputsAsNumpy()
        options = operator.CustomOptionsAsNumpy() if operator.CustomOptionsLength() else None
        binary = custom == "LceBconv2d"
        kind = "convolution" if binary else kinds.get(code.BuiltinCode())
        content = buffers[tensors[inputs[1]].Buffer()] if kind else b""
        if not content:  # no kernel, or one that the file computes, which is not a layer's
            yield {"custom": custom}
            continue
        shape = shapes[inputs[1]]
        kernel = _unpacked(content, shape, options) if binary else _floats(content, shape, kind)
        yield {
            "custom": custom,
            "tensor": tensors[outputs[0]].Name().decode(),
            "binary": binary,
            "kind": kind,
            "shape": kernel.shape,
            "signs": _signs(kernel),
            "bytes": len(content),
        }


def _indices(length: int, tflite: bytes) -> range:
    """The indices of a vector, unless the file is too short for its entries of four bytes."""
    if not 0 <= 4 * length <= len(tflite):
        raise ValueError("a list longer than the file")
    return range(length)


def _constant(buffer: Any) -> bytes:
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""


def _floats(content: bytes, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """A float kernel [out, height, width, in] (depthwise [1, height, width, out], dense [out, in])
    in Keras' order."""
    kernel = np.frombuffer(content, np.float32).reshape(shape)
    if kind == "depthwise":
        return kernel.transpose(1, 2, 0, 3)
    return np.moveaxis(kernel.reshape(shape[0], *(1,) * (4 - len(shape)), *shape[1:]), 0, -1)


def _unpacked(content: bytes, shape: tuple[int, ...], options: np.ndarray | None) -> np.ndarray:
    """A bit-packed kernel [out, height, width, ⌈in/32⌉] as ±1 in Keras' order: bit i of a 32-bit
    word is input channel i, set where the weight is negative."""
    from flatbuffers import flexbuffers

    channels = int(flexbuffers.Loads(options.tobytes())["channels_in"])
    words = np.frombuffer(content, "<u4").reshape(shape)
    bits = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    return np.moveaxis(1.0 - 2.0 * bits.astype(np.float32), 0, -1)
