"""How scores of classes and the answer follow from integer logits, as the network was made for."""

from typing import Literal, get_args

import numpy as np

# softmax: a logit a class, of which one is right. sigmoid: a logit a class, each alone. binary: one logit for two
# classes, positive where it is the second.
ScoreKind = Literal["softmax", "sigmoid", "binary"]
KINDS: tuple[ScoreKind, ...] = get_args(ScoreKind)


def count_logits(kind: ScoreKind, classes: int) -> int:
    """Returns how many logits a network gives for that many classes."""
    return 1 if kind == "binary" else classes


def answer(logits: np.ndarray, kind: ScoreKind) -> int:
    """Returns the index of the class that integer logits [count_logits] stand for; the first of equals."""
    return int(logits[0] > 0) if kind == "binary" else int(logits.argmax())


def make_scores(logits: np.ndarray, scale: float, kind: ScoreKind) -> np.ndarray:
    """Returns float32 [classes], each in 0..1, of integer logits [count_logits] whose unit is worth `scale`."""
    if kind == "softmax":
        return softmax(logits, scale)
    right = sigmoid(logits * np.float64(scale))
    scores = np.array([1 - right[0], right[0]]) if kind == "binary" else right
    return scores.astype(np.float32)


def softmax(logits: np.ndarray, scale: float) -> np.ndarray:
    """Returns float32 [classes], which sums to 1, of integer logits [classes] whose unit is worth `scale`."""
    powers = np.exp((logits - np.float64(logits.max())) * scale)
    scores: np.ndarray = powers / powers.sum()
    return scores.astype(np.float32)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Returns float64 [n], 1 / (1 + exp(-x)), of values [n] of any size."""
    powers = np.exp(-np.abs(values))
    result: np.ndarray = np.where(values >= 0, 1, powers) / (1 + powers)
    return result
