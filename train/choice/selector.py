"""Trains the selector: predicted accuracy of each variant from quality features, rounded to fixed point and checked.

Which kind of quality a picture is of is learned from the kinds alone, which are known without error; how well each
variant does on a kind is a mean over all its pictures. So a variant that is right for one picture more in a hundred of
a kind is found among tens of thousands, where a network that predicts right and wrong itself sees but the pictures'
difficulties. Nothing here believes that poor pictures need more bits: that too is left to the means.
"""

import numpy as np
import torch

from runtime.choice.quality import NAMES
from runtime.choice.selector import GROUP_SHIFT, NEVER, OCTAVE, ONE, Z_ONE, Selector, decide, standardize
from train.choice.escalation import rising

HIDDEN = 32
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 1500, 1024, 1e-2, 1e-4
# With CIFAR-10's families, 95 % let two thirds of unseen pixelation fall back and 99 % only a quarter; a picture that
# falls back without need loses little, one of an unseen kind that does not can lose much.
INSIDE = 0.95
RIDGE = 0.01  # added to each group's covariance: no direction is known better than to a tenth of a deviation
LEAST_DEVIATION = 4.0  # of a feature, in its units: what never varies in training must not decide alone
WEIGHT_BITS, HIDDEN_BITS = 12, 14  # of fraction
QUANTILES = 33  # lambdas that budgets are measured at, about
TOLERANCE = 1 / 256  # of accuracy, between fixed point and float


def train_selector(
    features: np.ndarray,
    correct: np.ndarray,
    groups: np.ndarray,
    costs,
    seed: int,
    *,
    shared: np.ndarray,
    by_quality: bool = True,
    inside: float | np.ndarray = INSIDE,
) -> dict:
    """The selector as JSON (`runtime.choice.selector.Selector.to_dict`), learned from pictures the variants did not
    train on.

    features: int32 [M, D] of runtime.choice.quality; correct: 0 or 1, [M, V], whether variant v got picture m right;
    groups: int64 [M], the kind of quality (family) a picture is of; costs: float [V] relative to W8A8; shared: bool
    [V], variants that a picture of an unseen kind may get; by_quality: False for predictions that are the same for
    every picture; inside: share of these pictures near enough to a group not to fall back, of all variants or each
    [V]. Raises ValueError for unfit arguments.
    """
    costs, shared = np.asarray(costs, np.float64), np.asarray(shared)
    _check(features, correct, groups, costs, shared)
    z_integers = _standardization(features)
    z = standardize(features, **z_integers)
    mean = correct.mean(0, dtype=np.float64)
    accuracy = np.array([correct[groups == g].mean(0) if by_quality else mean for g in np.unique(groups)])
    weights = fit(z / Z_ONE, groups, seed, STEPS if by_quality else 0)
    parts = {
        **z_integers,
        **_fixed_point(*weights),
        **_groups(z, groups),
        "group_accuracy": _rint(accuracy * ONE),
        "fallback": np.where(shared, _rint(mean * ONE), NEVER),
        "costs": _rint(costs * ONE),
    }
    # No picture is outside yet: this gives the predictions to check and the distances to set the threshold by.
    selector = Selector(**parts, threshold=np.full(len(costs), 1 << 62))
    error = np.abs(selector.predict(features) / ONE - likelihood(z / Z_ONE, weights) @ accuracy).max()
    if error > TOLERANCE:
        raise ValueError(
            f"the selector's fixed point is off by {error:.4f} of accuracy (at most {TOLERANCE:.4f}); "
            f"weights up to {np.abs(weights[2]).max():.1f}: give it more pictures"
        )
    threshold = within(np.sort(selector.distance2(features)), np.broadcast_to(inside, costs.shape))
    return Selector(**parts, threshold=np.maximum(threshold, 0)).to_dict()


def within(distances: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """int64 [V]: below which of int64 [M], rising, each share of them lies; -1 for a share of 0."""
    return np.where(shares > 0, np.quantile(distances, shares, method="higher"), -1).astype(np.int64)


def fit(z: np.ndarray, groups: np.ndarray, seed: int, steps: int = STEPS) -> tuple[np.ndarray, ...]:
    """A network D -> HIDDEN -> G for the logits of each group, of standardized features; float64 weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    kinds, y = np.unique(groups, return_inverse=True)
    x, y, d, g = torch.as_tensor(z, dtype=torch.float32), torch.as_tensor(y), z.shape[1], len(kinds)
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
    return tuple(w.detach().numpy().astype(np.float64) for w in weights)


def likelihood(z: np.ndarray, weights) -> np.ndarray:
    """Of each group, float64 [M, G], by the network that `fit` returned."""
    logits = np.maximum(z @ weights[0].T + weights[1], 0) @ weights[2].T + weights[3]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def budget_table(selector: Selector | dict, features: np.ndarray, correct: np.ndarray, costs) -> list[dict]:
    """What each lambda gives: [{"budget": mean cost, "lambda", "accuracy"}, ...] by rising budget and accuracy.

    It starts with the cheapest variant for every picture and ends with the most accurate lambda; entries that cost
    more and get less right are left out.
    """
    selector = selector if isinstance(selector, Selector) else Selector.from_dict(selector)
    costs, accuracy = np.asarray(costs, np.float64), selector.predict(features)
    rows, entries = np.arange(len(features)), []
    for lam in lambdas_of(accuracy, selector.costs):
        chosen = decide(accuracy, selector.costs, lam)
        budget, right = float(costs[chosen].mean()), float(correct[rows, chosen].mean())
        entries.append({"budget": budget, "lambda": lam, "accuracy": right})
    return rising(entries)


def lambdas_of(accuracy: np.ndarray, costs: np.ndarray) -> list[float]:
    """0, quantiles of the lambdas at which some picture changes its variant, and one at which all take the cheapest.

    accuracy int64 [M, K] and costs int64 [K] in 1/65536.
    """
    slopes = [np.zeros(1)]
    for dear in range(len(costs)):
        for cheap in range(len(costs)):
            if costs[dear] > costs[cheap]:
                slope = (accuracy[:, dear] - accuracy[:, cheap]) / (costs[dear] - costs[cheap])
                slopes.append(slope[(slope > 0) & (accuracy[:, cheap] != NEVER)])
    slopes = np.concatenate(slopes)
    return sorted(
        {float(np.ceil(s * ONE) / ONE) for s in np.quantile(slopes, np.linspace(0, 1, QUANTILES))}
        | {0.0, float(np.ceil(slopes.max() * ONE + 1) / ONE)}
    )


def _check(features, correct, groups, costs, shared) -> None:
    m = len(features)
    if features.dtype != np.int32 or features.shape != (m, len(NAMES)) or m < 2:
        raise ValueError(f"expected features int32 [M >= 2, {len(NAMES)}], got {features.dtype} {list(features.shape)}")
    if correct.shape != (m, len(costs)) or not np.isin(correct, (0, 1)).all():
        raise ValueError(f"expected correct 0 or 1 [{m}, {len(costs)}], got {correct.dtype} {list(correct.shape)}")
    if groups.shape != (m,) or not (np.isfinite(costs).all() and (costs >= 0).all()):
        raise ValueError(f"expected groups [{m}] and costs >= 0, got {list(groups.shape)} and {costs}")
    if shared.shape != costs.shape or shared.dtype != bool or not shared.any():
        raise ValueError(
            f"expected shared bool [{len(costs)}], at least one true: variants for pictures of unseen "
            f"kinds; got {shared.tolist()}"
        )


def _rint(x) -> np.ndarray:
    return np.rint(x).astype(np.int64)


def _standardization(features: np.ndarray) -> dict[str, np.ndarray]:
    ratio = Z_ONE / np.maximum(features.std(0, dtype=np.float64), LEAST_DEVIATION)
    shift = np.maximum(0, 14 - np.floor(np.log2(ratio)).astype(np.int64))
    offset = _rint(features.mean(0, dtype=np.float64))
    return {"offset": offset, "multiplier": _rint(ratio * np.exp2(shift)), "shift": shift}


def _fixed_point(hidden_weight, hidden_bias, output_weight, output_bias) -> dict[str, np.ndarray]:
    hidden_shift = Z_ONE.bit_length() - 1 + WEIGHT_BITS - HIDDEN_BITS
    hidden_unit, output_unit = Z_ONE << WEIGHT_BITS, OCTAVE / np.log(2) * (1 << WEIGHT_BITS)
    output_shift = WEIGHT_BITS + HIDDEN_BITS
    return {  # biases carry the half that turns the shift's floor into rounding
        "hidden_weight": _rint(hidden_weight * (1 << WEIGHT_BITS)),
        "hidden_bias": _rint(hidden_bias * hidden_unit) + (1 << (hidden_shift - 1)),
        "hidden_shift": np.array(hidden_shift, np.int64),
        "output_weight": _rint(output_weight * output_unit),
        "output_bias": _rint(output_bias * output_unit * (1 << HIDDEN_BITS)) + (1 << (output_shift - 1)),
        "output_shift": np.array(output_shift, np.int64),
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
