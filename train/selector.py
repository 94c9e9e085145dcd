"""Trains the selector: predicted accuracy of each variant from quality features, rounded to fixed point and checked.

Nothing here believes that poor pictures need more bits: which variant suits which quality, and whether any does better
than another, is learned from which pictures each variant got right.
"""

import numpy as np
import torch

from runtime.quality import NAMES
from runtime.selector import GROUP_SHIFT, ONE, Z_ONE, Selector, decide, lambda_for, standardize

__all__ = ["budget_table", "fit", "lambda_for", "train_selector"]

HIDDEN = 16
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1500, 2048, 1e-2, 1e-4
# With CIFAR-10's families, 95 % let two thirds of unseen pixelation fall back and 99 % only a quarter; a picture that
# falls back without need loses little, one of an unseen kind that does not can lose much.
INSIDE = 0.95
RIDGE = 0.01  # added to each group's covariance: no direction is known better than to a tenth of a deviation
LEAST_DEVIATION = 4.0  # of a feature, in its units: what never varies in training must not decide alone
WEIGHT_BITS, HIDDEN_BITS = 12, 14  # of fraction
TOLERANCE = 1 / 256  # of accuracy, between fixed point and float


def train_selector(features: np.ndarray, correct: np.ndarray, groups: np.ndarray, costs, seed: int,
                   inside: float = INSIDE) -> dict:
    """The selector as JSON (`runtime.selector.Selector.to_dict`), learned from pictures the variants did not train on.

    features: int32 [M, D] of runtime.quality; correct: 0 or 1, uint8 [M, V], whether variant v got picture m right;
    groups: int64 [M], the kind of quality (family) a picture is of; costs: float [V] relative to W8A8;
    inside: share of these pictures near enough to a group not to fall back. Raises ValueError for unfit arguments.
    """
    costs = np.asarray(costs, np.float64)
    _check(features, correct, groups, costs)
    z_integers = _standardization(features)
    z = standardize(features, **z_integers)
    hidden_weight, hidden_bias, output_weight, output_bias = fit(z / Z_ONE, correct, seed)
    fixed = _fixed_point(hidden_weight, hidden_bias, output_weight, output_bias)
    parts = {**z_integers, **fixed, **_groups(z, groups), "fallback": _rint(correct.mean(0, dtype=np.float64) * ONE),
             "costs": _rint(costs * ONE)}
    # No picture is outside yet: this gives the predictions to check and the distances to set the threshold by.
    selector = Selector(**parts, threshold=np.array(1 << 62))
    expected = np.maximum(z / Z_ONE @ hidden_weight.T + hidden_bias, 0) @ output_weight.T + output_bias
    error = np.abs(selector.predict(features) / ONE - expected).max()
    if error > TOLERANCE:
        raise ValueError(f"the selector's fixed point is off by {error:.4f} of accuracy (at most {TOLERANCE:.4f}); "
                         f"weights up to {np.abs(output_weight).max():.1f}: give it more pictures")
    threshold = np.quantile(selector.distance2(features), inside, method="higher")
    return Selector(**parts, threshold=np.array(threshold, np.int64)).to_dict()


def fit(z: np.ndarray, correct: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A network D -> HIDDEN -> V by least squares on standardized features; its float64 weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.as_tensor(z, dtype=torch.float32), torch.as_tensor(correct, dtype=torch.float32)
    d, v = x.shape[1], y.shape[1]
    weights = [torch.randn(HIDDEN, d, generator=generator) * (2 / d) ** 0.5, torch.zeros(HIDDEN),
               torch.randn(v, HIDDEN, generator=generator) * 0.01, y.mean(0)]
    for w in weights:
        w.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        hidden = torch.relu(torch.addmm(weights[1], x[rows], weights[0].T))
        loss = torch.nn.functional.mse_loss(torch.addmm(weights[3], hidden, weights[2].T), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return tuple(w.detach().numpy().astype(np.float64) for w in weights)


def budget_table(selector: Selector | dict, features: np.ndarray, correct: np.ndarray, costs,
                 points: int = 33) -> list[dict]:
    """What each lambda gives: [{"budget": mean cost, "lambda", "accuracy"}, ...] by rising budget and accuracy.

    It starts with the cheapest variant for every picture and ends with the most accurate lambda; entries that cost
    more and get less right are left out.
    """
    selector = selector if isinstance(selector, Selector) else Selector.from_dict(selector)
    costs, accuracy = np.asarray(costs, np.float64), selector.predict(features)
    rows, entries = np.arange(len(features)), []
    for lam in _lambdas(accuracy, selector.costs, points):
        chosen = decide(accuracy, selector.costs, lam)
        budget, right = float(costs[chosen].mean()), float(correct[rows, chosen].mean())
        entries.append({"budget": budget, "lambda": lam, "accuracy": right})
    entries.sort(key=lambda entry: (entry["budget"], -entry["accuracy"]))
    kept = entries[:1]
    for entry in entries[1:]:
        if entry["accuracy"] > kept[-1]["accuracy"]:
            kept.append(entry)
    return kept


def _lambdas(accuracy: np.ndarray, costs: np.ndarray, points: int) -> list[float]:
    """0, quantiles of the lambdas at which some picture changes its variant, and one at which all take the cheapest."""
    slopes = [np.zeros(1)]
    for dear in range(len(costs)):
        for cheap in range(len(costs)):
            if costs[dear] > costs[cheap]:
                slope = (accuracy[:, dear] - accuracy[:, cheap]) / (costs[dear] - costs[cheap])
                slopes.append(slope[slope > 0])
    slopes = np.concatenate(slopes)
    return sorted({float(np.ceil(s * ONE) / ONE) for s in np.quantile(slopes, np.linspace(0, 1, points))}
                  | {0.0, float(np.ceil(slopes.max() * ONE + 1) / ONE)})


def _check(features, correct, groups, costs) -> None:
    m = len(features)
    if features.dtype != np.int32 or features.shape != (m, len(NAMES)) or m < 2:
        raise ValueError(f"expected features int32 [M >= 2, {len(NAMES)}], got {features.dtype} {list(features.shape)}")
    if correct.shape != (m, len(costs)) or not np.isin(correct, (0, 1)).all():
        raise ValueError(f"expected correct 0 or 1 [{m}, {len(costs)}], got {correct.dtype} {list(correct.shape)}")
    if groups.shape != (m,) or not (np.isfinite(costs).all() and (costs >= 0).all()):
        raise ValueError(f"expected groups [{m}] and costs >= 0, got {list(groups.shape)} and {costs}")


def _rint(x) -> np.ndarray:
    return np.rint(x).astype(np.int64)


def _standardization(features: np.ndarray) -> dict[str, np.ndarray]:
    ratio = Z_ONE / np.maximum(features.std(0, dtype=np.float64), LEAST_DEVIATION)
    shift = np.maximum(0, 14 - np.floor(np.log2(ratio)).astype(np.int64))
    offset = _rint(features.mean(0, dtype=np.float64))
    return {"offset": offset, "multiplier": _rint(ratio * np.exp2(shift)), "shift": shift}


def _fixed_point(hidden_weight, hidden_bias, output_weight, output_bias) -> dict[str, np.ndarray]:
    hidden_shift = Z_ONE.bit_length() - 1 + WEIGHT_BITS - HIDDEN_BITS
    hidden_unit, output_unit = Z_ONE << WEIGHT_BITS, ONE << HIDDEN_BITS
    return {  # biases carry the half that turns the shift's floor into rounding
        "hidden_weight": _rint(hidden_weight * (1 << WEIGHT_BITS)),
        "hidden_bias": _rint(hidden_bias * hidden_unit) + (1 << (hidden_shift - 1)),
        "hidden_shift": np.array(hidden_shift, np.int64),
        "output_weight": _rint(output_weight * ONE),
        "output_bias": _rint(output_bias * output_unit) + (1 << (HIDDEN_BITS - 1)),
        "output_shift": np.array(HIDDEN_BITS, np.int64),
    }


def _groups(z: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """Whitening of each group: |(z - mean) @ weight|**2 is its squared Mahalanobis distance."""
    weights, offsets = [], []
    for group in np.unique(groups):
        members = z[groups == group]
        covariance = np.cov(members.T / Z_ONE, bias=True) + RIDGE * np.eye(z.shape[1])
        weights.append(_rint(np.linalg.cholesky(np.linalg.inv(covariance)) * (1 << GROUP_SHIFT)))
        offsets.append(_rint(members.mean(0, dtype=np.float64) @ weights[-1]))
    return {"group_weight": np.array(weights), "group_offset": np.array(offsets)}
