"""Reads a .tflite file into records; every index, length, type and size is checked before anything else uses it."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from compile.tflite.errors import TfliteError, require
from compile.tflite.metadata import read_normalized
from compile.tflite.records import FileModel, FileOperator, FileTensor

MOST_VALUES = 1 << 23  # of one tensor that the network computes
MOST_VALUES_TOGETHER = 1 << 27
DTYPES = {"INT8": "i1", "UINT8": "u1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FLOAT32": "<f4", "BOOL": "?"}
DAMAGES = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
# Operators whose options say what they compute -> the options' table; those of others are not looked at.
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "CONCATENATION": "ConcatenationOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SPLIT": "SplitOptions",
    "SQUEEZE": "SqueezeOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "GELU": "GeluOptions",
    "GATHER": "GatherOptions",
    "PACK": "PackOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "SOFTMAX": "SoftmaxOptions",
}


def schema() -> ModuleType:
    """Returns the module of the flatbuffers schema; raises TfliteError where it is not installed."""
    try:
        import tflite
    except ImportError as error:
        raise TfliteError(
            "a .tflite file: expected the flatbuffers schema to read it with, which is not installed; "
            "pip install tflite==2.18.0"
        ) from error
    return tflite


@contextmanager
def damage_reported(where: str) -> Iterator[None]:
    """Turns what only a damaged file can cause, offsets and values out of range, into a TfliteError that names it."""
    try:
        yield
    except TfliteError:
        raise
    except (*DAMAGES, struct.error) as error:
        raise TfliteError(
            f"{where}: expected values as TFLite's schema defines them, got {type(error).__name__}: {error}; the file "
            "is damaged, or of a kind that TFLite does not take either: see whether its interpreter opens it"
        ) from error


def read_file(path: str | Path) -> FileModel:
    """Returns the records of a file; raises TfliteError for one that cannot be read or taken."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TfliteError(f"expected a file that can be read ({error})") from error
    return read_bytes(data)


def read_bytes(data: bytes) -> FileModel:
    """Returns the records of a file's content; raises TfliteError for one that cannot be read or taken."""
    tflite = schema()
    with damage_reported("model"):
        is_tflite = len(data) >= 8 and data[4:8] == b"TFL3"
        require(is_tflite, "model", "a TFLite file (TFL3)", repr(data[4:8]), "give the .tflite file itself")
        return _Opened(tflite, data).model()


class _Opened:
    """A file while it is read."""

    def __init__(self, tflite: ModuleType, data: bytes):
        self._tflite = tflite
        self._bytes = data
        self._root = tflite.Model.GetRootAs(data, 0)
        self._kinds = _names(tflite.BuiltinOperator)
        self._types = _names(tflite.TensorType)

    def model(self) -> FileModel:
        """The first subgraph, in which all indices are valid."""
        require(self._root.Version() == 3, "model", "version 3 of TFLite's schema", self._root.Version())
        require(self._root.SubgraphsLength() >= 1, "model", "a subgraph", "none")
        graph = self._root.Subgraphs(0)
        tensors = tuple(self._tensor(graph.Tensors(i), i) for i in range(self._count(graph.TensorsLength(), "tensors")))
        values = sum(int(np.prod(t.shape)) for t in tensors if t.data is None)
        require(values <= MOST_VALUES_TOGETHER, "model", f"at most {MOST_VALUES_TOGETHER} values in all maps", values)
        operators = tuple(
            self._operator(graph.Operators(i), i, len(tensors))
            for i in range(self._count(graph.OperatorsLength(), "operators"))
        )
        _require_order(operators)
        entries, answers = (
            self._indices(getattr(graph, f"{name}Length")(), getattr(graph, name), len(tensors), name.lower())
            for name in ("Inputs", "Outputs")
        )
        require(len(entries) == 1, "model", "one input, the picture", f"{len(entries)} inputs")
        require(len(answers) == 1, "model", "one output", f"{len(answers)} outputs", "export the classifier alone")
        normalized = read_normalized(self._metadata())
        return FileModel(tensors, operators, entries[0], answers[0], normalized)

    def _count(self, length: int, what: str) -> int:
        """A vector's length, which a file cannot make larger than itself."""
        require(0 <= length <= len(self._bytes) // 4, what, "a length that the file has room for", length)
        return length

    def _indices(self, length: int, at: Any, below: int, what: str) -> tuple[int, ...]:
        indices = tuple(int(at(i)) for i in range(self._count(length, what)))
        require(all(-1 <= i < below for i in indices), what, f"numbers of tensors below {below}", indices)
        return indices

    def _tensor(self, tensor: Any, index: int) -> FileTensor:
        name = (tensor.Name() or b"").decode("utf-8", "replace")[:200]
        where = f"tensor {index} ({name})"
        kind = self._types.get(tensor.Type(), f"type {tensor.Type()}")
        shape = tuple(int(tensor.Shape(i)) for i in range(self._count(tensor.ShapeLength(), where)))
        require(len(shape) <= 8 and min(shape, default=1) >= 0, where, "dimensions of at least 0", shape)
        require(tensor.Sparsity() is None, where, "dense values", "sparse ones", "convert without sparsity")
        require(not tensor.IsVariable(), where, "no state", "a variable tensor")
        data = self._data(tensor.Buffer(), kind, shape, where)
        if data is None:
            size = int(np.prod(shape, dtype=np.float64))
            require(size <= MOST_VALUES, where, f"at most {MOST_VALUES} values", size)
        scale, zero_point, axis = self._quantization(tensor.Quantization(), where)
        return FileTensor(index, name, kind, shape, scale, zero_point, axis, data)

    def _quantization(self, parameters: Any, where: str) -> tuple[np.ndarray, np.ndarray, int]:
        if parameters is None or not parameters.ScaleLength():
            return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        count = self._count(parameters.ScaleLength(), where)
        require(parameters.DetailsType() == 0, where, "scales and zero points", "a quantization of another kind")
        zeros = np.zeros(count, np.int64)
        if parameters.ZeroPointLength():
            require(parameters.ZeroPointLength() == count, where, f"{count} zero points", parameters.ZeroPointLength())
            zeros = np.asarray(parameters.ZeroPointAsNumpy(), np.int64)
        scales = np.asarray(parameters.ScaleAsNumpy(), np.float32)
        return scales, zeros, int(parameters.QuantizedDimension())

    def _data(self, buffer: int, kind: str, shape: tuple[int, ...], where: str) -> np.ndarray | None:
        """The values of a constant [shape]; None where the tensor has none, or has a type that nothing here reads."""
        require(0 <= buffer < self._root.BuffersLength(), where, "a buffer of the file", buffer)
        held = self._root.Buffers(buffer)
        require(held.Size() <= 1, where, "data inside the flatbuffer", "data behind it", "convert to less than 2 GB")
        length = held.DataLength()
        if length == 0 or kind not in (*DTYPES, "INT4"):
            return None
        data = np.asarray(held.DataAsNumpy())
        size = int(np.prod(shape, dtype=np.float64))
        if kind == "INT4":
            require(length == -(-size // 2), where, f"{-(-size // 2)} bytes", length)
            return _nibbles(data)[:size].reshape(shape)
        dtype = np.dtype(DTYPES[kind])
        require(length == size * dtype.itemsize, where, f"{size * dtype.itemsize} bytes for {list(shape)}", length)
        return data.view(np.uint8).copy().view(dtype).reshape(shape)

    def _operator(self, operator: Any, index: int, tensors: int) -> FileOperator:
        number = operator.OpcodeIndex()
        where = f"operator {index}"
        require(0 <= number < self._root.OperatorCodesLength(), where, "an operator code of the file", number)
        code = self._root.OperatorCodes(number)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = self._kinds.get(builtin, f"code {builtin}")
        if kind == "CUSTOM":
            kind = f"CUSTOM {(code.CustomCode() or b'').decode('utf-8', 'replace')[:100]}"
        where = f"{where} ({kind})"
        inputs = self._indices(operator.InputsLength(), operator.Inputs, tensors, f"{where}: inputs")
        outputs = self._indices(operator.OutputsLength(), operator.Outputs, tensors, f"{where}: outputs")
        require(bool(outputs) and min(outputs) >= 0, where, "outputs", outputs)
        return FileOperator(index, kind, inputs, outputs, self._options(operator, kind, where))

    def _options(self, operator: Any, kind: str, where: str) -> Any:
        """The options' table, None for operators that need none."""
        if kind not in OPTIONS:
            return None
        name = OPTIONS[kind]
        table = operator.BuiltinOptions()
        fits = table is not None and operator.BuiltinOptionsType() == getattr(self._tflite.BuiltinOptions, name)
        require(fits, where, name, f"options of type {operator.BuiltinOptionsType()}")
        options = getattr(self._tflite, name)()
        options.Init(table.Bytes, table.Pos)
        return options

    def _metadata(self) -> bytes | None:
        """The content of the file's TFLITE_METADATA buffer; None where it has none."""
        for i in range(self._count(self._root.MetadataLength(), "metadata")):
            entry = self._root.Metadata(i)
            if entry.Name() == b"TFLITE_METADATA" and entry.Buffer() < self._root.BuffersLength():
                buffer = self._root.Buffers(entry.Buffer())
                return bytes(buffer.DataAsNumpy()) if buffer.DataLength() else None
        return None


def _names(enumeration: Any) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def _nibbles(data: np.ndarray) -> np.ndarray:
    """int8 codes of two 4-bit ones a byte, the lower first."""
    pairs = np.stack([data & 15, data >> 4], -1).reshape(-1).astype(np.int8)
    return np.where(pairs > 7, pairs - 16, pairs).astype(np.int8)


def _require_order(operators: tuple[FileOperator, ...]) -> None:
    computed: set[int] = set()
    for operator in operators:
        require(computed.isdisjoint(operator.outputs), operator.where, "outputs of its own", operator.outputs)
        computed.update(operator.outputs)
