"""Makes a QDQ file of a float ONNX classifier and pictures without labels: `python -m compile.build ... --calibrate`.

read        the float file, simplified                                   simplify.py
front       the uint8 picture and its normalization                      front.py
equalize    ranges of channels between layers                            equalize.py
place       which tensors get quantizers, which share them               placement.py
steps       scales of activations, from histograms                       steps.py, settle.py
quantize    weights and biases, layer by layer                           quantize.py, rounding.py
write       the QDQ file                                                 writer.py
compare     with the float file, on other pictures                       agreement.py, report.py
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.equalize import equalized
from compile.calibrate.executor import NodeRunner, run_all
from compile.calibrate.front import PICTURE_SCALE, picture_values, with_picture, zero_points
from compile.calibrate.network import FloatNetwork
from compile.calibrate.placement import Placement, place, with_copies
from compile.calibrate.pooled_logits import with_summed_logits
from compile.calibrate.quantize import Quantization, Tell, quantize
from compile.calibrate.settings import CalibrationSettings
from compile.calibrate.settle import settled
from compile.calibrate.steps import Histogram, Quantizer, activation_quantizer
from compile.calibrate.writer import to_onnx
from compile.qdq.normalization import Normalization


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The quantized network, and what it was made of."""

    network: FloatNetwork
    placement: Placement
    quantization: Quantization
    normalization: Normalization

    def to_onnx(self, metadata: Mapping[str, object]) -> onnx.ModelProto:
        """Returns the QDQ model with metadata by name."""
        zeros = zero_points(self.normalization)
        return to_onnx(self.network, self.placement, self.quantization, zeros, metadata)


def calibrate(
    network: FloatNetwork, pictures: np.ndarray, normalization: Normalization, settings: CalibrationSettings, tell: Tell
) -> Calibrated:
    """Returns a float network in integers; pictures uint8 [N, H, W, 3], as the network will get them."""
    values = picture_values(pictures, normalization)
    runner = NodeRunner()
    network = with_picture(network, normalization)
    network = with_summed_logits(equalized(network, channel_ranges(network, values, runner)))
    network = with_copies(network, settings.widths)
    placement = place(network, settings.widths)
    wanted = activation_quantizers(network, placement, values, runner)
    quantizers = settled(network, placement, wanted)
    quantization = quantize(network, placement, quantizers, values, settings.rounding == "learned", tell)
    return Calibrated(network, placement, quantization, normalization)


def channel_ranges(network: FloatNetwork, values: np.ndarray, runner: NodeRunner) -> dict[str, np.ndarray]:
    """Returns by tensor the largest magnitude of each channel, float64 [C], over the values of pictures."""
    ranges = {}
    for node, tensors in run_all(network, values, runner):
        for name in node.output:
            x = tensors[name]
            ranges[name] = np.abs(x).max((0, *range(2, x.ndim))).astype(np.float64)
    return ranges


def activation_quantizers(
    network: FloatNetwork, placement: Placement, values: np.ndarray, runner: NodeRunner
) -> dict[str, Quantizer]:
    """Returns by owner the quantizer of the smallest squared error over all that share it, for values [N, 3, H, W]."""
    histograms: dict[str, list[Histogram]] = {}
    for node, tensors in run_all(network, values, runner):
        for name in node.output:
            if name in placement.written:
                histograms.setdefault(placement.owner[name], []).append(Histogram.from_array(tensors[name]))
    quantizers = {network.picture: Quantizer(PICTURE_SCALE, 0, 8)}
    for owner, parts in histograms.items():
        quantizers[owner] = activation_quantizer(Histogram.joined(parts), placement.bits[owner])
    return quantizers
