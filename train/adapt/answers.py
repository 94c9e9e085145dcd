"""What the float network itself answers, which stands for the truth where pictures have no labels."""

import numpy as np

from compile.calibrate.executor import NodeRunner, run_all
from compile.calibrate.front import picture_values, with_picture
from compile.calibrate.network import FloatNetwork
from compile.qdq.normalization import Normalization

SLICE = 64  # pictures at a time, whose tensors are held together


def float_answers(network: FloatNetwork, normalization: Normalization, pictures: np.ndarray) -> np.ndarray:
    """Returns the class of each picture, int64 [N], by a float network, for pictures uint8 [N, H, W, 3]."""
    runner = NodeRunner()
    network = with_picture(network, normalization)
    answers = []
    for begin in range(0, len(pictures), SLICE):
        values = picture_values(pictures[begin : begin + SLICE], normalization)
        logits = [t[node.output[0]] for node, t in run_all(network, values, runner) if network.output in node.output]
        answers.append(logits[0].reshape(len(values), -1).argmax(1))
    return np.concatenate(answers)
