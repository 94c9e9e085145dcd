"""Small networks around one operator each, with what TFLite's reference kernel makes of the operator's inputs.

Every network takes a picture of 7x6 pixels and ends in a classifier over all values of the operator's result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compile.qdq.normalization import Normalization
from compile.tflite.file import read_bytes
from compile.tflite.importer import from_model
from targets.reference import interpreter
from targets.reference.graph import Graph
from tests.support import tflite_reference as reference
from tests.support.tflite_reference import Quant
from tests.support.tflite_writer import Network

SHAPE = (7, 6, 3)
S8 = Quant(1 / 127.5, -1)
U8 = Quant(1 / 128, 128, 0, 255)
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS = {"SAME": 0, "VALID": 1}

Expected = Callable[[np.ndarray], np.ndarray]  # the file's codes of the picture [H, W, C] -> codes of the result


@dataclass
class Case:
    """A network, the number of the result, and what it must be: within `steps`, `share` of the codes exactly."""

    net: Network
    result: int
    expected: Expected
    steps: int = 1
    share: float = 0.9
    normalization: Normalization | None = None

    def graph(self) -> Graph:
        """The imported network."""
        return from_model(read_bytes(self.net.to_bytes()), "case", self.normalization)

    def check(self, pictures: int = 3) -> None:
        """Holds the graph's codes of the result against the expected ones."""
        graph, tensor = self.graph(), self.net.tensors[self.result]
        kind = 128 if tensor.kind == "INT8" else 0
        source = 128 if self.net.tensors[0].kind == "INT8" else 0
        x = photos(pictures, self.net.tensors[0].shape[1:])
        values = interpreter.run_all(graph, x)[1][f"tensor_{self.result}"]
        for picture, codes in zip(x, values, strict=True):
            want = self.expected(picture.astype(np.int64) - source)
            assert codes.size == want.size
            apart = np.abs(codes.astype(np.int64).reshape(want.shape) - kind - want)
            assert apart.max() <= self.steps, apart.max()
            assert (apart == 0).mean() >= self.share, (apart == 0).mean()
            assert len(np.unique(want)) > min(3, want.size - 1)  # not all clamped


def photos(n: int, shape=SHAPE, seed: int = 0) -> np.ndarray:
    """uint8 [n, H, W, C]: noise with all codes."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def picture(kind: str = "INT8", shape=SHAPE) -> tuple[Network, int, Quant]:
    """A network with nothing but its picture."""
    net = Network()
    quant = S8 if kind == "INT8" else U8
    return net, net.tensor((1, *shape), kind, quant.scale, quant.zero), quant


def quantized(net: Network, shape, quant: Quant) -> int:
    """A tensor with scale and zero point."""
    return net.tensor(shape, "INT8" if quant.low < 0 else "UINT8", quant.scale, quant.zero)


def conv_case(
    kind="INT8", stride=(1, 1), padding="SAME", dilation=(1, 1), activation="NONE", groups=1, channels=5, bits=8, seed=0
) -> Case:
    net, x, quant = picture(kind, (7, 6, 4 if groups > 1 else 3))
    rng = np.random.default_rng(seed)
    inputs = (4 if groups > 1 else 3) // groups
    limit = 8 if bits == 4 else 128
    weights = rng.integers(-limit + 1, limit, (channels, 3, 2, inputs))
    scale = np.float32(rng.uniform(0.5, 1.5, channels) * 0.02 * 128 / limit)
    zero = 0
    if kind == "UINT8":
        zero, scale = 90, np.float32([0.02])
        weights = rng.integers(0, 256, weights.shape)
    bias = rng.integers(-3000, 3000, channels)
    stored = "UINT8" if kind == "UINT8" else {8: "INT8", 4: "INT4"}[bits]
    inputs_of = [x, net.constant(weights, stored, scale, zero), net.constant(bias, "INT32", scale * quant.scale)]
    out = Quant(0.05, 10) if kind == "INT8" else Quant(0.05, 120, 0, 255)
    reach = [(k - 1) * d + 1 for k, d in zip((3, 2), dilation, strict=True)]
    size = [
        -(-n // s) if padding == "SAME" else (n - r) // s + 1 for n, s, r in zip((7, 6), stride, reach, strict=True)
    ]
    result = quantized(net, (1, *size, channels), out)
    options = dict(StrideH=stride[0], StrideW=stride[1], DilationHFactor=dilation[0], DilationWFactor=dilation[1])
    activations = dict(FusedActivationFunction=ACTIVATIONS[activation])
    net.operator("CONV_2D", inputs_of, result, Padding=PADDINGS[padding], **options, **activations)
    net.classifier(result)

    def expected(codes):
        sums = reference.conv(codes, weights, bias, quant.zero, zero, stride, padding, dilation, groups)
        return reference.finished(sums, np.float64(np.float32(quant.scale)) * scale / out.scale, out, activation)

    return Case(net, result, expected)


def depthwise_case(multiplier=2, stride=(1, 1), padding="SAME") -> Case:
    net, x, quant = picture()
    rng = np.random.default_rng(1)
    channels = 3 * multiplier
    weights = rng.integers(-127, 128, (1, 3, 3, channels))
    scale = np.float32(rng.uniform(0.01, 0.03, channels))
    bias = rng.integers(-3000, 3000, channels)
    inputs = [x, net.constant(weights, "INT8", scale, axis=3), net.constant(bias, "INT32", scale * quant.scale)]
    out = Quant(0.04, -20)
    size = [-(-n // s) if padding == "SAME" else (n - 3) // s + 1 for n, s in zip((7, 6), stride, strict=True)]
    result = quantized(net, (1, *size, channels), out)
    strides = dict(StrideH=stride[0], StrideW=stride[1], DepthMultiplier=multiplier)
    net.operator("DEPTHWISE_CONV_2D", inputs, result, Padding=PADDINGS[padding], **strides)
    net.classifier(result)

    def expected(codes):
        sums = reference.depthwise(codes, weights, bias, quant.zero, stride, padding)
        return reference.finished(sums, np.float64(np.float32(quant.scale)) * scale / out.scale, out)

    return Case(net, result, expected)


def fully_connected_case(kind="INT8", over="map") -> Case:
    """Over the whole picture laid flat, over its transpose laid flat, or over the channels of each pixel."""
    net, x, quant = picture(kind)
    rng = np.random.default_rng(2)
    inputs = 3 if over == "channels" else 126
    weights = rng.integers(-127, 128, (8, inputs))
    bias = rng.integers(-3000, 3000, 8)
    zero = 128 if kind == "UINT8" else 0
    constants = [net.constant(weights + zero, kind, 0.01, zero), net.constant(bias, "INT32", 0.01 * quant.scale)]
    out = Quant(0.05, 3) if kind == "INT8" else Quant(0.05, 131, 0, 255)
    shape = (1, 7, 6, 8) if over == "channels" else (1, 8)
    result = quantized(net, shape, out)
    flat = x
    if over == "transposed":
        turned = quantized(net, (1, 3, 7, 6), quant)
        flat = net.operator("TRANSPOSE", [x, net.constant([0, 3, 1, 2])], turned)
    if over != "channels":
        flat = net.operator("RESHAPE", [flat, net.constant([1, 126])], quantized(net, (1, 126), quant))
    net.operator("FULLY_CONNECTED", [flat, *constants], result, KeepNumDims=over == "channels")
    net.classifier(result)

    def expected(codes):
        centred = (codes.transpose(2, 0, 1) if over == "transposed" else codes) - quant.zero
        rows = centred if over == "channels" else centred.reshape(1, 1, 126)
        return reference.finished(rows @ weights.T + bias, quant.scale * 0.01 / out.scale, out)

    return Case(net, result, expected)


def pool_case(kind: str, mean: bool, kernel=(2, 3), stride=(2, 2), padding="SAME", activation="NONE") -> Case:
    net, x, quant = picture(kind)
    size = [
        -(-n // s) if padding == "SAME" else (n - k) // s + 1 for n, s, k in zip((7, 6), stride, kernel, strict=True)
    ]
    result = quantized(net, (1, *size, 3), quant)
    options = dict(FilterHeight=kernel[0], FilterWidth=kernel[1], StrideH=stride[0], StrideW=stride[1])
    options |= dict(Padding=PADDINGS[padding], FusedActivationFunction=ACTIVATIONS[activation])
    net.operator("AVERAGE_POOL_2D" if mean else "MAX_POOL_2D", [x], result, **options)
    net.classifier(result)
    function = reference.avg_pool if mean else reference.max_pool
    return Case(
        net,
        result,
        lambda codes: function(codes, kernel, stride, padding, quant, activation),
        steps=1 if mean else 0,
        share=0.6 if mean else 1,  # halves are frequent, and only below code 0 they go where TFLite rounds them
    )


def mean_case() -> Case:
    net, x, quant = picture()
    out = Quant(0.002, -7)
    result = quantized(net, (1, 3), out)
    net.operator("MEAN", [x, net.constant([1, 2])], result)
    rng = np.random.default_rng(0)
    w, b = net.constant(rng.integers(-99, 99, (4, 3)), "INT8", 0.01), net.constant([1, 2, 3, 4], "INT32", 0.01 * 0.002)
    net.output = net.operator("FULLY_CONNECTED", [result, w, b], quantized(net, (1, 4), Quant(0.01, 0)))

    def expected(codes):
        return reference.finished((codes - quant.zero).sum((0, 1)), quant.scale / (out.scale * 42), out)[None, None]

    return Case(net, result, expected, share=0.6)


def two_maps_case(kind: str, activation="NONE") -> Case:
    """ADD, SUB or MUL of the picture and of its local maxima in another scale."""
    net, x, quant = picture()
    other, out = Quant(0.013, -20), Quant(0.021, 5)
    window = dict(FilterHeight=3, FilterWidth=3, StrideH=1, StrideW=1)
    largest = net.operator("MAX_POOL_2D", [x], quantized(net, (1, *SHAPE), quant), **window)
    b = net.operator("QUANTIZE", [largest], quantized(net, (1, *SHAPE), other))
    result = quantized(net, (1, *SHAPE), out)
    net.operator(kind, [x, b], result, FusedActivationFunction=ACTIVATIONS[activation])
    net.classifier(result)

    def expected(codes):
        second = reference.max_pool(codes, (3, 3), (1, 1), "SAME", quant)
        second = other.clip(reference.scaled(second - quant.zero, quant.scale / other.scale) + other.zero)
        if kind == "MUL":
            return reference.mul(codes, second, quant, other, out, activation)
        return reference.add(codes, second, quant, other, out, 1 if kind == "ADD" else -1, activation)

    # the rescaled operand itself may be a step away where TFLite rounds twice
    return Case(net, result, expected, steps=2)


def constant_case(kind: str, values: list[float], first: bool = False) -> Case:
    """ADD, SUB or MUL of the picture and a constant of a value for each channel."""
    net, x, quant = picture()
    held, out = Quant(0.02, 4), Quant(0.025, -3)
    codes_of_constant = held.code(np.array(values))
    c = net.constant(codes_of_constant, "INT8", held.scale, held.zero)
    result = quantized(net, (1, *SHAPE), out)
    net.operator(kind, [c, x] if first else [x, c], result)
    net.classifier(result)

    def expected(codes):
        wide = np.broadcast_to(codes_of_constant, codes.shape)
        if kind == "MUL":
            return reference.mul(codes, wide, quant, held, out)
        a, b = ((wide, held), (codes, quant)) if first else ((codes, quant), (wide, held))
        return reference.add(a[0], b[0], a[1], b[1], out, 1 if kind == "ADD" else -1)

    return Case(net, result, expected)


def function_case(kind: str, function, out: Quant, source: Quant = S8, **options) -> Case:
    """An operator that is one function of each value."""
    net = Network()
    x = net.tensor((1, *SHAPE), "INT8", source.scale, source.zero)
    result = quantized(net, (1, *SHAPE), out)
    net.operator(kind, [x], result, **options)
    net.classifier(result)
    # the float picture whose codes are its pixels
    pixels = Normalization(((128 + source.zero) / 255,), (1 / (255 * source.scale),))
    return Case(net, result, lambda codes: out.code(function(source.real(codes))), share=0.99, normalization=pixels)


def logits_case(pixels: np.ndarray, normalization: Normalization | None, **tensor) -> np.ndarray:
    """Logits of a network whose picture has the given type, scale and zero point."""
    net = Network()
    x = net.tensor((1, *SHAPE), **tensor)
    net.classifier(x)
    return interpreter.run(from_model(read_bytes(net.to_bytes()), "case", normalization), pixels)
