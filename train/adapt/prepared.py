"""A float network made ready for integers of some widths: what all kinds of quality have in common."""

from dataclasses import dataclass

import numpy as np
import onnx

from compile.calibrate.calibrate import activation_quantizers, channel_ranges
from compile.calibrate.equalize import equalized
from compile.calibrate.executor import NodeRunner
from compile.calibrate.front import picture_values, with_picture, zero_points
from compile.calibrate.network import FloatNetwork
from compile.calibrate.placement import Placement, place, with_copies
from compile.calibrate.pooled_logits import with_summed_logits
from compile.calibrate.quantize import Quantization, QuantizedLayer
from compile.calibrate.settings import Widths
from compile.calibrate.settle import settled
from compile.calibrate.steps import Quantizer
from compile.calibrate.writer import to_onnx
from compile.qdq.normalization import Normalization


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network with places and scales for its quantizers, which every variant of these widths has."""

    network: FloatNetwork
    normalization: Normalization
    placement: Placement
    quantizers: dict[str, Quantizer]
    runner: NodeRunner

    @classmethod
    def of(
        cls, network: FloatNetwork, normalization: Normalization, widths: Widths, pictures: np.ndarray
    ) -> "Prepared":
        """Equalizes a network and measures its scales on pictures uint8 [N, H, W, 3] of every quality."""
        runner = NodeRunner()
        values = picture_values(pictures, normalization)
        network = with_picture(network, normalization)
        network = with_summed_logits(equalized(network, channel_ranges(network, values, runner)))
        network = with_copies(network, widths)
        placement = place(network, widths)
        wanted = activation_quantizers(network, placement, values, runner)
        return cls(network, normalization, placement, settled(network, placement, wanted), runner)

    def values(self, pictures: np.ndarray) -> np.ndarray:
        """Returns float32 [N, 3, H, W] of pictures uint8 [N, H, W, 3]."""
        return picture_values(pictures, self.normalization)

    def model(self, layers: dict[str, QuantizedLayer], name: str) -> onnx.ModelProto:
        """Returns the QDQ file of the network with these layers, by the tensor that each computes."""
        quantization = Quantization(self.quantizers, layers, ())
        model = to_onnx(self.network, self.placement, quantization, zero_points(self.normalization), {})
        model.graph.name = name
        return model
