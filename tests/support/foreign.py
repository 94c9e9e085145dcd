"""ONNX networks as other tools write them, for the importer's tests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxNet:
    """A model under construction: every method that adds something returns the name of its value."""

    def __init__(self, shape: tuple, opset: int = 21, elem_type: int = TensorProto.FLOAT):
        self.nodes, self.constants, self.opset = [], [], opset
        self.input = helper.make_tensor_value_info("x", elem_type, ["N", *shape])

    def const(self, array, data_type: int = TensorProto.FLOAT) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(array).astype(helper.tensor_dtype_to_np_dtype(data_type))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes) -> str:
        """Adds a node; its domain is an attribute like others."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def quantizer(self, scale, zero_point, data_type) -> tuple[str, str]:
        return self.const(scale), self.const(zero_point, data_type)

    def qdq(self, x: str, scale, zero_point=0, data_type=TensorProto.UINT8, limits=None) -> str:
        """QuantizeLinear, Clip where limits are given (Brevitas' QCDQ), DequantizeLinear."""
        q = self.quantizer(scale, zero_point, data_type)
        x = self.op("QuantizeLinear", x, *q)
        if limits:
            x = self.op("Clip", x, *(self.const(v, data_type) for v in limits))
        return self.op("DequantizeLinear", x, *q)

    def weight(self, codes, scale, data_type=TensorProto.INT8, limits=None, axis: int = 0) -> str:
        codes = self.const(codes, data_type)
        if limits:
            codes = self.op("Clip", codes, *(self.const(v, data_type) for v in limits))
        zero = np.zeros(np.shape(scale))
        return self.op("DequantizeLinear", codes, *self.quantizer(scale, zero, data_type), axis=axis)

    def model(self, output: str, classes: int, full_check: bool = True) -> onnx.ModelProto:
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", classes])
        graph = helper.make_graph(self.nodes, "net", [self.input], [value], self.constants)
        versions = {"": self.opset, **{node.domain: 1 for node in self.nodes if node.domain}}
        imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        onnx.checker.check_model(model, full_check=full_check)
        return model


def float_network(seed: int, size: int = 14) -> onnx.ModelProto:
    """Float, for a quantizer: Relu, Relu6, depthwise, pools, residual addition, MatMul with its bias added after it."""
    rng, net = np.random.default_rng(seed), OnnxNet((3, size, size))

    def conv(x, o, i, k=3, **attributes):
        w = rng.normal(0, 1.6 / np.sqrt(i * k * k), (o, i, k, k))
        pads = [k // 2] * 4
        return net.op(
            "Conv", x, net.const(w), net.const(rng.normal(0, 0.2, o)), kernel_shape=[k, k], pads=pads, **attributes
        )

    x = net.op("Relu", conv("x", 8, 3))
    x = net.op("Clip", conv(x, 8, 1, group=8), net.const(0.0), net.const(2.0))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.op("Add", conv(net.op("Relu", conv(x, 8, 8)), 8, 8), x))
    x = net.op("AveragePool", conv(x, 12, 8, 1), kernel_shape=[3, 3], strides=[1, 1])  # odd areas: no ties
    x = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", conv(x, 16, 12, strides=[2, 2]))), axis=1)
    x = net.op("Add", net.op("MatMul", x, net.const(rng.normal(0, 0.5, (16, 10)))), net.const(rng.normal(0, 0.3, 10)))
    return net.model(x, 10)


def qcdq_network(seed: int, w_bits: int = 4, a_bits: int = 4, quantize_weights: bool = False) -> onnx.ModelProto:
    """As Brevitas exports: narrow weights, float biases, unsigned and signed activations of a_bits, open logits.

    quantize_weights: float weights with QuantizeLinear and Clip in the file, otherwise codes with a Clip.
    """
    rng, net = np.random.default_rng(seed), OnnxNet((3, 9, 9))
    top, low, high = (1 << (w_bits - 1)) - 1, -(1 << (a_bits - 1)), (1 << (a_bits - 1)) - 1

    def weight(*shape, scale):
        codes = rng.integers(-top, top + 1, shape)
        if not quantize_weights:
            return net.weight(codes, scale, limits=(-top, top))
        real = net.const(codes * np.reshape(scale, (-1,) + (1,) * (len(shape) - 1)))
        q = net.quantizer(scale, np.zeros(np.shape(scale)), TensorProto.INT8)
        clipped = net.op(
            "Clip", net.op("QuantizeLinear", real, *q, axis=0), *(net.const(v, TensorProto.INT8) for v in (-top, top))
        )
        return net.op("DequantizeLinear", clipped, *q, axis=0)

    x = net.qdq("x", 1 / 255)
    w = weight(8, 3, 3, 3, scale=rng.uniform(0.5, 1, 8) / top)
    x = net.op("Relu", net.op("Conv", x, w, net.const(rng.normal(0, 0.1, 8)), pads=[0, 0, 1, 1]))
    x = net.qdq(x, 3.1 / ((1 << a_bits) - 1), limits=(0, (1 << a_bits) - 1))
    w = weight(12, 8, 3, 3, scale=rng.uniform(0.2, 0.4, 12) / top)
    x = net.op("Conv", x, w, auto_pad="SAME_UPPER", strides=[2, 2])
    x = net.qdq(x, 3.7 / high, 0, TensorProto.INT8, limits=(low, high))
    x = net.op("ReduceMean", x, net.const([2, 3], TensorProto.INT64), keepdims=1)
    x = net.op("Reshape", net.qdq(x, 1.3 / 127, 0, TensorProto.INT8), net.const([-1, 12], TensorProto.INT64))
    return net.model(net.op("Gemm", x, weight(5, 12, scale=0.7 / top), net.const(rng.normal(0, 0.2, 5)), transB=1), 5)


def resnet8(convolution, classifier, add=lambda net, index, x: x, opset: int = 21) -> onnx.ModelProto:
    """MLPerf Tiny's ResNet-8; convolution(net, name, x, relu, **attributes), classifier(net, x), add(net, k, sum)."""
    net = OnnxNet((3, 32, 32), opset)
    same, down = dict(pads=[1, 1, 1, 1]), dict(pads=[0, 0, 1, 1], strides=[2, 2])
    x = convolution(net, "conv1", "x", True, **same)
    for k in (1, 2, 3):
        y = convolution(net, f"block{k}.conv1", x, True, **(same if k == 1 else down))
        y = convolution(net, f"block{k}.conv2", y, False, **same)
        if k > 1:
            x = convolution(net, f"block{k}.shortcut", x, False, strides=[2, 2])
        x = add(net, k - 1, net.op("Relu", net.op("Add", y, x, name=f"block{k}.add")))
    return net.model(classifier(net, net.op("GlobalAveragePool", x)), 10)


def resnet8_float(state: dict) -> onnx.ModelProto:
    """From the checkpoint's arrays, batch normalization folded; the picture is 0..255 as float."""

    def convolution(net, name, x, relu, **attributes):
        w, bias, norm = (
            state[f"{name}.weight"].astype(np.float64),
            state.get(f"{name}.bias", 0.0),
            name.replace("conv", "bn"),
        )
        if f"{norm}.weight" in state and norm != name:
            gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-3)
            w, bias = (
                w * gain[:, None, None, None],
                (bias - state[f"{norm}.running_mean"]) * gain + state[f"{norm}.bias"],
            )
        x = net.op("Conv", x, net.const(w), net.const(np.broadcast_to(bias, len(w))), name=name, **attributes)
        return net.op("Relu", x) if relu else x

    def classifier(net, x):
        weights = net.const(state["linear.weight"]), net.const(state["linear.bias"])
        return net.op("Gemm", net.op("Flatten", x, axis=1), *weights, name="linear", transB=1)

    return resnet8(convolution, classifier)


def resnet8_tflite(stored: dict) -> onnx.ModelProto:
    """The integers that TensorFlow Lite made, as QDQ: int8 activations with zero points, int32 biases."""

    def layer(net, kind, name, x, **attributes):
        w_scale, bias = stored[f"{name}.weight_scale"], stored[f"{name}.bias_int32"]
        unit = stored[f"{name}.input_scale"] * np.broadcast_to(w_scale, len(bias))
        w_scale = w_scale[0] if len(w_scale) == 1 else w_scale
        weights = net.weight(stored[f"{name}.weight_int8"], w_scale), net.weight(bias, unit, TensorProto.INT32)
        return net.op(kind, x, *weights, name=name, **attributes)

    def quantize(net, name, x):
        return net.qdq(x, stored[f"{name}_scale"], stored[f"{name}_zero_point"], TensorProto.INT8)

    def convolution(net, name, x, relu, **attributes):
        x = layer(net, "Conv", name, quantize(net, "conv1.input", x) if name == "conv1" else x, **attributes)
        return quantize(net, f"{name}.output", net.op("Relu", x) if relu else x)

    def add(net, k, x):
        # the last addition's quantizer is the input of the mean, which TensorFlow Lite stores with the same scale
        return net.qdq(
            x, stored["residual_add.output_scale"][k], stored["residual_add.output_zero_point"][k], TensorProto.INT8
        )

    def classifier(net, x):
        x = net.op("Flatten", quantize(net, "linear.input", x), axis=1)
        return quantize(net, "linear.output", layer(net, "Gemm", "linear", x, transB=1))

    return resnet8(convolution, classifier, add)
