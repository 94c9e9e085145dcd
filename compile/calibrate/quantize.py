"""Quantizes a float network layer by layer, each on what the quantized layers before it return.

Both networks run over the calibration pictures side by side, node by node. A layer's weights are rounded, then its bias
takes up the mean error of each channel (Nagel et al. 2019, section 4.2, measured rather than derived); what is left is
reported as signal to quantization noise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.executor import NodeRunner, Values, run_node
from compile.calibrate.layer_inputs import covariances
from compile.calibrate.network import LAYERS, FloatNetwork
from compile.calibrate.placement import Placement
from compile.calibrate.rounding import learned_codes, objectives
from compile.calibrate.settle import residual_ratio, settled_steps
from compile.calibrate.steps import Quantizer, common_weight_step, weight_codes, weight_steps
from targets.reference.scales import CONV_MIN_SHIFT, conv_ratio, requant_from_ratio


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A layer in integers: codes int64 [O, ...] of `bits`, float32 [O] steps, int64 [O] bias in float64 [O] units."""

    codes: np.ndarray
    bits: int
    step: np.ndarray
    bias: np.ndarray
    unit: np.ndarray

    @property
    def real_weight(self) -> np.ndarray:
        """float32 [O, ...]."""
        return (self.codes * self.step.reshape(-1, *[1] * (self.codes.ndim - 1))).astype(np.float32)

    @property
    def real_bias(self) -> np.ndarray:
        """float32 [O]."""
        return (self.bias * self.unit).astype(np.float32)


@dataclass(frozen=True)
class Noise:
    """Signal to quantization noise in decibels at the tensor of a layer: of it alone, and of all up to it."""

    layer: str
    tensor: str
    alone: float
    so_far: float


@dataclass(frozen=True, eq=False)
class Quantization:
    """A network in integers: quantizers by owner, layers by the tensor that they compute, and the noise of each."""

    quantizers: Mapping[str, Quantizer]
    layers: Mapping[str, QuantizedLayer]
    noise: tuple[Noise, ...]


MOST_UNITS = 1 << 28  # of a bias, so that there is room for the sum in an accumulator
Tell = Callable[[int, int], None]  # layers that are done, of how many


def quantize(
    network: FloatNetwork,
    placement: Placement,
    quantizers: Mapping[str, Quantizer],
    pictures: np.ndarray,
    learned: bool,
    tell: Tell,
) -> Quantization:
    """Returns the network in integers; pictures float32 [N, 3, H, W], what the picture's codes stand for."""
    runner = NodeRunner()
    tensors = (Values(network, pictures, runner), Values(network, pictures, runner))
    walk = _Walk(network, placement, quantizers, learned, tensors)
    count = sum(node.op_type in LAYERS for node in network.nodes)
    for node in network.nodes:
        walk.step(node)
        if node.op_type in LAYERS:
            tell(len(walk.layers), count)
    return Quantization(quantizers, walk.layers, tuple(walk.noise))


class _Walk:
    """Both networks on their way through the nodes."""

    def __init__(
        self,
        network: FloatNetwork,
        placement: Placement,
        quantizers: Mapping[str, Quantizer],
        learned: bool,
        tensors: tuple[Values, Values],
    ):
        self.network = network
        self.placement = placement
        self.quantizers = quantizers
        self.learned = learned
        self.floats, self.values = tensors
        self.layers: dict[str, QuantizedLayer] = {}
        self.noise: list[Noise] = []
        self._alone: dict[str, float] = {}

    def step(self, node: onnx.NodeProto) -> None:
        """Runs one node in both networks, and quantizes what it computes."""
        self.floats.compute(node)
        if node.op_type in LAYERS:
            self.layer(node)
        else:
            self.values.compute(node)
        for name in node.output:
            if name in self.placement.written:
                quantizer = self.quantizers[self.placement.owner[name]]
                self.values[name] = quantizer.rounded(self.values[name])
        if node.op_type in LAYERS:
            name = node.output[0]
            so_far = decibels(self.floats[name], self.values[name] - self.floats[name])
            self.noise.append(Noise(node.name, name, self._alone[name], so_far))
        self.floats.release(node)
        self.values.release(node)

    def layer(self, node: onnx.NodeProto) -> None:
        """Rounds the weights of a layer and corrects its bias."""
        name = node.output[0]
        x, weight, bias = self.values[node.input[0]], self.network.weight(node), self.network.bias(node)
        rounding = LayerRounding(self.network, self.placement, self.quantizers, node)
        codes, step = rounding.nearest(weight)
        if self.learned and rounding.bits < 8:
            codes, step = rounding.learned(weight, x, self.floats[node.input[0]])
        unit = rounding.unit(step)
        uncorrected = QuantizedLayer(codes, rounding.bits, step, bias_units(bias, unit), unit)
        result = self._run(node, x, uncorrected.real_weight, uncorrected.real_bias)
        axes = (0, *range(2, result.ndim))
        shift = self.floats[name].mean(axes, dtype=np.float64) - result.mean(axes, dtype=np.float64)
        corrected = bias_units(bias + shift, unit)
        layer = QuantizedLayer(codes, rounding.bits, step, corrected, unit)
        moved = (layer.real_bias - uncorrected.real_bias).reshape(-1, *[1] * (result.ndim - 2))
        self.layers[name] = layer
        self.values[name] = result + moved
        reference = self._run(node, x, weight, bias)
        noise = result - reference
        self._alone[name] = decibels(reference, noise - noise.mean(axes, keepdims=True))

    def _run(self, node: onnx.NodeProto, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The layer's result [N, O, ...] for an input x."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(["x", "weight", "bias"])
        copy.output[0] = f"{node.output[0]}/rounded"
        (result,) = run_node(self.values.runner, copy, [x, weight, bias], [True, False, False])
        return result


class LayerRounding:
    """The steps that a layer's weights may have, and the codes in them."""

    def __init__(
        self, network: FloatNetwork, placement: Placement, quantizers: Mapping[str, Quantizer], node: onnx.NodeProto
    ):
        name = node.output[0]
        self.node = node
        self.largest_bias = float(np.abs(network.bias(node)).max())
        self.bits = placement.weight_bits[name]
        self.x_scale = quantizers[placement.owner[node.input[0]]].scale
        self.out_scale, self.divisor = None, 1
        target = _where_rounded(network, placement, name)
        if target in placement.owner:
            self.out_scale = quantizers[placement.owner[target]].scale
        adds = [result for result, operand in placement.open_sums.items() if operand == name]
        if adds:
            add = network.producers[adds[0]]
            skip = next((n for n in add.input if n != name), name)
            self.divisor, _ = residual_ratio(quantizers[placement.owner[skip]].scale, self.out_scale or 1.0)

    def settle(self, step: np.ndarray) -> np.ndarray:
        """Returns float64 [O], exact in float32: the steps next to float64 [O] that may be used."""
        if self.out_scale is None:
            least = self.largest_bias / (self.x_scale * MOST_UNITS)  # where inputs are next to nothing
            return np.full(len(step), max(step[0], least), np.float32).astype(np.float64)
        return settled_steps(step, self.x_scale, self.out_scale, self.divisor).astype(np.float64)

    def nearest(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns codes int64 [O, ...] and float32 [O] steps of the smallest squared error."""
        if self.out_scale is None:
            step = np.full(len(weight), common_weight_step(weight, self.bits))
        else:
            step = weight_steps(weight, self.bits)
        step = self.settle(step)
        return weight_codes(weight, step, self.bits), step.astype(np.float32)

    def learned(self, weight: np.ndarray, x: np.ndarray, floats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns codes int64 [O, ...] and float32 [O] steps; x, floats: the layer's input in both networks."""
        groups = objectives(weight, covariances(self.node, weight, x, floats))
        rows = len(weight) // len(groups)
        codes, steps = self.nearest(weight)
        results = []
        for g, objective in enumerate(groups):
            own = slice(g * rows, (g + 1) * rows)
            nearest = objective.rounded(codes[own].reshape(rows, -1), steps[own].astype(np.float64))
            results.append(learned_codes(objective, nearest, self.bits, self.settle))
        codes = np.concatenate([r.codes for r in results]).reshape(weight.shape)
        return codes, np.concatenate([r.step for r in results]).astype(np.float32)

    def unit(self, step: np.ndarray) -> np.ndarray:
        """Returns float64 [O]: what one unit of the sum, and of the bias, is worth."""
        unit = np.float64(self.x_scale) * step.astype(np.float64)
        if self.out_scale is None:
            return unit
        left = requant_from_ratio(conv_ratio(self.x_scale, step, self.out_scale), CONV_MIN_SHIFT).left
        return unit / np.exp2(left)


def bias_units(bias: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Returns int64 [O], a bias in units float64 [O]; larger ones than sums can be saturate the output either way."""
    return np.clip(np.rint(bias / unit), -MOST_UNITS, MOST_UNITS).astype(np.int64)


def _where_rounded(network: FloatNetwork, placement: Placement, name: str) -> str:
    """The tensor at which a layer's sums are quantized, clamps and an Add behind it; logits: the name itself."""
    while name not in placement.owner:
        user = network.only_user(name)
        if user is None or user.op_type not in ("Relu", "Clip", "Add"):
            return name
        name = user.output[0]
    return name


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    """Returns the power of a signal [...] over that of its noise, in dB; 200 where there is none."""
    powers = [float(np.square(x, dtype=np.float64).sum()) for x in (signal, noise)]
    if min(powers) == 0:
        return 200.0 if powers[1] == 0 else -200.0
    return 10 * float(np.log10(powers[0] / powers[1]))
