"""Trains the selector: predicted accuracy of each variant from quality features, rounded to fixed point and checked.

Which kind of quality a picture is of is learned from the kinds alone, which are known without error; how well each
variant does on a kind is a mean over all its pictures. So a variant that is right for one picture more in a hundred of
a kind is found among tens of thousands, where a network that predicts right and wrong itself sees but the pictures'
difficulties. Nothing here assumes that poor pictures need more bits: that too is left to the means.
"""

from dataclasses import dataclass

import numpy as np
import torch

from runtime.choice.selector import GROUP_SHIFT, NEVER, OCTAVE, ONE, Z_ONE, Selector, standardize
from train.choice.validation_set import ValidationSet

HIDDEN = 32
STEPS = 1500
BATCH = 1024
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 1e-4
# With CIFAR-10's families, 95 % let two thirds of unseen pixelation fall back and 99 % only a quarter; a picture that
# falls back without need loses little, one of an unseen kind that does not can lose much.
INSIDE = 0.95
RIDGE = 0.01  # added to each kind's covariance: no direction is known better than to a tenth of a deviation
LEAST_DEVIATION = 4.0  # of a feature, in its units: what never varies in training must not decide alone
WEIGHT_BITS, HIDDEN_BITS = 12, 14  # of fraction
TOLERANCE = 1 / 256  # of accuracy, between fixed point and float
UNLIMITED = 1 << 62  # threshold that no squared distance passes


def train_selector(
    validation: ValidationSet, seed: int, *, by_quality: bool = True, inside: float | np.ndarray = INSIDE
) -> Selector:
    """Learns to predict each variant's accuracy from quality features. Raises ValueError for unfit data.

    by_quality: False for predictions that are the same for every picture; inside: share (0..1) of these pictures near
    enough to a known kind not to fall back, of all variants or each [V].
    """
    validation.require_sound()
    features = validation.features
    correct = validation.correct
    kinds = validation.kinds
    standardization = _standardization(features)
    z = standardize(features, **standardization)
    mean = correct.mean(0, dtype=np.float64)
    accuracy = np.array([correct[kinds == k].mean(0) if by_quality else mean for k in np.unique(kinds)])
    classifier = fit_classifier(z / Z_ONE, kinds, seed, STEPS if by_quality else 0)
    parts = {
        **standardization,
        **classifier.fixed_point(),
        **_whitening(z, kinds),
        "group_accuracy": _rint(accuracy * ONE),
        "fallback": np.where(validation.shared, _rint(mean * ONE), NEVER),
        "costs": _rint(validation.costs * ONE),
    }
    # No picture is outside yet: this gives the predictions to check and the distances to set the threshold by.
    selector = Selector(**parts, threshold=np.full(len(validation.costs), UNLIMITED))
    error = np.abs(selector.predict(features) / ONE - classifier.likelihood(z / Z_ONE) @ accuracy).max()
    if error > TOLERANCE:
        raise ValueError(
            f"expected a selector whose fixed point is off by at most {TOLERANCE:.4f} of accuracy, got {error:.4f} "
            f"with weights up to {np.abs(classifier.output_weight).max():.1f}; give it more pictures"
        )
    shares = np.broadcast_to(inside, validation.costs.shape)
    threshold = distance_within(np.sort(selector.distance2(features)), shares)
    return Selector(**parts, threshold=np.maximum(threshold, 0))


def distance_within(distances: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns the distance below which each share of the pictures lies, int64 [V]; -1 for a share of 0.

    distances: int64 [M], rising; shares: float [V] in 0..1.
    """
    return np.where(shares > 0, np.quantile(distances, shares, method="higher"), -1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class KindClassifier:
    """A network D -> H -> G that tells G kinds of quality from D standardized features; float64.

    hidden_weight: [H, D]; hidden_bias: [H]; output_weight: [G, H]; output_bias: [G].
    """

    hidden_weight: np.ndarray
    hidden_bias: np.ndarray
    output_weight: np.ndarray
    output_bias: np.ndarray

    def likelihood(self, z: np.ndarray) -> np.ndarray:
        """Returns how likely each kind is, float64 [M, G], for standardized features [M, D]."""
        hidden = np.maximum(z @ self.hidden_weight.T + self.hidden_bias, 0)
        logits = hidden @ self.output_weight.T + self.output_bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def fixed_point(self) -> dict[str, np.ndarray]:
        """Returns the selector's integers for this network, of shapes [H, D], [H], [], [G, H], [G] and []."""
        hidden_shift = Z_ONE.bit_length() - 1 + WEIGHT_BITS - HIDDEN_BITS
        output_shift = WEIGHT_BITS + HIDDEN_BITS
        hidden_unit = Z_ONE << WEIGHT_BITS
        output_unit = OCTAVE / np.log(2) * (1 << WEIGHT_BITS)
        return {  # biases carry the half that turns the shift's floor into rounding
            "hidden_weight": _rint(self.hidden_weight * (1 << WEIGHT_BITS)),
            "hidden_bias": _rint(self.hidden_bias * hidden_unit) + (1 << (hidden_shift - 1)),
            "hidden_shift": np.array(hidden_shift, np.int64),
            "output_weight": _rint(self.output_weight * output_unit),
            "output_bias": _rint(self.output_bias * output_unit * (1 << HIDDEN_BITS)) + (1 << (output_shift - 1)),
            "output_shift": np.array(output_shift, np.int64),
        }


def fit_classifier(z: np.ndarray, kinds: np.ndarray, seed: int, steps: int) -> KindClassifier:
    """Trains a classifier of kinds int64 [M] on standardized features float64 [M, D]; with 0 steps it is random."""
    generator = torch.Generator().manual_seed(seed)
    names, numbers = np.unique(kinds, return_inverse=True)
    x = torch.as_tensor(z, dtype=torch.float32)
    y = torch.as_tensor(numbers)
    d = z.shape[1]
    g = len(names)
    weights = [
        torch.randn(HIDDEN, d, generator=generator) * (2 / d) ** 0.5,
        torch.zeros(HIDDEN),
        torch.randn(g, HIDDEN, generator=generator) * 0.01,
        torch.zeros(g),
    ]
    for w in weights:
        w.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in range(steps if g > 1 else 0):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        hidden = torch.relu(torch.addmm(weights[1], x[rows], weights[0].T))
        loss = torch.nn.functional.cross_entropy(torch.addmm(weights[3], hidden, weights[2].T), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return KindClassifier(*(w.detach().numpy().astype(np.float64) for w in weights))


def _rint(x: np.ndarray) -> np.ndarray:
    return np.rint(x).astype(np.int64)


def _standardization(features: np.ndarray) -> dict[str, np.ndarray]:
    """Offset, multiplier and shift, int64 [D] each, that make standardized features of the integer ones."""
    ratio = Z_ONE / np.maximum(features.std(0, dtype=np.float64), LEAST_DEVIATION)
    shift = np.maximum(0, 14 - np.floor(np.log2(ratio)).astype(np.int64))
    offset = _rint(features.mean(0, dtype=np.float64))
    return {"offset": offset, "multiplier": _rint(ratio * np.exp2(shift)), "shift": shift}


def _whitening(z: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Weights [G, D, D] and offsets [G, D]: |z @ weight - offset|**2 is a kind's squared Mahalanobis distance."""
    weights = []
    offsets = []
    for kind in np.unique(kinds):
        members = z[kinds == kind]
        covariance = np.cov(members.T / Z_ONE, bias=True) + RIDGE * np.eye(z.shape[1])
        weights.append(_rint(np.linalg.cholesky(np.linalg.inv(covariance)) * (1 << GROUP_SHIFT)))
        offsets.append(_rint(members.mean(0, dtype=np.float64) @ weights[-1]))
    return {"group_weight": np.array(weights), "group_offset": np.array(offsets)}
