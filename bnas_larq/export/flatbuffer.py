"""The graph of a `.tflite` file: its operations in order of execution, with the tensors that they
read and write."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import Any

import numpy as np

from bnas_larq.costs.peak_memory import peak_bytes
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.compute_engine import compute_engine

#: Errors of reading a damaged flatbuffer, whose offsets point anywhere.
DAMAGE = (
    *(struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError),
    *(OverflowError, MemoryError),
)
#: Types of tensors in exported networks; LCE packs bits into int32.
_TYPES = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1", "INT32": "<i4", "BOOL": "i1"}


@dataclasses.dataclass(frozen=True)
class FileTensor:
    """A tensor of a file.

    Attributes:
        dtype: NumPy's name of its type; empty for types that exported networks do not have.
        content: the bytes of a constant, else empty.
        scales: of a quantised constant, one for each index of the axis `axis`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    content: bytes = b""
    scales: np.ndarray | None = None
    axis: int = 0

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype or "V1").itemsize

    def values(self) -> np.ndarray:
        """A constant in float32, dequantised if it is stored as int8."""
        values = np.frombuffer(self.content, self.dtype).reshape(self.shape).astype(np.float32)
        if self.scales is None or not len(self.scales):
            return values
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return values * self.scales.reshape(shape)


@dataclasses.dataclass(frozen=True)
class FileOperation:
    """An operation of a file.

    Attributes:
        code: of TensorFlow Lite's operations.
        custom, options: name and options of a custom operation, else empty.
        inputs, outputs: indices of tensors; −1 for one that is left out.
    """

    code: int
    custom: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes


@dataclasses.dataclass(frozen=True)
class FileGraph:
    """The graph of a file."""

    tensors: tuple[FileTensor, ...]
    operations: tuple[FileOperation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def restored(self) -> dict[int, int]:
        """Kernels that the file restores from another type: float32 tensor → its constant."""
        from larq_compute_engine.mlir.python.tflite_schema import BuiltinOperator

        return {
            operation.outputs[0]: operation.inputs[0]
            for operation in self.operations
            if operation.code == BuiltinOperator.DEQUANTIZE
            and self.tensors[operation.inputs[0]].content
        }

    def peak_activation_bytes(self) -> int:
        """Largest sum of tensors alive at one time; see `bnas_larq.costs.peak_memory`. Without
        constants, and without float32 kernels restored from another type."""
        outside = {i for i, tensor in enumerate(self.tensors) if tensor.content}
        outside |= set(self.restored()) | {-1}
        steps = [
            [[index for index in side if index not in outside] for side in sides]
            for sides in ((operation.inputs, operation.outputs) for operation in self.operations)
        ]
        sizes = dict(enumerate(tensor.bytes for tensor in self.tensors))
        return peak_bytes(steps, sizes, inputs=self.inputs, outputs=self.outputs)

    def restored_bytes(self) -> int:
        """Memory of the float32 kernels that the file restores from another type."""
        return sum(self.tensors[index].bytes for index in self.restored())


def read_graph(tflite: bytes) -> FileGraph:
    """Read the graph of a file.

    Reads the whole file, including every constant, to detect a truncated file before it reaches
    LCE's interpreter, which does not verify its input but crashes.

    Raises:
        ExportError: the bytes are not an intact `.tflite` file.
    """
    try:
        return _read(tflite)
    except DAMAGE as error:
        raise damaged(tflite, error) from error


def damaged(tflite: bytes, error: Exception) -> ExportError:
    """The error for a file that cannot be read."""
    return ExportError(
        f"A .tflite file must be an intact flatbuffer. Received: {len(tflite)} bytes "
        f"({one_line(error)}). Export the network again."
    )


def _read(tflite: bytes) -> FileGraph:
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
    dtypes = {getattr(schema.TensorType, name): dtype for name, dtype in _TYPES.items()}
    tensors = [
        _tensor(graph.Tensors(i), buffers, dtypes) for i in _indices(graph.TensorsLength(), tflite)
    ]
    operations = []
    for operator in map(graph.Operators, _indices(graph.OperatorsLength(), tflite)):
        code = codes[operator.OpcodeIndex()]
        reads, writes = map(_numbers, (operator.InputsAsNumpy(), operator.OutputsAsNumpy()))
        if not all(-1 <= index < len(tensors) for index in (*reads, *writes)):
            raise ValueError("an operation of a tensor that is not there")
        custom = (code.CustomCode() or b"").decode()
        some = operator.CustomOptionsLength()
        options = operator.CustomOptionsAsNumpy().tobytes() if some else b""
        operations.append(FileOperation(code.BuiltinCode(), custom, reads, writes, options))
    ends = map(_numbers, (graph.InputsAsNumpy(), graph.OutputsAsNumpy()))
    return FileGraph(tuple(tensors), tuple(operations), *ends)


def _tensor(tensor: Any, buffers: list[bytes], dtypes: dict[int, str]) -> FileTensor:
    shape = _numbers(tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    scales, axis, quantization = None, 0, tensor.Quantization()
    if quantization is not None and quantization.ScaleLength():
        scales, axis = quantization.ScaleAsNumpy(), quantization.QuantizedDimension()
    content = buffers[tensor.Buffer()]
    dtype = dtypes.get(tensor.Type(), "")
    return FileTensor(tensor.Name().decode(), shape, dtype, content, scales, axis)


def _numbers(array: Any) -> tuple[int, ...]:
    return tuple(np.atleast_1d(array).tolist())


def _indices(length: int, tflite: bytes) -> range:
    """The indices of a vector, unless the file is too short for its entries of four bytes."""
    if not 0 <= 4 * length <= len(tflite):
        raise ValueError("a list longer than the file")
    return range(length)


def _constant(buffer: Any) -> bytes:
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
