"""A mean over the whole map at the end of a network becomes a layer, so that its result stays an int32 sum."""

from dataclasses import replace

import numpy as np

from compile.calibrate.network import FloatNetwork, make_node
from compile.calibrate.placement import WITHOUT_QUANTIZER


def with_summed_logits(network: FloatNetwork) -> FloatNetwork:
    """Returns the network with the last GlobalAveragePool as a depthwise convolution of equal weights.

    Logits that are means of codes (SqueezeNet) would be rounded to 8 bits as a pool; as the sums of a convolution they
    keep all of their precision. Other networks are returned as they are.
    """
    name = network.output
    while name in network.producers and network.producers[name].op_type in WITHOUT_QUANTIZER:
        name = network.producers[name].input[0]
    pool = network.producers.get(name)
    if pool is None or pool.op_type != "GlobalAveragePool":
        return network
    _, channels, height, width = network.shapes[pool.input[0]]
    weight = np.full((channels, 1, height, width), 1 / (height * width), np.float32)
    constant = f"{name}/weight"
    conv = make_node("Conv", [pool.input[0], constant], name, kernel_shape=[height, width], group=channels)
    conv.name = pool.name
    nodes = [conv if node is pool else node for node in network.nodes]
    return replace(network, nodes=tuple(nodes), constants={**network.constants, constant: weight})
