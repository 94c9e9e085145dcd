"""Writes a calibrated network as a QDQ ONNX file: float operators between QuantizeLinear and DequantizeLinear.

Its input is the uint8 picture [N, H, W, 3], its output float32 logits. onnxruntime computes it anywhere, and
compile/qdq reads it as it reads the files of other tools. Biases are int32 in the unit of the layer's shifted sum, so
that they come back exactly (docs/arithmetic.md).
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compile.calibrate.executor import IR_VERSION, OPSET
from compile.calibrate.front import PICTURE_SCALE
from compile.calibrate.network import COPY, LAYERS, FloatNetwork, with_inputs
from compile.calibrate.placement import Placement
from compile.calibrate.quantize import Quantization, QuantizedLayer
from compile.calibrate.steps import Quantizer

UNSIGNED = {4: TensorProto.UINT4, 8: TensorProto.UINT8}
SIGNED = {4: TensorProto.INT4, 8: TensorProto.INT8}
INT32 = np.iinfo(np.int32)


def to_onnx(
    network: FloatNetwork,
    placement: Placement,
    quantization: Quantization,
    zero_points: np.ndarray,
    metadata: Mapping[str, Any],
) -> onnx.ModelProto:
    """Returns the model; zero_points int64 [3] of the picture; metadata: JSON values by name.

    The same network gives the same bytes.
    """
    writer = _Writer(network, placement, quantization)
    writer.picture(zero_points)
    for node in network.nodes:
        writer.node(node)
    _, channels, height, width = network.shapes[network.picture]
    output = writer.real(network.output)
    body = helper.make_graph(
        writer.nodes,
        network.name,
        [helper.make_tensor_value_info("picture", TensorProto.UINT8, ["N", height, width, channels])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *network.shapes[network.output][1:]])],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="bitgrade")
    helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    return model


class _Writer:
    """Nodes and initializers of the model, in running order."""

    def __init__(self, network: FloatNetwork, placement: Placement, quantization: Quantization):
        self._network = network
        self._placement = placement
        self._quantization = quantization
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._written: set[str] = set()

    def real(self, name: str) -> str:
        """Returns under which name the real values of a tensor are read."""
        dequantized = name in self._placement.written or name == self._network.picture
        return f"{name}/real" if dequantized else name

    def picture(self, zero_points: np.ndarray) -> None:
        """Writes the picture uint8 [N, H, W, 3] as real values [N, 3, H, W]."""
        name = self._network.picture
        codes = self._add("Transpose", ["picture"], f"{name}/codes", perm=[0, 3, 1, 2])
        scale = self._constant(f"{name}/scale", np.full(len(zero_points), PICTURE_SCALE, np.float32))
        zero = self._constant(f"{name}/zero_point", zero_points, TensorProto.UINT8)
        self._add("DequantizeLinear", [codes, scale, zero], self.real(name), axis=1)

    def node(self, node: onnx.NodeProto) -> None:
        """Writes a node over real values, and quantizers of what it computes."""
        if node.op_type in LAYERS:
            layer = self._quantization.layers[node.output[0]]
            inputs = [self.real(node.input[0]), *self._weights(node.output[0], layer)]
        else:
            inputs = [self._input(name) for name in node.input]
        if node.op_type == COPY:
            self._copy(node)
        else:
            self.nodes.append(with_inputs(node, inputs))
        for name in node.output:
            if name in self._placement.written:
                self._quantize(name)

    def _input(self, name: str) -> str:
        """A constant is written where it is read first."""
        if name in self._network.constants and name not in self._written:
            self._written.add(name)
            self._constant(name, self._network.constants[name])
        return self.real(name) if name else name

    def _copy(self, node: onnx.NodeProto) -> None:
        """A Clip at the ends of the copy's codes, which keeps its DequantizeLinear and QuantizeLinear apart."""
        name = node.output[0]
        quantizer = self._quantization.quantizers[self._placement.owner[name]]
        ends = (np.array([0, quantizer.largest]) - quantizer.zero_point) * np.float32(quantizer.scale)
        limits = [self._constant(f"{name}/{end}", np.float32(v)) for end, v in zip(("min", "max"), ends, strict=True)]
        self._add("Clip", [self.real(node.input[0]), *limits], name)

    def _weights(self, name: str, layer: QuantizedLayer) -> list[str]:
        codes = self._constant(f"{name}/weight", layer.codes, SIGNED[layer.bits])
        step = self._constant(f"{name}/weight_scale", layer.step.astype(np.float32))
        weight = self._add("DequantizeLinear", [codes, step], f"{name}/weight_real", axis=0)
        units = np.clip(layer.bias, INT32.min, INT32.max).astype(np.int32)
        codes = self._constant(f"{name}/bias", units)
        unit = self._constant(f"{name}/bias_scale", layer.unit.astype(np.float32))
        return [weight, self._add("DequantizeLinear", [codes, unit], f"{name}/bias_real", axis=0)]

    def _quantize(self, name: str) -> None:
        quantizer: Quantizer = self._quantization.quantizers[self._placement.owner[name]]
        scale = self._constant(f"{name}/scale", np.float32(quantizer.scale))
        zero = self._constant(f"{name}/zero_point", quantizer.zero_point, UNSIGNED[quantizer.bits])
        codes = self._add("QuantizeLinear", [name, scale, zero], f"{name}/codes")
        self._add("DequantizeLinear", [codes, scale, zero], self.real(name))

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, values: Any, data_type: int | None = None) -> str:
        array = np.asarray(values)
        if data_type is not None:
            array = array.astype(helper.tensor_dtype_to_np_dtype(data_type))
        self.initializers.append(numpy_helper.from_array(array, name))
        return name
