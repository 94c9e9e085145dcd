"""Writes small .tflite files with the schema's own builder, so that no test needs TensorFlow or a stored file."""

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

from compile.tflite.file import OPTIONS

DTYPES = {
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "FLOAT32": np.float32,
    "INT4": np.uint8,
}


@dataclass
class NewTensor:
    shape: tuple[int, ...]
    kind: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    data: np.ndarray | None
    name: str


@dataclass
class NewOperator:
    kind: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any]
    custom: str = ""


@dataclass
class Network:
    """Tensors and operators that `to_bytes` writes; the first tensor is the input, `output` the answer."""

    tensors: list[NewTensor] = field(default_factory=list)
    operators: list[NewOperator] = field(default_factory=list)
    output: int = -1
    metadata: bytes | None = None
    version: int = 3

    def tensor(self, shape, kind="INT8", scale=None, zero_point=0, data=None, axis=0) -> int:
        """Adds a tensor and returns its number."""
        scales = np.zeros(0, np.float32) if scale is None else np.atleast_1d(np.float32(scale))
        zeros = np.broadcast_to(np.int64(zero_point), scales.shape)
        values = None if data is None else np.asarray(data, DTYPES[kind])
        name = f"tensor {len(self.tensors)}"
        self.tensors.append(NewTensor(tuple(shape), kind, scales, zeros, axis, values, name))
        return len(self.tensors) - 1

    def constant(self, values, kind="INT32", scale=None, zero_point=0, axis=0) -> int:
        """Adds a constant and returns its number."""
        values = np.asarray(values)
        return self.tensor(values.shape, kind, scale, zero_point, values, axis)

    def operator(self, kind: str, inputs: list[int], outputs: list[int] | int, **options) -> int:
        """Adds an operator, options by the names of the schema's fields, and returns its first output."""
        outputs = [outputs] if isinstance(outputs, int) else outputs
        self.operators.append(NewOperator(kind, inputs, outputs, options))
        return outputs[0]

    def classifier(self, x: int, seed: int = 0, classes: int = 3) -> int:
        """Adds a layer over all values of a tensor, whose codes are the answer, and returns its number."""
        source = self.tensors[x]
        size = int(np.prod(source.shape))
        rng = np.random.default_rng(seed)
        weights = rng.integers(-127, 128, (classes, size))
        if source.kind == "UINT8":
            w = self.constant(weights + 128, "UINT8", 0.01, 128)
        else:
            w = self.constant(weights, "INT8", 0.01)
        bias = self.constant(rng.integers(-200, 200, classes), "INT32", 0.01 * source.scale[0])
        flat = self.tensor((1, size), source.kind, source.scale, source.zero_point)
        self.operator("RESHAPE", [x, self.constant([1, size])], flat)
        zero = 128 if source.kind == "UINT8" else 0
        out = self.tensor((1, classes), source.kind, source.scale[0] * 0.01 * 40 * size**0.5, zero)
        self.output = self.operator("FULLY_CONNECTED", [flat, w, bias], out)
        return out

    def to_bytes(self) -> bytes:
        """Returns the file's content."""
        return _Writer(self).write()


def packed_int4(codes: np.ndarray) -> np.ndarray:
    """uint8: two codes a byte, the lower first."""
    flat = np.append(codes.reshape(-1), [0] * (codes.size % 2)).astype(np.int64) & 15
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8)


class _Writer:
    def __init__(self, network: Network):
        self.network = network
        self.builder = flatbuffers.Builder(4096)

    def write(self) -> bytes:
        net = self.network
        buffers = [self._table("Buffer")]
        tensors = []
        for tensor in net.tensors:
            number = 0
            if tensor.data is not None:
                number = len(buffers)
                content = packed_int4(tensor.data) if tensor.kind == "INT4" else tensor.data
                data = self.builder.CreateByteVector(content.tobytes())
                buffers.append(self._table("Buffer", Data=data))
            tensors.append(self._tensor(tensor, number))
        kinds = sorted({(o.kind, o.custom) for o in net.operators})
        codes = [self._code(*kind) for kind in kinds]
        operators = [self._operator(o, kinds.index((o.kind, o.custom))) for o in net.operators]
        graph = self._table(
            "SubGraph",
            Tensors=self._offsets(tensors),
            Inputs=self._numbers([0]),
            Outputs=self._numbers([net.output]),
            Operators=self._offsets(operators),
        )
        metadata = {}
        if net.metadata is not None:
            buffers.append(self._table("Buffer", Data=self.builder.CreateByteVector(net.metadata)))
            name = self.builder.CreateString("TFLITE_METADATA")
            metadata = {"Metadata": self._offsets([self._table("Metadata", Name=name, Buffer=len(buffers) - 1)])}
        model = self._table(
            "Model",
            Version=net.version,
            OperatorCodes=self._offsets(codes),
            Subgraphs=self._offsets([graph]),
            Buffers=self._offsets(buffers),
            **metadata,
        )
        self.builder.Finish(model, file_identifier=b"TFL3")
        return bytes(self.builder.Output())

    def _table(self, name: str, **fields) -> int:
        getattr(tflite, f"{name}Start")(self.builder)
        for key, value in fields.items():
            getattr(tflite, f"{name}Add{key}")(self.builder, value)
        return getattr(tflite, f"{name}End")(self.builder)

    def _numbers(self, values, dtype=np.int32) -> int:
        return self.builder.CreateNumpyVector(np.asarray(values, dtype))

    def _offsets(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def _tensor(self, tensor: NewTensor, buffer: int) -> int:
        name = self.builder.CreateString(tensor.name)
        shape = self._numbers(tensor.shape)
        quantization = {}
        if tensor.scale.size:
            scale, zeros = self._numbers(tensor.scale, np.float32), self._numbers(tensor.zero_point, np.int64)
            quantization = {
                "Quantization": self._table(
                    "QuantizationParameters", Scale=scale, ZeroPoint=zeros, QuantizedDimension=tensor.axis
                )
            }
        kind = getattr(tflite.TensorType, tensor.kind)
        return self._table("Tensor", Shape=shape, Type=kind, Buffer=buffer, Name=name, **quantization)

    def _code(self, kind: str, custom: str) -> int:
        number = getattr(tflite.BuiltinOperator, kind)
        extra = {"CustomCode": self.builder.CreateString(custom)} if custom else {}
        return self._table(
            "OperatorCode", DeprecatedBuiltinCode=min(number, 127), BuiltinCode=number, Version=1, **extra
        )

    def _operator(self, operator: NewOperator, code: int) -> int:
        inputs, outputs = self._numbers(operator.inputs), self._numbers(operator.outputs)
        options = {}
        if operator.kind in OPTIONS:
            table = OPTIONS[operator.kind]
            fields = {
                key: self._numbers(value) if isinstance(value, list) else value
                for key, value in operator.options.items()
                if hasattr(tflite, f"{table}Add{key}")
            }
            options = {
                "BuiltinOptionsType": getattr(tflite.BuiltinOptions, table),
                "BuiltinOptions": self._table(table, **fields),
            }
        return self._table("Operator", OpcodeIndex=code, Inputs=inputs, Outputs=outputs, **options)
