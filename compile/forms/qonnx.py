"""QONNX (Pappalardo et al. 2022, arXiv 2206.07527): Quant, BipolarQuant and Trunc become Q, Clip and DQ.

An activation becomes QuantizeLinear, a Clip of the codes to its width, DequantizeLinear; a constant becomes the codes
themselves, so that weights are quantized once, here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from compile.forms.graph import DEQUANTIZE, QUANTIZE, FileGraph, FormError, attributes_of, input_of, place_of

DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "ROUND_TO_ZERO": np.trunc,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}


@dataclass(frozen=True, eq=False)
class Quant:
    """A quantizer of QONNX: codes low..high = rounding(x / scale + zero_point), clipped.

    scale: float64 [] or with the dimensions of its tensor.
    """

    scale: np.ndarray
    zero_point: int
    low: int
    high: int
    rounding: str

    @property
    def dtype(self) -> type[np.integer]:
        """The type of the codes; int32 for biases, which alone have more than 8 bits."""
        if self.high >= 256:
            return np.int32
        return np.int8 if self.low < 0 else np.uint8

    def codes(self, real: np.ndarray) -> np.ndarray:
        """Returns the codes [...] of float values [...], computed in float32 as QONNX does."""
        rounded = ROUNDINGS[self.rounding](real.astype(np.float32) / self.scale.astype(np.float32) + self.zero_point)
        return np.clip(rounded, self.low, self.high).astype(self.dtype)


def take_qonnx(graph: FileGraph) -> None:
    """Writes the operators of QONNX as quantizers of ONNX; raises FormError for what those cannot say."""
    for node in [node for node in graph.nodes if node.domain in DOMAINS]:
        readers = {"Quant": _read_quant, "IntQuant": _read_quant, "BipolarQuant": _read_bipolar}
        if node.op_type not in readers:
            raise FormError(
                f"{place_of(node)}: expected Quant or BipolarQuant of QONNX, got {node.op_type}; export with QCDQ "
                "(brevitas.export.export_onnx_qcdq)"
            )
        quant = readers[node.op_type](graph, node)
        real = graph.array(node.input[0])
        graph.replace([node], _of_activation(graph, node, quant) if real is None else _of_weights(graph, node, quant))


def _read_quant(graph: FileGraph, node: onnx.NodeProto) -> Quant:
    scale, zero_point, width = (_constant(graph, node, index) for index in (1, 2, 3))
    attributes = attributes_of(node)
    bits = float(width.reshape(-1)[0])
    zero = float(zero_point.reshape(-1)[0])
    most = 8 if graph.array(node.input[0]) is None else 32
    if width.size != 1 or bits not in range(1, most + 1) or zero != int(zero) or (zero_point != zero).any():
        zeros = zero_point.reshape(-1)[:4].tolist()
        raise FormError(
            f"{place_of(node)}: expected one width of 1..{most} bits and one whole zero point, got {bits:g} bits and "
            f"{zeros}; quantize activations and weights to 8 bits at most"
        )
    signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    half = 1 << (int(bits) - 1)
    low = -half + int(narrow) if signed else 0
    high = half - 1 if signed else 2 * half - 1 - int(narrow)
    if 8 < bits < 32 or (bits == 32 and not signed):
        raise FormError(f"{place_of(node)}: expected a bias of 32 signed bits, got {bits:g}; export biases as int32")
    rounding = attributes.get("rounding_mode", b"ROUND").decode().upper()
    if rounding not in ROUNDINGS:
        raise FormError(f"{place_of(node)}: expected a rounding among {', '.join(ROUNDINGS)}, got {rounding}")
    return Quant(scale, int(zero), low, high, rounding)


def _read_bipolar(graph: FileGraph, node: onnx.NodeProto) -> Quant:
    """-scale and +scale; only weights can be so, since no code stands for half a step."""
    if graph.array(node.input[0]) is None:
        raise FormError(f"{place_of(node)}: expected activations of 2 bits or more, got 1; train with QuantReLU")
    return Quant(_constant(graph, node, 1), 0, -1, 1, "ROUND")


def _constant(graph: FileGraph, node: onnx.NodeProto, index: int) -> np.ndarray:
    """A parameter, float64 [...]."""
    array = graph.array(input_of(node, index))
    if array is None:
        raise FormError(f"{place_of(node)}: expected constant scales, zero points and widths, got computed ones")
    return np.asarray(array, np.float64)


def _of_weights(graph: FileGraph, node: onnx.NodeProto, quant: Quant) -> list[onnx.NodeProto]:
    """Codes of a constant, a Clip that tells their width, and their DequantizeLinear."""
    real = np.asarray(graph.array(node.input[0]), np.float64)
    is_bipolar = node.op_type == "BipolarQuant"
    codes = np.where(real >= 0, 1, -1).astype(np.int8) if is_bipolar else quant.codes(real)
    name = graph.add_constant(f"{node.output[0]}/codes", codes)
    return _clip_and_dequantize(graph, node, quant, name)


def _of_activation(graph: FileGraph, node: onnx.NodeProto, quant: Quant) -> list[onnx.NodeProto]:
    if quant.rounding not in ("ROUND", "HALF_EVEN") or quant.scale.size != 1:
        raise FormError(
            f"{place_of(node)}: expected activations rounded to the nearest code with one scale, got {quant.rounding} "
            f"and {quant.scale.size} scales"
        )
    quantize = graph.make(QUANTIZE, [node.input[0], *_parameters(graph, node, quant, quant.scale)], hint=node.output[0])
    return [quantize, *_clip_and_dequantize(graph, node, quant, quantize.output[0])]


def _clip_and_dequantize(graph: FileGraph, node: onnx.NodeProto, quant: Quant, codes: str) -> list[onnx.NodeProto]:
    """A Clip where the range is narrower than the type, and the DequantizeLinear of the node's result."""
    nodes = []
    limits = np.iinfo(quant.dtype)
    if (quant.low, quant.high) != (limits.min, limits.max):
        names = [
            graph.add_constant(f"{node.output[0]}/{side}", np.asarray(value, quant.dtype))
            for side, value in (("low", quant.low), ("high", quant.high))
        ]
        nodes.append(graph.make("Clip", [codes, *names], hint=node.output[0]))
        codes = nodes[-1].output[0]
    axis = [i for i, size in enumerate(quant.scale.shape) if size > 1]
    if len(axis) > 1:
        raise FormError(f"{place_of(node)}: expected scales along one axis, got {list(quant.scale.shape)}")
    scale = quant.scale.reshape(-1) if axis else quant.scale
    attributes: dict[str, Any] = {"axis": _axis_in_tensor(graph, node, quant, axis[0])} if axis else {}
    parameters = _parameters(graph, node, quant, scale)
    return [*nodes, graph.make(DEQUANTIZE, [codes, *parameters], node.output[0], **attributes)]


def _axis_in_tensor(graph: FileGraph, node: onnx.NodeProto, quant: Quant, axis: int) -> int:
    """Scales may have fewer dimensions than their tensor; they are aligned at the last one."""
    real = graph.array(node.input[0])
    return axis if real is None else axis + real.ndim - quant.scale.ndim


def _parameters(graph: FileGraph, node: onnx.NodeProto, quant: Quant, scale: np.ndarray) -> list[str]:
    """Names of new constants: the scale, float32, and the zero point in the type of the codes."""
    values = np.asarray(scale, np.float32)
    values = values.reshape(()) if values.size == 1 else values
    zeros = np.full(values.shape, quant.zero_point, quant.dtype)
    return [
        graph.add_constant(f"{node.output[0]}/scale", values),
        graph.add_constant(f"{node.output[0]}/zero_point", zeros),
    ]
