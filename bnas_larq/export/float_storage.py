"""Smaller files: full-precision kernels stored as float16 or int8 and dequantised where they run.

LCE's converter (0.16) stores every full-precision kernel in float32 and has no option for another
type: its only integer mode quantises activations too. So the flatbuffer is edited behind it, as
TensorFlow Lite's float16 converter lays it out: the kernel becomes a constant of the smaller type,
and a DEQUANTIZE operation in front of the convolution computes the float32 kernel that it reads.
All arithmetic stays float32, and no other tensor changes.

TensorFlow Lite's DEQUANTIZE keeps the result of a constant: it works in the first inference only
(with XNNPACK while loading), and the float32 kernel then occupies memory as long as the interpreter
lives. So the file shrinks, and the memory at run time does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnas_larq.costs.float_kernels import FLOAT32, FLOAT_STORAGES, int8_codes, is_stored_smaller
from bnas_larq.errors import ExportError, nearest
from bnas_larq.export.compute_engine import compute_engine

#: Bytes that TensorFlow Lite aligns constants to.
_ALIGNMENT = 16


def check_float_storage(storage: str) -> None:
    """Raise ExportError unless `storage` is known."""
    if storage not in FLOAT_STORAGES:
        raise ExportError(
            f"Full-precision kernels are stored as {', '.join(FLOAT_STORAGES)}. "
            f"Received: {storage!r}; {nearest(str(storage), FLOAT_STORAGES)}"
        )


def with_float_storage(tflite: bytes, storage: str) -> bytes:
    """An exported file with its full-precision kernels stored as another type.

    Args:
        tflite: an intact file from `bnas_larq.export.converter.convert`.
        storage: `"float32"` returns the file as it is; `"float16"`; or `"int8"`: symmetric, with
            one scale for each output channel.

    Returns:
        The file. Kernels of convolutions and dense layers are stored, except those so small that
        the additional operation would take more bytes than it saves
        (`bnas_larq.costs.float_kernels`). Biases, BatchNorm and scales stay float32.

    Raises:
        ExportError: an unknown storage, or a kernel beyond float16's range.
    """
    check_float_storage(storage)
    if storage == FLOAT32:
        return tflite
    compute_engine()
    from larq_compute_engine.mlir.python import tflite_schema as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite, 0))
    graph, code = model.subgraphs[0], None
    kernels = _float_kernels(model, schema)
    operators = []
    for operator in graph.operators:
        for index in operator.inputs:
            if (axis := kernels.pop(index, None)) is None:
                continue
            if code is None:
                code = _dequantize_code(model, storage, schema)
            constant = _stored(model, graph.tensors[index], axis, storage, schema)
            graph.tensors.append(constant)
            dequantize = schema.OperatorT()
            dequantize.opcodeIndex = code
            dequantize.inputs = np.array([len(graph.tensors) - 1], np.int32)
            dequantize.outputs = np.array([index], np.int32)
            operators.append(dequantize)
        operators.append(operator)
    graph.operators = operators
    return _packed(model)


def _float_kernels(model: Any, schema: Any) -> dict[int, int]:
    """Tensor's index → axis of its output channels, for the kernels to store."""
    axes = {
        schema.BuiltinOperator.CONV_2D: 0,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D: 3,
        schema.BuiltinOperator.FULLY_CONNECTED: 0,
        schema.BuiltinOperator.TRANSPOSE_CONV: 0,
    }
    graph, kernels = model.subgraphs[0], {}
    for operator in graph.operators:
        axis = axes.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if axis is None:
            continue
        tensor = graph.tensors[operator.inputs[1]]
        constant = model.buffers[tensor.buffer].data is not None
        if constant and tensor.type == schema.TensorType.FLOAT32:
            kernels[operator.inputs[1]] = axis
    return {
        index: axis
        for index, axis in kernels.items()
        if is_stored_smaller(int(np.prod(graph.tensors[index].shape)))
    }


def _dequantize_code(model: Any, storage: str, schema: Any) -> int:
    """The index of a new operator code of DEQUANTIZE."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    # The first versions that know float16, and a scale for each channel.
    code.version = 3 if storage == "float16" else 5
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _stored(model: Any, tensor: Any, axis: int, storage: str, schema: Any) -> Any:
    """The constant of a kernel's tensor, which loses its own buffer."""
    buffers, tensors = model.buffers, [t for graph in model.subgraphs for t in graph.tensors]
    shared = sum(other.buffer == tensor.buffer for other in tensors)
    kernel = np.frombuffer(buffers[tensor.buffer].data, np.float32).reshape(tensor.shape)
    constant = schema.TensorT()
    constant.name, constant.shape = tensor.name + f"/{storage}".encode(), tensor.shape
    if storage == "int8":
        codes, scales = int8_codes(kernel, (axis,))
        constant.type = schema.TensorType.INT8
        constant.quantization = schema.QuantizationParametersT()
        constant.quantization.scale = scales.reshape(-1)
        constant.quantization.zeroPoint = np.zeros(scales.size, np.int64)
        constant.quantization.quantizedDimension = axis
    else:
        with np.errstate(over="ignore"):
            codes = kernel.astype(np.float16)
        if not np.isfinite(codes).all():
            raise ExportError(
                "A kernel stored as float16 holds values below 65,504. "
                f"Received: {np.abs(kernel).max():.3g} in {tensor.name.decode()}. "
                "Export with float storage float32 or int8."
            )
        constant.type = schema.TensorType.FLOAT16
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(codes.tobytes(), np.uint8)
    if shared == 1:
        buffers[tensor.buffer], constant.buffer = buffer, tensor.buffer
    else:
        buffers.append(buffer)
        constant.buffer = len(buffers) - 1
    tensor.buffer = 0  # by convention the empty one
    return constant


def _packed(model: Any) -> bytes:
    """The flatbuffer of a model; its constants are aligned, which the generated code neglects."""
    import flatbuffers

    class Builder(flatbuffers.Builder):
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
            alignment = _ALIGNMENT if elemSize == 1 else alignment
            return super().StartVector(elemSize, numElems, alignment)

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
