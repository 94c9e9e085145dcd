"""Walks through a network layer by layer, with clean pictures in floats and degraded ones in integers beside them.

What a layer sums of degraded pictures is fitted to what it sums of their clean twins, each on what the fitted layers
before it return. Only then is the next layer looked at, so that errors are taken up where they arise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from compile.calibrate.executor import Values, run_node
from compile.calibrate.network import LAYERS
from compile.calibrate.placement import is_mean
from compile.calibrate.quantize import LayerRounding, QuantizedLayer, bias_units
from train.adapt.moments import Moments, fit_gain
from train.adapt.prepared import Prepared
from train.adapt.ridge import Samples, fit_weights

Advance = Callable[[int], None]  # is called with how many layers were fitted


@dataclass(frozen=True, eq=False)
class Twins:
    """Pictures uint8 [M, H, W, 3] and the clean ones they were made of: their rows, int64 [M], among all clean ones.

    weights: how much each counts, float64 [M]; held: bool [M], whether it judges fits rather than makes them.
    """

    pictures: np.ndarray
    origin: np.ndarray
    weights: np.ndarray
    held: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def of(self, rows: np.ndarray) -> "Twins":
        """Returns some of them; rows: bool [M]."""
        return Twins(self.pictures[rows], self.origin[rows], self.weights[rows], self.held[rows])


@dataclass(frozen=True, eq=False)
class Plan:
    """What a variant may change of a network, and by which twins: weights, a gain for each channel; offsets always.

    base: weights by the tensor that a layer computes, in place of the network's own.
    """

    twins: Twins
    gains: bool = True
    weights: bool = False
    base: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A variant's layers by the tensor that each computes, and the weights float32 [O, ...] that they are rounded of.

    Weights are there only where they were fitted.
    """

    layers: dict[str, QuantizedLayer]
    weights: dict[str, np.ndarray]


def fit(prepared: Prepared, clean: np.ndarray, plans: Sequence[Plan], advance: Advance) -> list[Fitted]:
    """Returns a variant for each plan; clean: uint8 [N, H, W, 3], the pictures that twins were made of."""
    network = prepared.network
    floats = Values(network, prepared.values(clean), prepared.runner)
    students = [_Student(prepared, plan) for plan in plans]
    for node in network.nodes:
        floats.compute(node)
        for student in students:
            student.step(node, floats)
            if node.op_type in LAYERS:
                advance(1)
        floats.release(node)
    return [Fitted(student.layers, student.weights) for student in students]


class _Student:
    """One variant on its way through the nodes."""

    def __init__(self, prepared: Prepared, plan: Plan):
        self.prepared = prepared
        self.plan = plan
        self.values = Values(prepared.network, prepared.values(plan.twins.pictures), prepared.runner)
        self.layers: dict[str, QuantizedLayer] = {}
        self.weights: dict[str, np.ndarray] = {}

    def step(self, node: onnx.NodeProto, floats: Values) -> None:
        """Computes what a node gives in integers, after it has been fitted where it is a layer."""
        if node.op_type in LAYERS:
            self._fit(node, floats)
        else:
            self.values.compute(node)
        for name in node.output:
            if name in self.prepared.placement.written:
                quantizer = self.prepared.quantizers[self.prepared.placement.owner[name]]
                self.values[name] = quantizer.rounded(self.values[name])
        self.values.release(node)

    def _fit(self, node: onnx.NodeProto, floats: Values) -> None:
        name = node.output[0]
        twins = self.plan.twins
        target = self._target(name, floats)
        weight = self._weight(node, target)
        rounding = LayerRounding(self.prepared.network, self.prepared.placement, self.prepared.quantizers, node)
        codes, step = rounding.nearest(weight)
        gains = self.plan.gains and rounding.out_scale is not None
        own_step = step
        rounded = (codes * step.reshape(-1, *[1] * (codes.ndim - 1))).astype(np.float32)
        sums = self._run(node, rounded)
        whole = Moments.of_pairs(sums, target, twins.weights)
        if gains:
            made, held = (Moments.of_pairs(sums[r], target[r], twins.weights[r]) for r in (~twins.held, twins.held))
            own_step = rounding.settle(step.astype(np.float64) * fit_gain(made, held)).astype(np.float32)
        gain = own_step.astype(np.float64) / step
        offset = whole.mean_y - gain * whole.mean_x
        unit = rounding.unit(own_step)
        layer = QuantizedLayer(codes, rounding.bits, own_step, bias_units(offset, unit), unit)
        self.layers[name] = layer
        shape = (-1, *[1] * (sums.ndim - 2))
        self.values[name] = sums * gain.astype(np.float32).reshape(shape) + layer.real_bias.reshape(shape)

    def _target(self, name: str, floats: Values) -> np.ndarray:
        """What the layer should return, [M, O, ...]: the clean twin's sum, less the error of what is added to it."""
        origin = self.plan.twins.origin
        target = floats[name][origin]
        network = self.prepared.network
        results = [total for total, operand in self.prepared.placement.open_sums.items() if operand == name]
        for other in (n for total in results for n in network.producers[total].input if n != name):
            if other in self.values and other in floats:
                target = target + (floats[other][origin] - self.values[other])
        return target

    def _weight(self, node: onnx.NodeProto, target: np.ndarray) -> np.ndarray:
        """The weights to round, float32 [O, ...]: fitted ones where the plan says so."""
        name = node.output[0]
        weight = self.plan.base.get(name, self.prepared.network.weight(node))
        if not self.plan.weights or is_mean(self.prepared.network, node):
            return weight
        samples = Samples(self.values[node.input[0]], target, self.plan.twins.weights)
        held = self.plan.twins.held
        self.weights[name] = fit_weights(node, weight, samples.of_pictures(~held), samples.of_pictures(held))
        return self.weights[name]

    def _run(self, node: onnx.NodeProto, weight: np.ndarray) -> np.ndarray:
        """The layer's sums [M, O, ...] with other weights, without a bias."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(["x", "weight", "bias"])
        copy.output[0] = f"{node.output[0]}/rounded"
        inputs = [self.values[node.input[0]], weight, np.zeros(len(weight), np.float32)]
        (result,) = run_node(self.values.runner, copy, inputs, [True, False, False])
        return result
