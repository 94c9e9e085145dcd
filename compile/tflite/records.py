"""What a .tflite file holds, as plain records: tensors, operators, and which of them the network reads and gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from compile.tflite.errors import require

QUANTIZED = {"INT8": 128, "UINT8": 0}  # type of activations -> what is added to a code to make it one of 0..255
MAP_ADVICE = (
    "convert the model to full integers (tf.lite.TFLiteConverter with a representative_dataset and "
    "target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8])"
)


@dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor: real = scale * (code - zero_point), along `axis` where there are several scales.

    kind: its type, as the schema spells it. scale: float32 [n], n 0 for a tensor that is not quantized; zero_point
    int64 [n]. data: the values of a constant, None for what the network computes.
    """

    index: int
    name: str
    kind: str
    shape: tuple[int, ...]
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0
    data: np.ndarray | None = None

    @property
    def where(self) -> str:
        """The tensor in error messages."""
        return f"tensor {self.index} ({self.name})"

    @property
    def offset(self) -> int:
        """What is added to a code to make it one of 0..255."""
        return QUANTIZED[self.kind]

    def require_map(self, where: str) -> None:
        """Raises TfliteError unless the tensor holds int8 or uint8 codes of one scale and zero point."""
        actual = f"{self.kind} in {self.where}"
        require(self.kind in QUANTIZED, where, "int8 or uint8 codes", actual, MAP_ADVICE)
        fits = self.scale.size == 1 and bool(np.isfinite(self.scale[0]) and self.scale[0] > 0)
        require(fits, where, f"one positive scale for {self.where}", self.scale.tolist(), MAP_ADVICE)
        zero = int(self.zero_point[0]) + self.offset
        require(0 <= zero <= 255, where, f"a zero point of {self.kind} for {self.where}", int(self.zero_point[0]))

    def same_codes(self, other: "FileTensor") -> bool:
        """Whether equal codes of both tensors mean equal values."""
        ours, others = ((t.kind, t.scale.tolist(), t.zero_point.tolist()) for t in (self, other))
        return ours == others


@dataclass(frozen=True, eq=False)
class FileOperator:
    """One operator: its kind as the schema spells it, numbers of tensors (-1: left out), and its options or None."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    @property
    def where(self) -> str:
        """The operator in error messages."""
        return f"operator {self.index} ({self.kind})"

    @property
    def name(self) -> str:
        """The name of the node that it becomes."""
        return f"{self.kind.lower()}_{self.index}"


@dataclass(frozen=True, eq=False)
class Normalized:
    """The metadata's NormalizationOptions of the picture: x = (u8 - mean) / std, a number or one for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FileModel:
    """The first subgraph of a file; input, output: numbers of the tensors of the picture and of the answer."""

    tensors: tuple[FileTensor, ...]
    operators: tuple[FileOperator, ...]
    input: int
    output: int
    normalized: Normalized | None = None

    def to_text(self) -> str:
        """Returns a line for each tensor and operator, for people to read."""
        lines = [f"{self.tensors[self.input].where} -> {self.tensors[self.output].where}", ""]
        for t in self.tensors:
            scales = f"scale {t.scale[:4].tolist()} zero point {t.zero_point[:4].tolist()}" if t.scale.size else ""
            lines.append(f"{t.where}: {t.kind} {list(t.shape)} {'constant ' if t.data is not None else ''}{scales}")
        lines += ["", *(f"{o.where}: {list(o.inputs)} -> {list(o.outputs)}" for o in self.operators)]
        return "\n".join(lines) + "\n"

    def producer(self, tensor: int) -> FileOperator | None:
        """Returns the operator that computes a tensor; None for the picture and for constants."""
        return next((o for o in self.operators if tensor in o.outputs), None)
